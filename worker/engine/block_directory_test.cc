// What peers find of the worker's blocks, and the checksums that are known of their layers.
#include "worker/engine/block_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <optional>

#include "kvstore/block/checksum.h"

namespace reprise::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint32_t kLayers = 3;
constexpr size_t kSegmentBytes = 20;

class BlockDirectoryTest : public testing::Test {
 protected:
  BlockDirectoryTest() { std::iota(pool_.begin(), pool_.end(), uint8_t{1}); }
  const uint8_t* Segment(PageId page, uint32_t layer) const {
    return pool_.data() + (static_cast<size_t>(page) * kLayers + layer) * kSegmentBytes;
  }
  uint32_t Part(PageId page, uint32_t layer) const {
    return Crc32cPart(Segment(page, layer), kSegmentBytes);
  }
  uint32_t Sum(PageId page, uint32_t layer) const {
    return kv::SegmentChecksum(id_, layer, kFirst, Segment(page, layer), kSegmentBytes);
  }

  static constexpr int64_t kFirst = 128;
  std::array<uint8_t, 2 * kLayers * kSegmentBytes> pool_;
  BlockDirectory directory_{{pool_.data(), kLayers* kSegmentBytes, kLayers, 2}, [](PageId) {}};
  const kv::BlockId id_ = kv::TailId({"r", {}}, 0, 0);
};

TEST_F(BlockDirectoryTest, LayersComeWithTheSumsOfTheirPlace) {
  directory_.List({id_, 1, kFirst, ListBlock::State::kPending});
  EXPECT_THAT(directory_.SetReady(id_, 1, Part(1, 0)), ElementsAre(Sum(1, 0)));
  EXPECT_THAT(directory_.SetReady(id_, 2, Part(1, 1)), ElementsAre(Sum(1, 0), Sum(1, 1)));
  const kv::SegmentSource::Block found = directory_.Find(id_);
  EXPECT_EQ(found.layers_ready, 2U);
  EXPECT_FALSE(found.summed);
  EXPECT_THAT(found.checksums, ElementsAre(Sum(1, 0), Sum(1, 1)));
  directory_.List({id_, 1, kFirst, ListBlock::State::kSealed});
  EXPECT_THAT(directory_.Find(id_).checksums, ElementsAre(Sum(1, 0), Sum(1, 1)));
}

TEST_F(BlockDirectoryTest, BehindALayerWithoutASumNoneIsKnown) {
  directory_.List({id_, 1, kFirst, ListBlock::State::kPending});
  EXPECT_THAT(directory_.SetReady(id_, 1, Part(1, 0)), ElementsAre(Sum(1, 0)));
  EXPECT_THAT(directory_.SetReady(id_, 2, std::nullopt), ElementsAre(Sum(1, 0)));
  EXPECT_THAT(directory_.SetReady(id_, 3, Part(1, 2)), ElementsAre(Sum(1, 0)));
}

// Where another page has the block its bytes are others' until they are summed.
TEST_F(BlockDirectoryTest, AnotherPageHasNoSums) {
  directory_.List({id_, 1, kFirst, ListBlock::State::kPending});
  EXPECT_THAT(directory_.SetReady(id_, 1, Part(1, 0)), ElementsAre(Sum(1, 0)));
  directory_.List({id_, 0, kFirst, ListBlock::State::kSealed});
  EXPECT_THAT(directory_.Find(id_).checksums, IsEmpty());
}

}  // namespace
}  // namespace reprise::worker
