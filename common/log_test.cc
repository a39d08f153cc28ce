#include "common/log.h"

#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <thread>
#include <vector>

#include "common/json.h"

namespace reprise {
namespace {

template <typename Function>
std::string Captured(const Function& function) {
  testing::internal::CaptureStderr();
  function();
  return testing::internal::GetCapturedStderr();
}

JsonDocument Parsed(absl::string_view line) {
  auto parsed = ParseJson(line);
  EXPECT_TRUE(parsed.ok()) << parsed.status() << " in " << line;
  return parsed.ok() ? std::move(*parsed) : JsonDocument(rapidjson::kObjectType);
}

class LogTest : public testing::Test {
 protected:
  void TearDown() override {
    SetLogRole("", "");
    SetLogLevel(LogSeverity::kInfo);
  }
};

TEST_F(LogTest, WritesOneJsonObjectALine) {
  SetLogRole("worker", "w1");
  const std::string line = Captured([] {
    LogInfo("worker_started", {{"request", "r\n\"1\""},
                               {"port", 5},
                               {"bytes", UINT64_MAX},
                               {"ratio", 0.5},
                               {"ready", true}});
  });
  ASSERT_EQ(line.find('\n'), line.size() - 1);
  const JsonDocument object = Parsed(line);
  EXPECT_EQ(*GetString(object, "severity", ""), "info");
  EXPECT_EQ(*GetString(object, "role", ""), "worker");
  EXPECT_EQ(*GetString(object, "node", ""), "w1");
  EXPECT_EQ(*GetString(object, "event", ""), "worker_started");
  EXPECT_EQ(*GetString(object, "request", ""), "r\n\"1\"");
  EXPECT_EQ(*GetInt(object, "port", 0), 5);
  EXPECT_EQ(object["bytes"].GetUint64(), UINT64_MAX);
  EXPECT_EQ(*GetNumber(object, "ratio", 0), 0.5);
  EXPECT_EQ(*GetBool(object, "ready", false), true);
  EXPECT_TRUE(std::regex_match(*GetString(object, "time", ""),
                               std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)")));
}

TEST_F(LogTest, ShowsStatusesAndCutsLongText) {
  const std::string line = Captured([] {
    LogError("failed",
             {{"error", absl::NotFoundError("no block 7")}, {"text", std::string(5000, 'x')}});
  });
  const JsonDocument object = Parsed(line);
  EXPECT_EQ(*GetString(object, "error", ""), "NOT_FOUND: no block 7");
  EXPECT_EQ(*GetString(object, "text", ""),
            absl::StrCat(std::string(kLogStringBytesMax, 'x'), "... (5000 bytes)"));
  EXPECT_LT(line.size(), kLogStringBytesMax + 300);
}

TEST_F(LogTest, DropsLinesBelowTheLevel) {
  EXPECT_EQ(Captured([] { LogDebug("quiet"); }), "");
  SetLogLevel(*ParseLogSeverity("debug"));
  EXPECT_EQ(*GetString(Parsed(Captured([] { LogDebug("loud"); })), "event", ""), "loud");
  SetLogLevel(*ParseLogSeverity("error"));
  EXPECT_EQ(Captured([] { LogWarning("quiet"); }), "");
  EXPECT_FALSE(ParseLogSeverity("verbose").ok());
}

TEST_F(LogTest, NeverInterleavesThreads) {
  const std::string text = Captured([] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([t] {
        const std::string filler(700, static_cast<char>('a' + t));
        for (int i = 0; i < 200; ++i) LogInfo("tick", {{"filler", filler}, {"thread", t}});
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  size_t lines = 0;
  for (size_t at = 0; at < text.size(); ++lines) {
    const size_t end = text.find('\n', at);
    ASSERT_NE(end, std::string::npos);
    const auto parsed = ParseJson(absl::string_view(text).substr(at, end - at));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const char letter = static_cast<char>('a' + *GetInt(*parsed, "thread", -1));
    ASSERT_EQ(*GetString(*parsed, "filler", ""), std::string(700, letter));
    at = end + 1;
  }
  EXPECT_EQ(lines, 800u);
}

TEST_F(LogTest, CountsAndShowsBugs) {
  const uint64_t before = BugCount();
  const std::string line = Captured([] { ReportBug("block_freed_twice", {{"block", 7}}); });
  const JsonDocument object = Parsed(line);
  EXPECT_EQ(*GetString(object, "severity", ""), "error");
  EXPECT_EQ(*GetString(object, "event", ""), "bug");
  EXPECT_EQ(*GetString(object, "bug", ""), "block_freed_twice");
  EXPECT_EQ(*GetInt(object, "block", 0), 7);
  EXPECT_EQ(BugCount(), before + 1);
}

TEST_F(LogTest, EveryLetsOneThroughPerIntervalAndCountsTheRest) {
  ManualClock clock;
  LogEvery every(kSecond, clock);
  EXPECT_TRUE(every.Allow());
  EXPECT_EQ(every.suppressed(), 0u);
  clock.Advance(kSecond - 1);
  EXPECT_FALSE(every.Allow());
  EXPECT_FALSE(every.Allow());
  clock.Advance(1);
  EXPECT_TRUE(every.Allow());
  EXPECT_EQ(every.suppressed(), 2u);
  clock.Advance(kSecond);
  EXPECT_TRUE(every.Allow());
  EXPECT_EQ(every.suppressed(), 0u);
}

}  // namespace
}  // namespace reprise
