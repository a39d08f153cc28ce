// Attention over stripes has the bits of one rank's, whatever the ranks, the way, the stripes, the
// chunks and the cache's form; bytes and memory are what the formulae say.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "worker/parallel/context/test_sequence.h"

namespace reprise::parallel {
namespace {

constexpr int64_t kLengths[] = {1, 63, 511, 512, 513, 1100, 5 * 512 + 7, 11 * 512 + 9};
constexpr int64_t kLongest = kLengths[7];

struct Named {
  std::string name;
  ContextRules rules;
};
// gtest prints parameters.
void PrintTo(const Named& named, std::ostream* out) { *out << named.name; }
std::vector<Named> Ways() {
  return {{"Ring", {.machine = {}, .way = Way::kRing, .merge = {}}},
          {"Gather", {.machine = {}, .way = Way::kGather, .merge = {}}},
          {"Query", {.machine = {}, .way = Way::kQuery, .merge = Merge::kGather}},
          {"QueryTree", {.machine = {}, .way = Way::kQuery, .merge = Merge::kTree}}};
}

// Made once for all tests.
const TestSequence& SequenceOf(const TestShape& shape, int64_t positions, uint32_t seed) {
  static std::map<std::tuple<std::string, int64_t, uint32_t>, TestSequence> made;
  const auto key = std::make_tuple(shape.name, positions, seed);
  const auto found = made.find(key);
  if (found != made.end()) return found->second;
  return made.emplace(key, TestSequence(shape, positions, seed)).first->second;
}

class ContextAttentionBits : public testing::TestWithParam<std::tuple<TestShape, Named>> {
 protected:
  const TestShape& shape() const { return std::get<0>(GetParam()); }
  TestGroup Group(int ranks, int64_t leaves) const {
    return {.ranks = ranks, .leaves = leaves, .rules = std::get<1>(GetParam()).rules};
  }
};

TEST_P(ContextAttentionBits, APromptOfAnyLengthIsAsOneRankMakesIt) {
  const TestSequence& sequence = SequenceOf(shape(), kLongest, 5);
  for (const int ranks : {1, 2, 3, 4, 5}) {
    for (const int64_t length : kLengths) {
      // Several rounds of few ranks have been met before.
      if (length == kLongest && ranks < 4) continue;
      Group(ranks, 1).ExpectWhole({{&sequence, 0, length}});
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(ContextAttentionBits, StripesOfSeveralLeavesAreAsOneRankMakesThem) {
  const TestSequence& sequence = SequenceOf(shape(), kLongest, 5);
  for (const int64_t length : {int64_t{1025}, kLongest})
    Group(2, 2).ExpectWhole({{&sequence, 0, length}});
  for (const int64_t length : {1023, 2100, 3500}) Group(3, 2).ExpectWhole({{&sequence, 0, length}});
  Group(5, 4).ExpectWhole({{&sequence, 4000, 500}});
}

TEST_P(ContextAttentionBits, ChunksAfterACachedPrefixAreAsOneRankMakesThem) {
  const TestSequence& sequence = SequenceOf(shape(), kLongest, 5);
  for (const int ranks : {2, 3, 4}) {
    for (const TestQuery chunk :
         {TestQuery{&sequence, 511, 2}, TestQuery{&sequence, 700, 300},
          TestQuery{&sequence, 9 * 512 + 1, 1000}, TestQuery{&sequence, 10 * 512, 512}}) {
      Group(ranks, 1).ExpectWhole({chunk});
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(ContextAttentionBits, ABatchOfSequencesIsAsEachAlone) {
  const TestSequence& one = SequenceOf(shape(), kLongest, 5);
  const TestSequence& other = SequenceOf(shape(), 2000, 6);
  const std::vector<TestQuery> batch = {
      {&one, 2999, 1}, {&other, 7, 1}, {&one, 0, 900}, {&other, 1500, 300}};
  for (const int ranks : {1, 3, 4, 5}) {
    Group(ranks, 1).ExpectWhole(batch);
    if (HasFatalFailure()) return;
  }
}

TEST_P(ContextAttentionBits, DecodeOverAShardedCacheIsAsOneRankMakesIt) {
  const TestSequence& sequence = SequenceOf(shape(), kLongest, 5);
  for (const int ranks : {2, 3, 4, 5}) {
    for (const int64_t position : {int64_t{0}, int64_t{512}, 6 * int64_t{512} - 1, kLongest - 1}) {
      Group(ranks, 1).ExpectWhole({{&sequence, position, 1}});
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ContextAttentionBits,
                         testing::Combine(testing::ValuesIn(TestShapes()),
                                          testing::ValuesIn(Ways())),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + std::get<1>(info.param).name;
                         });

// What the transport carried is what the formula of the way says, rank by rank.
TEST(ContextAttention, BytesAtTheTransportAreTheFormulas) {
  for (const size_t index : {0, 4}) {
    const TestShape shape = TestShapes()[index];
    const TestSequence& sequence = SequenceOf(shape, kLongest, 5);
    for (const Named& way : Ways()) {
      for (const int ranks : {2, 3, 4, 5}) {
        for (const TestQuery query :
             {TestQuery{&sequence, 0, 2600}, TestQuery{&sequence, kLongest - 90, 90}}) {
          const TestGroup group{.ranks = ranks, .leaves = 1, .rules = way.rules};
          const TestRun run = group.Attend({query});
          const Stripes stripes = *Stripes::Make(ranks, 1);
          const ContextItem item{query.first, query.rows};
          for (int rank = 0; rank < ranks; ++rank) {
            const WireShape wire = shape.cost().wire;
            const int64_t want = way.name == "Ring" ? RingBytes(stripes, item, wire, rank)
                                 : way.name == "Gather"
                                     ? GatherBytes(stripes, item, wire, rank)
                                     : QueryBytes(stripes, item, wire, rank, *way.rules.merge);
            ASSERT_EQ(run.bytes_sent(rank), want) << Describe(group, query) << " rank " << rank;
          }
        }
      }
    }
  }
}

int64_t Log2(int64_t n) {
  int64_t bits = 0;
  while (int64_t{1} << bits < n) ++bits;
  return bits;
}

constexpr int64_t kPrompt = 8192;

// The cache has its share and the ring three shards; partial results wait in few nodes a row.
TEST(ContextAttention, MemoryIsAShareOfTheCacheThreeShardsAndFewPartialResults) {
  const TestShape shape = TestShapes()[0];
  const TestSequence sequence(shape, kPrompt, 9);
  for (const int ranks : {2, 4}) {
    for (const int64_t leaves : {1, 2}) {
      const TestGroup group{.ranks = ranks,
                            .leaves = leaves,
                            .rules = {.machine = {}, .way = Way::kRing, .merge = {}}};
      TestRun run;
      group.ExpectWhole({{&sequence, 0, kPrompt}}, &run);
      const int64_t token_bytes = shape.cost().wire.page_bytes / shape.block_tokens;
      const int64_t share = kPrompt / ranks;
      for (size_t rank = 0; rank < static_cast<size_t>(ranks); ++rank) {
        EXPECT_EQ(run.cache_rows[rank], share);
        EXPECT_EQ(run.stats[rank].buffer_bytes_peak, 3 * 2 * leaves * 512 * token_bytes);
        EXPECT_LE(run.stats[rank].buffer_bytes_peak, 3 * share * token_bytes);
        const int64_t row_bytes = shape.cost().wire.partial_floats * int64_t{sizeof(float)};
        const int64_t stripes = kPrompt / 512 / leaves;
        EXPECT_LE(run.stats[rank].partial_bytes_peak,
                  (Log2(stripes) + 2 * ranks + 2) * share * row_bytes);
      }
    }
  }
}

TEST(ContextAttention, QueriesTravelSoManyAtATime) {
  const TestShape shape = TestShapes()[0];
  const TestSequence sequence(shape, 4096, 10);
  const TestGroup group{
      .ranks = 4,
      .leaves = 1,
      .rules = {.machine = {.query_rows_max = 100}, .way = Way::kQuery, .merge = {}}};
  TestRun run;
  group.ExpectWhole({{&sequence, 3000, 1000}}, &run);
  const WireShape wire = shape.cost().wire;
  for (const ContextStats& stats : run.stats) {
    // A turn: queries to three ranks, and results of at most four nodes from each.
    EXPECT_LE(stats.query_bytes_peak,
              100 * 3 * (wire.query_bytes + 4 * wire.partial_floats * int64_t{sizeof(float)}));
  }
}

// Without a way given the rule's is taken: many new tokens bring the keys, one brings the query.
TEST(ContextAttention, TheRuleChoosesForEverySequenceOfACall) {
  const TestShape shape = TestShapes()[0];
  const TestSequence& sequence = SequenceOf(shape, kLongest, 5);
  const Stripes stripes = *Stripes::Make(4, 1);
  const ContextPlan plan =
      PlanOf(stripes, 0, {{0, 4096}, {kLongest - 1, 1}, {5, 0}}, shape.cost(),
             {.machine = {.latency_s = 0, .gather_bytes_max = 0}, .way = {}, .merge = {}});
  ASSERT_EQ(plan.ring.size(), 1U);
  EXPECT_EQ(plan.ring[0].rows, 4096);
  ASSERT_EQ(plan.turns.size(), 1U);
  EXPECT_EQ(plan.turns[0].items[0].rows, 1);
  EXPECT_TRUE(plan.gather.empty());
  const TestGroup group{.ranks = 4, .leaves = 1, .rules = {}};
  group.ExpectWhole({{&sequence, 0, 4096}, {&sequence, kLongest - 1, 1}});
}

}  // namespace
}  // namespace reprise::parallel
