// Reading processes from outside.
#include <gtest/gtest.h>
#include <unistd.h>

#include "common/metrics.h"
#include "tests/cluster/cluster.h"

namespace reprise::harness {
namespace {

TEST(SumOfFamily, AddsTheSeriesOfOneFamilyOnly) {
  const char* text =
      "# HELP reprise_a_total a\n"
      "reprise_a_total{k=\"x y\"} 2\nreprise_a_total{k=\"z\"} 3.5\n"
      "reprise_a_total_more 100\nreprise_b 7\n";
  EXPECT_EQ(*SumOfFamily(text, "reprise_a_total"), 5.5);
  EXPECT_EQ(*SumOfFamily(text, "reprise_b"), 7);
  EXPECT_EQ(SumOfFamily(text, "reprise_a").status().code(), absl::StatusCode::kNotFound);
}

TEST(SumOfFamily, RefusesWhatIsNoSample) {
  EXPECT_EQ(SumOfFamily("reprise_a nonsense\n", "reprise_a").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Scrape, ReadsARealDoor) {
  MetricsRegistry registry("test");
  registry.AddCounter("reprise_things_total", "things").Increment(3);
  const auto door = ServeMetrics(registry, "127.0.0.1:0");
  ASSERT_TRUE(door.ok()) << door.status();
  const auto text = ScrapeMetrics((*door)->address());
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*SumOfFamily(*text, "reprise_things_total"), 3);
}

TEST(Scrape, NamesADoorThatIsClosed) {
  EXPECT_EQ(ScrapeMetrics("127.0.0.1:1").status().code(), absl::StatusCode::kUnavailable);
}

TEST(ProcessCpuSeconds, OfThisProcessAndOfNone) {
  EXPECT_GE(*ProcessCpuSeconds(getpid()), 0);
  EXPECT_EQ(ProcessCpuSeconds(1 << 30).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace reprise::harness
