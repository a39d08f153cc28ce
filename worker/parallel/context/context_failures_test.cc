// A rank that dies in the middle ends every rank's call, with an error and in time.
#include <gtest/gtest.h>

#include <numeric>

#include "worker/parallel/context/host_context_compute.h"
#include "worker/parallel/context/test_sequence.h"

namespace reprise::parallel {
namespace {

class ContextFailures : public testing::TestWithParam<Way> {
 protected:
  const TestShape shape_ = TestShapes()[0];
  const TestSequence sequence_{shape_, 12 * 512, 3};
  TestGroup Group() const {
    return {.ranks = 4,
            .leaves = 1,
            .rules = {.machine = {.query_rows_max = 1000}, .way = GetParam(), .merge = {}},
            .patience_ns = 600 * kSecond};
  }
};

// The deadline is far: death itself ends the calls, after whatever number of messages.
TEST_P(ContextFailures, ADeadRankEndsEveryRanksCall) {
  for (const int messages : {0, 1, 2}) {
    TestGroup group = Group();
    group.before = [messages](int rank, InProcessGroup& threads) {
      if (rank == 2) threads.KillAfter(2, messages);
    };
    const TestRun run = group.Attend({{&sequence_, 0, 12 * 512}});
    for (const Status& status : run.statuses) {
      EXPECT_FALSE(status.ok()) << messages;
    }
  }
}

TEST_P(ContextFailures, ARankThatDoesNotComeEndsTheOthersAtTheDeadline) {
  TestGroup group = Group();
  group.patience_ns = 100 * kMillisecond;
  InProcessGroup threads(2);
  const auto alone = threads.MakeCommunicator(0);
  const auto absent = threads.MakeCommunicator(1);
  HostContextCompute compute(kernels::Select(kernels::BestIsa()));
  ContextAttention attention(*alone, compute, *Stripes::Make(2, 1), RealClock());
  const TestPool pool(shape_, 16);
  std::vector<int32_t> pages(16);
  std::iota(pages.begin(), pages.end(), 0);
  const ContextPlan plan =
      PlanOf(attention.stripes(), 0, {{0, 1024, pages.data(), 0}}, shape_.cost(), group.rules);
  class Nothing final : public Attender {
    void Attend(const kernels::PagedKv&, std::span<const kernels::AttentionItem>) override {}
  } nothing;
  std::vector<float> out(512 * 64);
  compute.SetCall(pool.kv(), 4, 16, &nothing);
  const ByteRows rows = BytesOf({out.data(), 512, 64, 64});
  const Status status = attention.Attend({.pages = PagesOf(pool.kv()),
                                          .block_tokens = pool.kv().block_tokens,
                                          .page_bytes = kernels::SegmentBytes(pool.kv()),
                                          .heads = 4,
                                          .query_dim = 16,
                                          .value_dim = 16,
                                          .q = rows,
                                          .out = rows,
                                          .plan = &plan},
                                         RealClock().NowNs() + group.patience_ns);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
}

INSTANTIATE_TEST_SUITE_P(Ways, ContextFailures,
                         testing::Values(Way::kRing, Way::kGather, Way::kQuery),
                         [](const auto& info) {
                           const std::string name = WayName(info.param);
                           return std::string(1, static_cast<char>(name[0] - 32)) + name.substr(1);
                         });

TEST(ContextAttention, PagesThatDoNotDivideAStripeAreRefusedByAll) {
  TestShape shape = TestShapes()[0];
  shape.block_tokens = 96;
  const TestSequence sequence(shape, 600, 3);
  const TestRun run = TestGroup{.ranks = 2, .leaves = 1, .rules = {}}.Attend({{&sequence, 0, 90}});
  for (const Status& status : run.statuses) {
    EXPECT_FALSE(status.ok());
    EXPECT_NE(std::string(status.message()).find("96 tokens do not divide a stripe of 512"),
              std::string::npos)
        << status;
  }
}

}  // namespace
}  // namespace reprise::parallel
