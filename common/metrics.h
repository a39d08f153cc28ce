// Prometheus metrics of one process and the /metrics door that serves them. A thin wrapper over
// prometheus-cpp that hides its headers and turns its exceptions into statuses. Owned by the role's
// server; any thread.
//
// 1. Names start with reprise_, exactly those of counters end in _total, and one name is one kind.
//    A violation aborts: names are constants of the program.
// 2. A family holds at most kSeriesPerFamilyMax series; label values beyond become "other".
// 3. Handles live as long as the registry. Adding the same name and labels again gives the same
//    one.
#ifndef REPRISE_COMMON_METRICS_H_
#define REPRISE_COMMON_METRICS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/bind_address.h"
#include "common/status.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace reprise {

using MetricLabels = std::map<std::string, std::string>;

inline constexpr size_t kSeriesPerFamilyMax = 1000;

class Counter {
 public:
  explicit Counter(prometheus::Counter* impl) : impl_(impl) {}
  void Increment(double by = 1);  // negative amounts are ignored
  double Value() const;

 private:
  prometheus::Counter* impl_;
};

class Gauge {
 public:
  explicit Gauge(prometheus::Gauge* impl) : impl_(impl) {}
  void Set(double value);
  void Add(double by);
  double Value() const;

 private:
  prometheus::Gauge* impl_;
};

class Histogram {
 public:
  explicit Histogram(prometheus::Histogram* impl) : impl_(impl) {}
  void Observe(double value);

 private:
  prometheus::Histogram* impl_;
};

// Upper bounds `first`, `first * factor`, ... (`count` of them).
std::vector<double> ExponentialBuckets(double first, double factor, int count);
// Seconds from 100 us to about 100 s, two buckets an octave: for TTFT, ITL and operation times.
const std::vector<double>& LatencyBuckets();

class MetricsRegistry {
 public:
  // Includes the process: resident bytes, CPU seconds, open descriptors, start time, bugs,
  // reprise_build_info with `role` and `version`, and hits of failpoints once one was armed.
  explicit MetricsRegistry(absl::string_view role = "", absl::string_view version = "");
  ~MetricsRegistry();
  MetricsRegistry(const MetricsRegistry&) = delete;
  MetricsRegistry& operator=(const MetricsRegistry&) = delete;

  Counter& AddCounter(const std::string& name, const std::string& help,
                      const MetricLabels& labels = {});
  Gauge& AddGauge(const std::string& name, const std::string& help,
                  const MetricLabels& labels = {});
  // `buckets` are ascending upper bounds; every series of a family has the first one's.
  Histogram& AddHistogram(const std::string& name, const std::string& help,
                          const MetricLabels& labels, const std::vector<double>& buckets);

  // `read` runs at each scrape, on a server thread, with no lock of the registry held. What it
  // captures must live until the last MetricsServer of this registry is gone.
  void RegisterCallbackGauge(const std::string& name, const std::string& help,
                             std::function<double()> read, const MetricLabels& labels = {});
  // As above, for a total that something else counts.
  void RegisterCallbackCounter(const std::string& name, const std::string& help,
                               std::function<double()> read, const MetricLabels& labels = {});

  // The exposition text a scrape gets.
  std::string Serialize() const;

 private:
  friend class MetricsServer;
  friend StatusOr<std::unique_ptr<class MetricsServer>> ServeMetrics(const MetricsRegistry&,
                                                                     absl::string_view);
  struct Impl;
  std::shared_ptr<Impl> impl_;  // shared with the server, which holds it weakly during scrapes
};

// Serves GET /metrics until destroyed.
class MetricsServer {
 public:
  ~MetricsServer();
  uint16_t port() const;
  std::string address() const;  // HOST:PORT

 private:
  friend StatusOr<std::unique_ptr<MetricsServer>> ServeMetrics(const MetricsRegistry&,
                                                               absl::string_view);
  struct Impl;
  explicit MetricsServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// `address` is HOST:PORT on loopback, port 0 for any free one. UNAVAILABLE when it cannot listen.
StatusOr<std::unique_ptr<MetricsServer>> ServeMetrics(const MetricsRegistry& registry,
                                                      absl::string_view address);

}  // namespace reprise

#endif  // REPRISE_COMMON_METRICS_H_
