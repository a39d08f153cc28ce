// Results: every operation against the obvious computation, bits equal on all ranks.
#include <algorithm>
#include <cstring>

#include "common/random.h"
#include "worker/parallel/canonical_sum.h"
#include "worker/parallel/conformance.h"

namespace reprise::parallel {
namespace {

constexpr TimeNs kPatience = 60 * kSecond;
TimeNs Later() { return RealClock().NowNs() + kPatience; }

std::vector<float> Floats(int rank, size_t n) {
  SplitMix64 random(1000 + static_cast<uint64_t>(rank) * 77 + n);
  std::vector<float> floats(n);
  for (float& value : floats) {
    value = static_cast<float>(random.Uniform() - 0.5) *
            static_cast<float>(uint64_t{1} << random.Below(40));
  }
  return floats;
}

std::vector<uint8_t> Pattern(int from, int to, size_t n) {
  SplitMix64 random(static_cast<uint64_t>(from * 100 + to) << 20 | n);
  std::vector<uint8_t> bytes(n);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Next());
  return bytes;
}

// The sum over terms [first, first + width) of those there are, straight from the definition.
float Tree(const std::vector<float>& terms, size_t first, size_t width) {
  if (width == 1) return terms[first];
  const float left = Tree(terms, first, width / 2);
  if (first + width / 2 >= terms.size()) return left;
  return left + Tree(terms, first + width / 2, width / 2);
}

std::vector<float> SumOver(int size, size_t n) {
  size_t width = 1;
  while (width < static_cast<size_t>(size)) width *= 2;
  std::vector<std::vector<float>> inputs;
  for (int r = 0; r < size; ++r) inputs.push_back(Floats(r, n));
  std::vector<float> sums(n);
  for (size_t i = 0; i < n; ++i) {
    std::vector<float> terms;
    for (const auto& input : inputs) terms.push_back(input[i]);
    sums[i] = Tree(terms, 0, width);
  }
  return sums;
}

bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

#define EXPECT_ALL_OK(statuses) \
  for (const Status& status_of_rank : (statuses)) EXPECT_TRUE(status_of_rank.ok()) << status_of_rank

// 0, 1, not divisible, just inside and beyond what travels in a message, and large.
constexpr size_t kCounts[] = {0, 1, 2, 7, 64, 1001, 10'240, 10'243, 100'003};

TEST_P(CommunicatorConformance, AllReduceAddsByTheTreeOverRanks) {
  for (const size_t n : kCounts) {
    const std::vector<float> expected = SumOver(size(), n);
    EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
      std::vector<float> data = Floats(c.rank(), n);
      RETURN_IF_ERROR(c.AllReduce(data, Later()));
      EXPECT_TRUE(SameBits(data, expected)) << n << " elements on rank " << c.rank();
      return absl::OkStatus();
    }));
  }
}

TEST_P(CommunicatorConformance, AllReduceOfMoreThanASegmentAddsTheSame) {
  const size_t n = (size_t{1} << 18) * static_cast<size_t>(size()) + 5;
  const std::vector<float> expected = SumOver(size(), n);
  EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
    std::vector<float> data = Floats(c.rank(), n);
    RETURN_IF_ERROR(c.AllReduce(data, Later()));
    EXPECT_TRUE(SameBits(data, expected)) << "rank " << c.rank();
    return absl::OkStatus();
  }));
}

TEST_P(CommunicatorConformance, ReduceScatterLeavesEachRankItsChunk) {
  for (const size_t n : kCounts) {
    const std::vector<float> expected = SumOver(size(), n);
    EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
      const std::vector<float> data = Floats(c.rank(), n);
      const Chunk own = ChunkOf(n, c.rank(), c.size());
      std::vector<float> mine(own.size());
      RETURN_IF_ERROR(c.ReduceScatter(data, mine, Later()));
      EXPECT_TRUE(SameBits(mine, std::span(expected).subspan(own.begin, own.size())));
      return absl::OkStatus();
    }));
  }
}

TEST_P(CommunicatorConformance, AllGatherPutsRanksInOrderWithSizesOfTheirOwn) {
  for (const size_t n : {size_t{0}, size_t{1}, size_t{1000}, size_t{70'001}}) {
    std::vector<size_t> sizes;
    std::vector<uint8_t> expected;
    for (int r = 0; r < size(); ++r) {
      sizes.push_back(n * static_cast<size_t>(r));
      const auto part = Pattern(r, 0, sizes.back());
      expected.insert(expected.end(), part.begin(), part.end());
    }
    EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
      std::vector<uint8_t> all(expected.size());
      const auto mine = Pattern(c.rank(), 0, sizes[static_cast<size_t>(c.rank())]);
      RETURN_IF_ERROR(c.AllGather(mine, sizes, all, Later()));
      EXPECT_EQ(all, expected);
      return absl::OkStatus();
    }));
  }
}

TEST_P(CommunicatorConformance, AllToAllTakesSizesOfEachPair) {
  const auto bytes = [](int from, int to) {
    return static_cast<size_t>((from * 7 + to * 3) % 4) * static_cast<size_t>(5001 + from);
  };
  EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
    std::vector<uint8_t> send, expected;
    std::vector<size_t> send_sizes, receive_sizes;
    for (int r = 0; r < c.size(); ++r) {
      const auto to = Pattern(c.rank(), r, bytes(c.rank(), r));
      const auto from = Pattern(r, c.rank(), bytes(r, c.rank()));
      send.insert(send.end(), to.begin(), to.end());
      expected.insert(expected.end(), from.begin(), from.end());
      send_sizes.push_back(to.size());
      receive_sizes.push_back(from.size());
    }
    std::vector<uint8_t> receive(expected.size());
    RETURN_IF_ERROR(c.AllToAll(send, send_sizes, receive, receive_sizes, Later()));
    EXPECT_EQ(receive, expected);
    return absl::OkStatus();
  }));
}

