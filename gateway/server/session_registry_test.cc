#include "gateway/server/session_registry.h"

#include <gtest/gtest.h>

#include <atomic>

#include "common/thread.h"

namespace reprise::gateway {
namespace {

class Sink final : public RequestSink {
 public:
  void OnWorkerEvent(const v1::RequestEvent&, TimeNs) override {}
  void OnLinkLost(uint64_t, const Status&, Loss) override { ++lost; }
  void CancelByClient() override {}
  void Abort(const Status&) override {}
  std::optional<v1::RequestReport> report() override { return std::nullopt; }
  std::atomic<int> lost{0};
};

const std::string kHandle(16, 'h');

TEST(SessionRegistry, FindsARunningRequestUntilItEnds) {
  SessionRegistry registry;
  const auto sink = std::make_shared<Sink>();
  ASSERT_TRUE(registry.Insert("a", kHandle, sink).ok());
  EXPECT_EQ(registry.Insert("a", kHandle, sink).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(registry.Find("a"), sink);
  EXPECT_EQ(registry.size(), 1u);
  registry.End("a", sink.get());
  EXPECT_EQ(registry.Find("a"), nullptr);
  EXPECT_EQ(registry.size(), 0u);
  EXPECT_TRUE(registry.Insert("a", kHandle, sink).ok()) << "the id is free again";
}

TEST(SessionRegistry, TheHandleDecidesWhatACallerLearns) {
  SessionRegistry registry;
  const auto sink = std::make_shared<Sink>();
  ASSERT_TRUE(registry.Insert("a", kHandle, sink).ok());
  EXPECT_EQ(*registry.FindByHandle("a", kHandle), sink);
  for (const std::string& wrong : {std::string(), std::string(16, 'x'), kHandle + "h"}) {
    EXPECT_EQ(registry.FindByHandle("a", wrong).status().code(), absl::StatusCode::kNotFound);
  }
  // An unknown id reads the same as a wrong handle.
  EXPECT_EQ(registry.FindByHandle("b", kHandle).status(), registry.FindByHandle("a", "x").status());
  registry.End("a", sink.get());
  EXPECT_EQ(*registry.FindByHandle("a", kHandle), nullptr) << "ended, and known to its owner";
  EXPECT_EQ(registry.FindByHandle("a", "x").status().code(), absl::StatusCode::kNotFound);
}

TEST(SessionRegistry, AStreamWithTheHandleTakesARunningRequestOver) {
  SessionRegistry registry;
  const auto first = std::make_shared<Sink>();
  const auto second = std::make_shared<Sink>();
  ASSERT_TRUE(registry.Insert("a", kHandle, first).ok());
  EXPECT_EQ(registry.TakeOver("a", std::string(16, 'x'), second).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(registry.Find("a"), first);
  EXPECT_EQ(*registry.TakeOver("a", kHandle, second), first);
  EXPECT_EQ(registry.Find("a"), second);
  registry.End("a", first.get());
  EXPECT_EQ(registry.Find("a"), second) << "the end of the one before is its own affair";
  registry.End("a", second.get());
  EXPECT_EQ(registry.Find("a"), nullptr);
  EXPECT_EQ(*registry.TakeOver("a", kHandle, second), nullptr) << "nothing ran";
}

TEST(SessionRegistry, RemembersEndedRequestsWithinABound) {
  SessionRegistry registry;
  const int requests = 64 * 1024 * 4;
  for (int i = 0; i < requests; ++i) {
    const std::string id = absl::StrCat("r", i);
    ASSERT_TRUE(registry.Insert(id, kHandle, nullptr).ok());
    registry.End(id, nullptr);
  }
  EXPECT_TRUE(registry.FindByHandle(absl::StrCat("r", requests - 1), kHandle).ok());
  EXPECT_FALSE(registry.FindByHandle("r0", kHandle).ok()) << "the oldest are forgotten";
}

TEST(SessionRegistry, AnEndedIdUsedAgainKeepsItsLatestHandle) {
  SessionRegistry registry;
  for (const char c : {'p', 'q'}) {
    ASSERT_TRUE(registry.Insert("a", std::string(16, c), nullptr).ok());
    registry.End("a", nullptr);
  }
  EXPECT_TRUE(registry.FindByHandle("a", std::string(16, 'q')).ok());
  EXPECT_FALSE(registry.FindByHandle("a", std::string(16, 'p')).ok());
}

TEST(SessionRegistry, ManyThreadsInsertFindVisitAndEnd) {
  SessionRegistry registry;
  const auto sink = std::make_shared<Sink>();
  {
    std::vector<Thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back("registry", [&registry, &sink, t] {
        for (int i = 0; i < 2000; ++i) {
          const std::string id = absl::StrCat(t, "-", i);
          ASSERT_TRUE(registry.Insert(id, kHandle, sink).ok());
          ASSERT_EQ(registry.Find(id), sink);
          if (i % 100 == 0) {
            registry.ForEach(
                [](const std::string&, RequestSink& s) { s.OnLinkLost(1, {}, Loss::kCrash); });
          }
          registry.End(id, sink.get());
        }
      });
    }
  }
  EXPECT_EQ(registry.size(), 0u);
  EXPECT_GE(sink->lost.load(), 4 * 20) << "each visitor found at least its own";
}

}  // namespace
}  // namespace reprise::gateway
