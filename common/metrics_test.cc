#include "common/metrics.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "common/failpoint.h"
#include "common/log.h"

namespace reprise {
namespace {

using testing::HasSubstr;
using testing::Not;

// One HTTP/1.0 exchange over a real socket; empty when the connection is refused.
std::string Scrape(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string response;
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
    EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    char buffer[4096];
    ssize_t n;
    while ((n = read(fd, buffer, sizeof(buffer))) > 0) response.append(buffer, n);
  }
  close(fd);
  return response;
}

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(Metrics, ShowFailpointsOnlyOnceOneIsArmed) {
  const MetricsRegistry registry;
  Failpoint("store.seal");
  EXPECT_THAT(registry.Serialize(), Not(HasSubstr("reprise_failpoint")));
  ASSERT_TRUE(ArmFailpoints("store.seal=count").ok());
  Failpoint("store.seal");
  EXPECT_THAT(registry.Serialize(),
              HasSubstr("reprise_failpoint_hits_total{name=\"store.seal\"} 1"));
}

TEST(Metrics, AreScrapedOverASocket) {
  MetricsRegistry registry("worker", "1.2");
  registry.AddCounter("reprise_tokens_total", "Tokens.", {{"kind", "prompt"}}).Increment(3);
  Gauge& gauge = registry.AddGauge("reprise_queue_depth", "Waiting requests.");
  gauge.Set(7);
  gauge.Add(-2);
  Histogram& histogram = registry.AddHistogram("reprise_step_seconds", "Step.", {}, {0.1, 1, 10});
  histogram.Observe(0.05);
  histogram.Observe(5);
  const auto server = ServeMetrics(registry, "127.0.0.1:0");
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_NE((*server)->port(), 0);
  EXPECT_EQ((*server)->address(), absl::StrCat("127.0.0.1:", (*server)->port()));

  const std::string text = Scrape((*server)->port());
  EXPECT_THAT(text, HasSubstr("200 OK"));
  EXPECT_THAT(text, HasSubstr("reprise_tokens_total{kind=\"prompt\"} 3"));
  EXPECT_THAT(text, HasSubstr("reprise_queue_depth 5"));
  EXPECT_THAT(text, HasSubstr("reprise_step_seconds_bucket{le=\"0.1\"} 1"));
  EXPECT_THAT(text, HasSubstr("reprise_step_seconds_bucket{le=\"10\"} 2"));
  EXPECT_THAT(text, HasSubstr("reprise_step_seconds_count 2"));
  EXPECT_THAT(text, HasSubstr("reprise_build_info{role=\"worker\",version=\"1.2\"} 1"));
  EXPECT_THAT(text, HasSubstr("# TYPE reprise_process_cpu_seconds_total counter"));
  EXPECT_THAT(text, HasSubstr("reprise_process_start_time_seconds 1"));
  EXPECT_THAT(text, HasSubstr("reprise_bugs_total 0"));
  for (const char* name : {"reprise_process_resident_bytes", "reprise_process_open_fds"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\n", name, " ")));
    EXPECT_THAT(text, Not(HasSubstr(absl::StrCat("\n", name, " 0\n"))));
  }
}

TEST(Metrics, TheServerGoesWithItsOwner) {
  MetricsRegistry registry;
  auto server = ServeMetrics(registry, "localhost:0");
  ASSERT_TRUE(server.ok()) << server.status();
  const uint16_t port = (*server)->port();
  EXPECT_NE(Scrape(port), "");
  server->reset();
  EXPECT_EQ(Scrape(port), "");
}

TEST(Metrics, CallbacksRunAtEachScrape) {
  MetricsRegistry registry;
  double free_blocks = 10;
  registry.RegisterCallbackGauge("reprise_free_blocks", "Free.", [&] { return free_blocks; },
                                 {{"tier", "memory"}});
  registry.RegisterCallbackGauge("reprise_free_blocks", "Free.", [] { return 99; },
                                 {{"tier", "disk"}});
  EXPECT_THAT(registry.Serialize(), HasSubstr("reprise_free_blocks{tier=\"memory\"} 10"));
  free_blocks = 4;
  const std::string text = registry.Serialize();
  EXPECT_THAT(text, HasSubstr("reprise_free_blocks{tier=\"memory\"} 4"));
  EXPECT_THAT(text, HasSubstr("reprise_free_blocks{tier=\"disk\"} 99"));
  EXPECT_EQ(Count(text, "# TYPE reprise_free_blocks gauge"), 1u);
}

TEST(Metrics, GiveTheSameHandleForTheSameLabels) {
  MetricsRegistry registry;
  Counter& first = registry.AddCounter("reprise_x_total", "X.", {{"a", "1"}, {"b", "2"}});
  EXPECT_EQ(&registry.AddCounter("reprise_x_total", "X.", {{"b", "2"}, {"a", "1"}}), &first);
  EXPECT_NE(&registry.AddCounter("reprise_x_total", "X.", {{"a", "1"}, {"b", "3"}}), &first);
  first.Increment(-5);
  first.Increment();
  EXPECT_EQ(first.Value(), 1);
}

TEST(Metrics, BoundTheSeriesOfAFamily) {
  MetricsRegistry registry;
  for (int i = 0; i < 3000; ++i) {
    registry.AddCounter("reprise_by_tenant_total", "T.", {{"tenant", absl::StrCat("t", i)}})
        .Increment();
  }
  const std::string text = registry.Serialize();
  EXPECT_EQ(Count(text, "\nreprise_by_tenant_total{"), kSeriesPerFamilyMax);
  EXPECT_THAT(text, HasSubstr("reprise_by_tenant_total{tenant=\"other\"} 2001\n"));
  // Known series keep their own place.
  registry.AddCounter("reprise_by_tenant_total", "T.", {{"tenant", "t5"}}).Increment();
  EXPECT_THAT(registry.Serialize(), HasSubstr("reprise_by_tenant_total{tenant=\"t5\"} 2\n"));
}

TEST(Metrics, KeepForeignLabelValuesPrintable) {
  MetricsRegistry registry;
  registry.AddGauge("reprise_g", "G.", {{"model", "a\xff\n\"b"}}).Set(1);
  EXPECT_THAT(registry.Serialize(), HasSubstr("reprise_g{model=\"a??\\\"b\"} 1"));
}

TEST(Metrics, LoseNoIncrementsOfSeveralThreads) {
  MetricsRegistry registry;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        registry.AddCounter("reprise_y_total", "Y.", {{"i", absl::StrCat(i % 10)}}).Increment();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(registry.AddCounter("reprise_y_total", "Y.", {{"i", absl::StrCat(i)}}).Value(), 400);
  }
}

TEST(ServeMetrics, RefusesForeignAndOccupiedAddresses) {
  MetricsRegistry registry;
  EXPECT_TRUE(absl::IsPermissionDenied(ServeMetrics(registry, "0.0.0.0:0").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ServeMetrics(registry, "nowhere").status()));
  const auto first = ServeMetrics(registry, "127.0.0.1:0");
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(absl::IsUnavailable(ServeMetrics(registry, (*first)->address()).status()));
}

TEST(MetricsDeathTest, NamesAreOurs) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  MetricsRegistry registry;
  EXPECT_DEATH(registry.AddGauge("queue_depth", "Q."), "queue_depth");
  EXPECT_DEATH(registry.AddCounter("reprise_tokens", "T."), "reprise_tokens");
  EXPECT_DEATH(registry.AddGauge("reprise_g", "G.", {{"bad-label", "x"}}), "reprise_g");
  EXPECT_DEATH(registry.RegisterCallbackGauge("reprise_build_info", "B.", [] { return 0; }),
               "reprise_build_info");
}

}  // namespace
}  // namespace reprise