TEST_P(CommunicatorConformance, EqualSizesNeedNoLists) {
  const auto ranks = static_cast<size_t>(size());
  EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
    const std::vector<uint8_t> mine(13, static_cast<uint8_t>(c.rank()));
    std::vector<uint8_t> all(13 * ranks), turned(13 * ranks);
    RETURN_IF_ERROR(c.AllGather(mine, all, Later()));
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], i / 13);
    RETURN_IF_ERROR(c.AllToAll(all, turned, Later()));
    EXPECT_EQ(turned, std::vector<uint8_t>(turned.size(), mine[0]));
    return c.Barrier(Later());
  }));
}

// A ring with two exchanges under way at a time, small and large in turn.
TEST_P(CommunicatorConformance, ExchangesOverlap) {
  if (size() == 1) return;
  EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
    const int next = (c.rank() + 1) % c.size();
    const int last = (c.rank() + c.size() - 1) % c.size();
    for (int turn = 0; turn < 20; ++turn) {
      const size_t first_bytes = turn % 2 == 0 ? 100 : 200'000;
      const size_t second_bytes = turn % 3 == 0 ? 0 : 9'000;
      const auto first = Pattern(c.rank(), next, first_bytes);
      const auto second = Pattern(c.rank(), last, second_bytes);
      std::vector<uint8_t> from_last(first_bytes), from_next(second_bytes);
      ASSIGN_OR_RETURN(const ExchangeId one, c.Start({next, first, last, from_last}));
      ASSIGN_OR_RETURN(const ExchangeId two, c.Start({last, second, next, from_next}));
      RETURN_IF_ERROR(c.Barrier(Later()));
      RETURN_IF_ERROR(c.Wait(two, Later()));
      RETURN_IF_ERROR(c.Wait(one, Later()));
      EXPECT_EQ(from_last, Pattern(last, c.rank(), first_bytes));
      EXPECT_EQ(from_next, Pattern(next, c.rank(), second_bytes));
    }
    return absl::OkStatus();
  }));
}

// More unreceived messages than a receiver keeps.
TEST_P(CommunicatorConformance, ASenderFarAheadWaitsForTheReceiver) {
  if (size() == 1) return;
  constexpr size_t kMessages = 500;
  EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
    if (c.rank() > 1) return absl::OkStatus();
    std::vector<std::vector<uint8_t>> data(kMessages);
    std::vector<ExchangeId> started;
    for (size_t i = 0; i < kMessages; ++i) {
      data[i] = Pattern(0, 1, 8'000 + i);
      if (c.rank() == 1) {
        std::vector<uint8_t> got(data[i].size());
        RETURN_IF_ERROR(c.Recv(0, got, Later()));
        EXPECT_EQ(got, data[i]);
      } else {
        ASSIGN_OR_RETURN(const ExchangeId id, c.Start({.to = 1, .send = data[i]}));
        started.push_back(id);
      }
    }
    for (const ExchangeId id : started) RETURN_IF_ERROR(c.Wait(id, Later()));
    return absl::OkStatus();
  }));
}

TEST_P(CommunicatorConformance, BytesSentAreTheFormulas) {
  const size_t n = 10'007;
  EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
    std::vector<float> data(n);
    RETURN_IF_ERROR(c.AllReduce(data, Later()));
    const size_t own = ChunkOf(n, c.rank(), c.size()).size();
    const size_t others = static_cast<size_t>(c.size() - 1);
    const OpStats& reduced = c.stats()[static_cast<size_t>(Op::kAllReduce)];
    EXPECT_EQ(reduced.calls, 1u);
    EXPECT_EQ(reduced.bytes_sent, 4 * (n - own + own * others));
    EXPECT_EQ(reduced.bytes_received, 4 * (own * others + n - own));
    RETURN_IF_ERROR(c.Barrier(Later()));
    EXPECT_EQ(c.stats()[static_cast<size_t>(Op::kBarrier)].bytes_sent, 0u);
    return absl::OkStatus();
  }));
}

// Against the sum on one rank, straight from the definition.
TEST_P(CommunicatorConformance, CanonicalSumsHaveTheBitsOfOneRank) {
  constexpr size_t kElements = 5'003;
  std::vector<std::vector<float>> slices;
  for (int s = 0; s < kSlices; ++s) slices.push_back(Floats(s, kElements));
  const auto joined = [&](SliceRange tree, size_t i) {
    std::vector<float> terms;
    for (int s = 0; s < tree.width; ++s) {
      terms.push_back(slices[static_cast<size_t>(tree.first + s)][i]);
    }
    return Tree(terms, 0, terms.size());
  };
  std::vector<float> expected(kElements);
  for (size_t i = 0; i < kElements; ++i) expected[i] = joined({0, kSlices}, i);
  EXPECT_ALL_OK(OnAllRanks([&](Communicator& c) {
    std::vector<float> partials, sum(kElements);
    for (const SliceRange& tree : SubtreesOf(SlicesOf(c.rank(), c.size()))) {
      for (size_t i = 0; i < kElements; ++i) partials.push_back(joined(tree, i));
    }
    RETURN_IF_ERROR(CanonicalSum(c, partials, sum, Later()));
    EXPECT_TRUE(SameBits(sum, expected)) << "rank " << c.rank();
    return absl::OkStatus();
  }));
}

}  // namespace
}  // namespace reprise::parallel
