#include "worker/group/part_rows.h"

#include <gtest/gtest.h>

#include <numeric>

namespace reprise::worker {
namespace {

using kv::GroupSplit;

kv::KvFormat HeadsFormat() {
  kv::KvFormat format;
  format.fields = {{"k", 4, 6, true}, {"v", 4, 5, false}};
  format.layers = 3;
  format.block_tokens = 8;
  format.codec = kv::ElementCodec::kBF16;
  return format;
}

kv::KvFormat LatentFormat() {
  kv::KvFormat format = HeadsFormat();
  format.fields = {{"c_kv", 1, 12, false}, {"k_rope", 1, 4, true}};
  return format;
}

std::vector<uint8_t> Numbered(size_t bytes, uint8_t first) {
  std::vector<uint8_t> page(bytes);
  std::iota(page.begin(), page.end(), first);
  return page;
}

// Cuts a page for every rank, takes single runs of rows from the parts and puts them into another
// page: what was taken is equal, all else untouched.
void ExpectRowsTravel(const kv::KvFormat& format, const GroupSplit& split) {
  const std::vector<uint8_t> whole = Numbered(format.block_bytes(), 1);
  const std::vector<uint8_t> before = Numbered(format.block_bytes(), 99);
  std::vector<uint8_t> after = before;
  constexpr uint32_t kBegin = 2, kEnd = 7;
  for (uint32_t rank = 0; rank < split.ranks(); ++rank) {
    const PartRows rows(format, kv::PartOfRank(format, split, rank));
    std::vector<uint8_t> part(rows.page_bytes());
    rows.Cut(whole.data(), part.data());
    for (uint32_t layer = rows.part().layers.begin; layer < rows.part().layers.end; ++layer) {
      std::vector<uint8_t> moved((kEnd - kBegin) * rows.row_bytes());
      uint8_t* out = moved.data();
      rows.Take(part.data(), layer, kBegin, kEnd, out);
      ASSERT_EQ(out, moved.data() + moved.size());
      const uint8_t* in = moved.data();
      rows.Put(in, layer, kBegin, kEnd, after.data());
      ASSERT_EQ(in, moved.data() + moved.size());
    }
  }
  // Of each head's strip, the rows in between are the whole page's.
  size_t at = 0;
  for (uint32_t layer = 0; layer < format.layers; ++layer) {
    for (const kv::RowField& field : format.fields) {
      for (uint32_t head = 0; head < field.heads; ++head) {
        for (uint32_t row = 0; row < format.block_tokens; ++row) {
          for (size_t i = 0; i < field.elements * kv::ElementBytes(format.codec); ++i, ++at) {
            const auto& want = row >= kBegin && row < kEnd ? whole : before;
            ASSERT_EQ(after[at], want[at])
                << "layer " << layer << " head " << head << " row " << row;
          }
        }
      }
    }
  }
}

TEST(PartRows, WhatRanksComputedBecomesTheWholePage) {
  ExpectRowsTravel(HeadsFormat(), {.tensor = 1});
  ExpectRowsTravel(HeadsFormat(), {.tensor = 2});
  ExpectRowsTravel(HeadsFormat(), {.pipeline = 3, .tensor = 4});
  ExpectRowsTravel(HeadsFormat(), {.pipeline = 2, .tensor = 8});  // heads on two ranks each
  ExpectRowsTravel(LatentFormat(), {.pipeline = 2, .tensor = 4});
}

TEST(PartRows, RowsOfAStepGoToTheContextRankThatOwnsThem) {
  const GroupSplit split{.context = 2};
  const std::vector<int32_t> tokens(20);
  std::vector<int32_t> pages(256);
  std::iota(pages.begin(), pages.end(), 100);
  // Eight positions a block, so 64 blocks a stripe: 510 to 529 cross from rank 0's first stripe
  // into rank 1's.
  const StepItem item{.tokens = tokens, .first_position = 510, .pages = pages};
  EXPECT_EQ(RowsOf({&item, 1}, 8, split, 0), (std::vector<PageRows>{{163, 6, 8}}));
  EXPECT_EQ(RowsOf({&item, 1}, 8, split, 1),
            (std::vector<PageRows>{{164, 0, 8}, {165, 0, 8}, {166, 0, 2}}));
  const std::vector<int32_t> second = OwnPages(pages, 8, split, 1);
  ASSERT_EQ(second.size(), 128u);
  EXPECT_EQ(second.front(), 164);
  EXPECT_EQ(second.back(), 100 + 191);  // stripes 1 and 2 are its own
  EXPECT_EQ(OwnPages(pages, 8, split, 0).back(), 100 + 255);
}

}  // namespace
}  // namespace reprise::worker
