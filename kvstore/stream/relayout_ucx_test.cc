// Some pairs of splits over the real transport, with shared memory and over TCP; bench/relayout
// covers all of them, between processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/mutex.h"
#include "common/random.h"
#include "kvstore/stream/relayout_test_groups.h"

namespace reprise::kv {
namespace {

using ::testing::Each;

MATCHER(IsOk, "") { return arg.ok(); }

struct Pair {
  const char* name;
  GroupSplit from;
  GroupSplit to;
  bool latents;
  bool shared_memory;
};

class RelayoutUcxTest : public testing::TestWithParam<Pair> {};

TEST_P(RelayoutUcxTest, ReadsEveryByteAndMovesNoneTwice) {
  const Pair& pair = GetParam();
  KvFormat format;
  format.fields = pair.latents
                      ? std::vector<RowField>{{"c_kv", 1, 32, false}, {"k_rope", 1, 8, true}}
                      : std::vector<RowField>{{"k", 4, 16, true}, {"v", 4, 16, false}};
  format.layers = 4;
  const MakeStream make = [&](const StreamOptions& options, SegmentSource* source) {
    StreamOptions real = options;
    real.shared_memory = pair.shared_memory;
    auto stream = KvStream::Create(real, source);
    EXPECT_TRUE(stream.ok()) << stream.status();
    return stream.ok() ? *std::move(stream) : nullptr;
  };
  TestGroup from("from", format, pair.from, VerifiableTokens(9 * 512));
  TestGroup to("to", format, pair.to, VerifiableTokens(9 * 512));
  from.Start(make, RandomU64() >> 8 | 1);
  to.Start(make, RandomU64() >> 8 | 1);
  from.MakeBlocks();
  // Every rank's blocks are listed before any of them asks.
  std::vector<StreamInSpec> specs;
  for (uint32_t rank = 0; rank < pair.to.ranks(); ++rank) {
    specs.push_back(to.SpecOf(rank, from.address()));
  }
  struct {
    Mutex mu;
    CondVar changed;
    uint32_t done GUARDED_BY(mu) = 0;
  } ended;
  for (uint32_t rank = 0; rank < pair.to.ranks(); ++rank) {
    const auto started = StreamIn::Start(&to.stream(rank), format, specs[rank],
                                         to.ListenerOf(rank, specs[rank], [&ended] {
                                           MutexLock lock(ended.mu);
                                           ++ended.done;
                                           ended.changed.NotifyAll();
                                         }));
    ASSERT_TRUE(started.ok()) << started.status();
  }
  {
    MutexLock lock(ended.mu);
    while (ended.done < pair.to.ranks()) ended.changed.Wait(ended.mu);
  }
  for (uint32_t rank = 0; rank < pair.to.ranks(); ++rank) {
    EXPECT_THAT(to.statuses(rank), Each(IsOk())) << "rank " << rank;
    EXPECT_EQ(to.WrongBlocks(rank), 0u) << "rank " << rank;
  }
  EXPECT_LE(from.bytes_sent(), from.canonical_bytes());
}

INSTANTIATE_TEST_SUITE_P(
    Pairs, RelayoutUcxTest,
    testing::Values(
        Pair{"Tp4ToPp2Cp2", {.tensor = 4}, {.pipeline = 2, .context = 2}, false, true},
        Pair{"Cp4ToTp2", {.context = 4}, {.tensor = 2}, false, false},
        Pair{"LatentsPp2Tp2ToTp4", {.pipeline = 2, .tensor = 2}, {.tensor = 4}, true, true},
        Pair{"LatentsTp4ToCp2Tp2", {.tensor = 4}, {.tensor = 2, .context = 2}, true, false}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace reprise::kv
