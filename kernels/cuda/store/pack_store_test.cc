// What the device packs is what the KV store packs and expects. In a folder of its own:
// bench/gpu.sh, which runs the tests beside the kernels without the store's libraries, leaves it
// out.
#include "kernels/cuda/pack_test_util.h"
#include "kvstore/block/checksum.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::cuda {
namespace {

using testing::Array;

class CudaPackForStore : public testing::OnDevice {};

TEST_F(CudaPackForStore, AChecksumBindsASegmentToItsPlace) {
  SplitMix64 random(2);
  const std::vector<uint8_t> segment = testing::RandomBytes(random, 4096);
  kv::BlockId id;
  for (uint8_t& byte : id.bytes) byte = static_cast<uint8_t>(random.Next());
  const Array<uint8_t> from(segment);
  const Array<uint8_t> to(segment.size());
  const std::vector<SegmentCopy> list = {{from.data(), to.data(), kv::SegmentSeed(id, 7, 4096), 0}};
  const Array<SegmentCopy> device_list(list);
  const Array<uint32_t> checksums(1);
  ASSERT_EQ(PackSegments({.segments = device_list.data(),
                          .count = 1,
                          .bytes = static_cast<int64_t>(segment.size()),
                          .checksums = checksums.data()},
                         nullptr),
            0);
  EXPECT_EQ(checksums.Read()[0], kv::SegmentChecksum(id, 7, 4096, segment.data(), segment.size()));
}

TEST_F(CudaPackForStore, TailsAreThoseOfTheHost) {
  SplitMix64 random(4);
  for (const testing::TailCase& c : testing::kTailCases) {
    const testing::TailsOnDevice t(c, random);
    ASSERT_EQ(t.error, 0);
    kv::KvFormat format;
    const auto heads = static_cast<uint32_t>(c.heads);
    format.fields = {{"k", heads, static_cast<uint32_t>(c.first_dim), true},
                     {"v", heads, static_cast<uint32_t>(c.second_dim), false}};
    if (c.fp8) {
      format.fields = {kv::Fp8MlaField()};
      format.codec = kv::ElementCodec::kFp8Mla;
    }
    format.layers = static_cast<uint32_t>(c.layers);
    for (size_t i = 0; i < t.tails.size(); ++i) {
      const TailCopy& tail = t.tails[i];
      const kv::RowRange range = {static_cast<uint32_t>(tail.first_row),
                                  static_cast<uint32_t>(tail.rows)};
      std::vector<uint8_t> want(kv::PackedBytes(format, range.rows));
      const auto checksum = kv::PackTail(
          format, {t.pages.data() + tail.page * t.page_bytes, static_cast<size_t>(t.page_bytes)},
          range, tail.seed, want);
      ASSERT_TRUE(checksum.ok()) << checksum.status();
      EXPECT_EQ(t.checksums[i], *checksum) << c.first_dim << ", tail " << i;
      want.resize(t.packed_max, 0xFF);
      EXPECT_EQ(t.Packed(i), want) << c.first_dim << ", tail " << i;
    }
  }
}

}  // namespace
}  // namespace reprise::cuda
