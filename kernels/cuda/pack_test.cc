// Packing on the device against what the host packs and sums, and corrupted segments refused.
#include "kernels/cuda/pack.h"

#include "common/crc32c.h"
#include "kernels/cuda/pack_test_util.h"

namespace reprise::cuda {
namespace {

using testing::Array;
using testing::kTailCases;
using testing::RandomBytes;
using testing::TailCase;
using testing::TailsOnDevice;

class CudaPack : public testing::OnDevice {};

// Some segments of one size among others' bytes, and the places they go to.
struct Segments {
  Segments(SplitMix64& random, int64_t count, int64_t bytes, int64_t from_offset, int64_t to_offset)
      : count(count),
        bytes(bytes),
        stride((bytes + 15) / 16 * 16 + 32),
        from_offset(from_offset),
        to_offset(to_offset),
        contents(RandomBytes(random, static_cast<size_t>(count * stride + 16))),
        from(contents),
        to(contents.size()),
        checksums(static_cast<size_t>(count)),
        ok(static_cast<size_t>(count)) {
    for (int64_t i = 0; i < count; ++i) {
      // Places in another order than sources.
      list.push_back(
          {from.data() + FromAt(i), to.data() + ToAt(i), static_cast<uint32_t>(random.Next()), 0});
      list.back().checksum = Checksum(i);
    }
  }
  int64_t FromAt(int64_t i) const { return i * stride + from_offset; }
  int64_t ToAt(int64_t i) const { return (count - 1 - i) * stride + to_offset; }
  uint32_t Checksum(int64_t i) const {
    return Crc32c(contents.data() + FromAt(i), static_cast<size_t>(bytes),
                  list[static_cast<size_t>(i)].seed);
  }
  SegmentsArgs Args(const Array<SegmentCopy>& device_list) const {
    return {device_list.data(), count, bytes, checksums.data(), ok.data()};
  }
  // What must lie at the places: poison but for those in `copied`.
  std::vector<uint8_t> Expected(const std::vector<uint32_t>& copied) const {
    std::vector<uint8_t> expected(contents.size(), 0xFF);
    for (int64_t i = 0; i < count; ++i) {
      if (copied[static_cast<size_t>(i)] == 0) continue;
      std::copy_n(contents.begin() + FromAt(i), bytes, expected.begin() + ToAt(i));
    }
    return expected;
  }

  int64_t count, bytes, stride, from_offset, to_offset;
  std::vector<uint8_t> contents;
  Array<uint8_t> from, to;
  Array<uint32_t> checksums, ok;
  std::vector<SegmentCopy> list;
};

constexpr int64_t kTile = 65536;

TEST_F(CudaPack, SegmentsAndTheirChecksumsAreTheHosts) {
  SplitMix64 random(1);
  for (const int64_t bytes :
       {0L, 1L, 15L, 16L, 17L, 100L, 2047L, 2048L, 4096L, 8192L, 10'000L, kTile - 16, kTile,
        kTile + 1, kTile + 16, 2 * kTile, 3 * kTile + 4112, 5 * kTile - 3}) {
    for (const int64_t offset : {0, 3}) {
      const int64_t count = bytes < kTile ? 5 : 2;
      UseSeed(random.Next());
      Segments s(random, count, bytes, offset, offset == 0 ? 0 : 9);
      const Array<SegmentCopy> list(s.list);
      ASSERT_EQ(PackSegments(s.Args(list), nullptr), 0);
      const std::vector<uint32_t> checksums = s.checksums.Read();
      for (int64_t i = 0; i < count; ++i) {
        EXPECT_EQ(checksums[static_cast<size_t>(i)], s.Checksum(i)) << bytes << " bytes";
      }
      EXPECT_EQ(s.to.Read(), s.Expected(std::vector<uint32_t>(static_cast<size_t>(count), 1)))
          << bytes << " bytes";
    }
  }
}

TEST_F(CudaPack, OnlyWhatVerifiesIsWritten) {
  SplitMix64 random(3);
  for (const int64_t bytes : {1L, 16L, 4096L, 5000L, kTile + 32, 2 * kTile + 5}) {
    constexpr int64_t kCount = 6;
    UseSeed(random.Next());
    Segments s(random, kCount, bytes, 0, bytes % 16 == 0 ? 0 : 1);
    std::vector<uint8_t> damaged = s.contents;
    std::vector<uint32_t> right(kCount, 1);
    for (const int64_t i : {1, 4}) {
      const uint64_t bit = random.Below(static_cast<uint64_t>(bytes) * 8);
      damaged[static_cast<size_t>(s.FromAt(i)) + bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      right[static_cast<size_t>(i)] = 0;
    }
    s.list[2].checksum ^= 0x10;  // damaged on its way itself
    right[2] = 0;
    ASSERT_EQ(CopyIn(s.from.data(), damaged.data(), damaged.size(), nullptr), 0);
    const Array<SegmentCopy> list(s.list);
    ASSERT_EQ(UnpackSegments(s.Args(list), nullptr), 0);
    EXPECT_EQ(s.ok.Read(), right) << bytes;
    EXPECT_EQ(s.to.Read(), s.Expected(right)) << bytes;
  }
}

TEST_F(CudaPack, NothingIsPackedAtOnce) {
  EXPECT_EQ(PackSegments({}, nullptr), 0);
  EXPECT_EQ(UnpackSegments({}, nullptr), 0);
  EXPECT_EQ(PackTails({}, nullptr), 0);
}

// [layer][row][part][head], by hand.
std::vector<uint8_t> Packed(const TailsOnDevice& t, size_t tail) {
  const TailCase& c = t.shape;
  const TailCopy& copy = t.tails[tail];
  std::vector<uint8_t> packed;
  for (int layer = 0; layer < c.layers; ++layer) {
    const auto part = t.pages.begin() + copy.page * t.page_bytes + layer * t.segment_bytes;
    for (int row = copy.first_row; row < copy.first_row + copy.rows; ++row) {
      for (const bool second : {false, true}) {
        const int strip = 2 * (second ? c.second_dim : c.first_dim);
        for (int head = 0; head < c.heads; ++head) {
          const auto at = part + (second ? 2 * c.heads * kPageRows * c.first_dim : 0) +
                          (head * kPageRows + row) * strip;
          packed.insert(packed.end(), at, at + strip);
        }
      }
    }
  }
  return packed;
}

TEST_F(CudaPack, TailsAreRowsOfAllLayers) {
  SplitMix64 random(4);
  for (const TailCase& c : kTailCases) {
    UseSeed(random.Next());
    const TailsOnDevice t(c, random);
    ASSERT_EQ(t.error, 0);
    for (size_t i = 0; i < t.tails.size(); ++i) {
      std::vector<uint8_t> want = Packed(t, i);
      EXPECT_EQ(t.checksums[i], Crc32c(want.data(), want.size(), t.tails[i].seed))
          << c.first_dim << ", tail " << i;
      want.resize(t.packed_max, 0xFF);
      EXPECT_EQ(t.Packed(i), want) << c.first_dim << ", tail " << i;
    }
  }
}

TEST_F(CudaPack, LimitsAreRefused) {
  EXPECT_EQ(PackTails({.count = 1, .rows_max = kPageRows + 1}, nullptr), kErrorInvalidValue);
  EXPECT_EQ(PackSegments({.count = 1, .bytes = -1}, nullptr), kErrorInvalidValue);
  EXPECT_EQ(PackSegments({.count = int64_t{1} << 31, .bytes = 1}, nullptr), kErrorInvalidValue);
}

}  // namespace
}  // namespace reprise::cuda
