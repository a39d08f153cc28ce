// clang-format off: mutex.h comes first, since Abseil's headers define some of its macros.
#include "common/mutex.h"
// clang-format on
#include <dirent.h>
#include <netdb.h>
#include <prometheus/check_names.h>
#include <prometheus/client_metric.h>
#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/match.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/role.h"
#include "common/thread.h"

namespace reprise {
namespace {

enum class FamilyKind { kCounter, kGauge, kHistogram, kCallbackCounter, kCallbackGauge };

// Label names and metric names are constants of the program; a wrong one would split dashboards.
bool ValidNames(const std::string& name, const MetricLabels& labels, FamilyKind kind) {
  const bool counter = kind == FamilyKind::kCounter || kind == FamilyKind::kCallbackCounter;
  bool valid = absl::StartsWith(name, "reprise_") && prometheus::CheckMetricName(name) &&
               absl::EndsWith(name, "_total") == counter;
  for (const auto& [label, value] : labels) valid = valid && prometheus::CheckLabelName(label);
  return valid;
}

// The exposition format is UTF-8, and label values come from outside.
std::string Printable(const std::string& value) {
  std::string result = value.substr(0, 200);
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return result;
}

struct CallbackSeries {
  std::string name;
  std::string help;
  MetricLabels labels;
  prometheus::MetricType type;
  std::function<double()> read;
};

prometheus::ClientMetric ReadSeries(const CallbackSeries& series) {
  prometheus::ClientMetric metric;
  for (const auto& [name, value] : series.labels) metric.label.push_back({name, Printable(value)});
  const double value = series.read();
  if (series.type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return metric;
}

prometheus::MetricFamily FailpointFamily() {
  prometheus::MetricFamily family;
  family.name = "reprise_failpoint_hits_total";
  family.help = "Times a named moment was met; only in a process under test.";
  family.type = prometheus::MetricType::Counter;
  for (const auto& [name, hits] : FailpointHits()) {
    prometheus::ClientMetric metric;
    metric.label.push_back({"name", name});
    metric.counter.value = static_cast<double>(hits);
    family.metric.push_back(std::move(metric));
  }
  return family;
}

double ResidentBytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  long total = 0;
  long resident = 0;
  const int fields = std::fscanf(file, "%ld %ld", &total, &resident);
  std::fclose(file);
  return fields == 2 ? static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE))
                     : 0;
}

double CpuSeconds() {
  rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

double OpenDescriptors() {
  DIR* dir = opendir("/proc/self/fd");
  if (dir == nullptr) return 0;
  int count = -3;  // ".", ".." and the descriptor of this very folder
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}

template <typename Handle, typename Impl>
struct FamilyState {
  prometheus::Family<Impl>* family = nullptr;
  std::vector<double> buckets;
  std::map<MetricLabels, std::unique_ptr<Handle>> series;
};

}  // namespace

void Counter::Increment(double by) {
  if (by > 0) impl_->Increment(by);
}
double Counter::Value() const { return impl_->Value(); }
void Gauge::Set(double value) { impl_->Set(value); }
void Gauge::Add(double by) { impl_->Increment(by); }
double Gauge::Value() const { return impl_->Value(); }
void Histogram::Observe(double value) { impl_->Observe(value); }

std::vector<double> ExponentialBuckets(double first, double factor, int count) {
  std::vector<double> buckets;
  for (int i = 0; i < count; ++i) buckets.push_back(first * std::pow(factor, i));
  return buckets;
}

const std::vector<double>& LatencyBuckets() {
  static const auto& buckets = *new std::vector<double>(ExponentialBuckets(1e-4, std::sqrt(2), 41));
  return buckets;
}

struct MetricsRegistry::Impl : prometheus::Collectable {
  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families = registry.Collect();
    // Copied out, since callbacks run without the lock.
    std::vector<CallbackSeries> pending;
    {
      MutexLock lock(mu);
      pending = callbacks;
    }
    std::map<std::string, prometheus::MetricFamily> by_name;
    for (const CallbackSeries& series : pending) {
      prometheus::MetricFamily& family = by_name[series.name];
      family.name = series.name;
      family.help = series.help;
      family.type = series.type;
      family.metric.push_back(ReadSeries(series));
    }
    for (auto& [name, family] : by_name) families.push_back(std::move(family));
    if (FailpointsArmed()) families.push_back(FailpointFamily());
    return families;
  }

  // One name is one family: two kinds under it would make the exposition invalid.
  void CheckFamily(const std::string& name, const MetricLabels& labels, FamilyKind kind)
      REQUIRES(mu) {
    const bool same_kind = kinds.emplace(name, kind).first->second == kind;
    if (same_kind && ValidNames(name, labels, kind)) return;
    ReportBug("metric_name", {{"metric", name}});
    std::abort();
  }

  // `make_family` runs for a new name, `make` for a new series.
  template <typename Handle, typename T, typename MakeFamily, typename Make>
  Handle& Series(std::map<std::string, FamilyState<Handle, T>>& families, const std::string& name,
                 MetricLabels labels, const MakeFamily& make_family, const Make& make)
      REQUIRES(mu) {
    for (auto& [label, value] : labels) value = Printable(value);
    auto& state = families[name];
    if (state.family == nullptr) state.family = &make_family();
    // The last place is kept for "other".
    if (!state.series.contains(labels) && state.series.size() + 1 >= kSeriesPerFamilyMax) {
      for (auto& [label, value] : labels) value = "other";
    }
    std::unique_ptr<Handle>& handle = state.series[labels];
    if (handle == nullptr) {
      handle =
          std::make_unique<Handle>(&make(state, prometheus::Labels(labels.begin(), labels.end())));
    }
    return *handle;
  }

  void AddCallback(CallbackSeries series) {
    const bool counter = series.type == prometheus::MetricType::Counter;
    MutexLock lock(mu);
    CheckFamily(series.name, series.labels,
                counter ? FamilyKind::kCallbackCounter : FamilyKind::kCallbackGauge);
    callbacks.push_back(std::move(series));
  }

  prometheus::Registry registry;
  mutable Mutex mu;
  std::map<std::string, FamilyKind> kinds GUARDED_BY(mu);
  std::map<std::string, FamilyState<Counter, prometheus::Counter>> counters GUARDED_BY(mu);
  std::map<std::string, FamilyState<Gauge, prometheus::Gauge>> gauges GUARDED_BY(mu);
  std::map<std::string, FamilyState<Histogram, prometheus::Histogram>> histograms GUARDED_BY(mu);
  std::vector<CallbackSeries> callbacks GUARDED_BY(mu);
};

MetricsRegistry::MetricsRegistry(absl::string_view role, absl::string_view version)
    : impl_(std::make_shared<Impl>()) {
  RegisterCallbackGauge("reprise_process_resident_bytes", "Resident memory.", ResidentBytes);
  RegisterCallbackCounter("reprise_process_cpu_seconds_total", "User and system CPU time.",
                          CpuSeconds);
  RegisterCallbackGauge("reprise_process_open_fds", "Open file descriptors.", OpenDescriptors);
  RegisterCallbackCounter("reprise_bugs_total", "Impossible states seen; see the event \"bug\".",
                          [] { return static_cast<double>(BugCount()); });
  AddGauge("reprise_process_start_time_seconds", "Start, in seconds since the epoch.")
      .Set(static_cast<double>(time(nullptr)));
  AddGauge("reprise_build_info", "Always 1.",
           {{"role", std::string(role)}, {"version", std::string(version)}})
      .Set(1);
}

MetricsRegistry::~MetricsRegistry() = default;

Counter& MetricsRegistry::AddCounter(const std::string& name, const std::string& help,
                                     const MetricLabels& labels) {
  Impl& impl = *impl_;
  MutexLock lock(impl.mu);
  impl.CheckFamily(name, labels, FamilyKind::kCounter);
  return impl.Series(
      impl.counters, name, labels,
      [&]() -> auto& {
        return prometheus::BuildCounter().Name(name).Help(help).Register(impl.registry);
      },
      [](auto& state, const prometheus::Labels& l) -> auto& { return state.family->Add(l); });
}

Gauge& MetricsRegistry::AddGauge(const std::string& name, const std::string& help,
                                 const MetricLabels& labels) {
  Impl& impl = *impl_;
  MutexLock lock(impl.mu);
  impl.CheckFamily(name, labels, FamilyKind::kGauge);
  return impl.Series(
      impl.gauges, name, labels,
      [&]() -> auto& {
        return prometheus::BuildGauge().Name(name).Help(help).Register(impl.registry);
      },
      [](auto& state, const prometheus::Labels& l) -> auto& { return state.family->Add(l); });
}

Histogram& MetricsRegistry::AddHistogram(const std::string& name, const std::string& help,
                                         const MetricLabels& labels,
                                         const std::vector<double>& buckets) {
  Impl& impl = *impl_;
  MutexLock lock(impl.mu);
  impl.CheckFamily(name, labels, FamilyKind::kHistogram);
  return impl.Series(
      impl.histograms, name, labels,
      [&]() -> auto& {
        return prometheus::BuildHistogram().Name(name).Help(help).Register(impl.registry);
      },
      [&](auto& state, const prometheus::Labels& l) -> auto& {
        if (state.buckets.empty()) state.buckets = buckets;
        return state.family->Add(l, state.buckets);
      });
}

void MetricsRegistry::RegisterCallbackGauge(const std::string& name, const std::string& help,
                                            std::function<double()> read,
                                            const MetricLabels& labels) {
  impl_->AddCallback({name, help, labels, prometheus::MetricType::Gauge, std::move(read)});
}

void MetricsRegistry::RegisterCallbackCounter(const std::string& name, const std::string& help,
                                              std::function<double()> read,
                                              const MetricLabels& labels) {
  impl_->AddCallback({name, help, labels, prometheus::MetricType::Counter, std::move(read)});
}

std::string MetricsRegistry::Serialize() const {
  return prometheus::TextSerializer().Serialize(impl_->Collect());
}

struct MetricsServer::Impl {
  std::unique_ptr<prometheus::Exposer> exposer;
  HostPort address;
};

namespace {

void ConnectOnce(const HostPort& address) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(address.port);
  if (getaddrinfo(address.host.c_str(), port.c_str(), &hints, &found) != 0) return;
  const int fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
  if (fd >= 0) {
    static_cast<void>(connect(fd, found->ai_addr, found->ai_addrlen));
    close(fd);
  }
  freeaddrinfo(found);
}

}  // namespace

MetricsServer::MetricsServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

// The embedded server looks at its stop flag only between two polls of two seconds; a connection
// ends the poll at once.
MetricsServer::~MetricsServer() {
  if (impl_->exposer == nullptr) return;
  StopSignal stopped;
  const Thread nudge("metrics_stop", [&] {
    do {
      ConnectOnce(impl_->address);
    } while (!stopped.WaitFor(5 * kMillisecond));
  });
  impl_->exposer = nullptr;
  stopped.Stop();
}

uint16_t MetricsServer::port() const { return impl_->address.port; }
std::string MetricsServer::address() const { return impl_->address.ToString(); }

StatusOr<std::unique_ptr<MetricsServer>> ServeMetrics(const MetricsRegistry& registry,
                                                      absl::string_view address) {
  ASSIGN_OR_RETURN(HostPort host_port, ParseHostPort(address));
  RETURN_IF_ERROR(CheckLoopback(host_port.host));
  // The embedded server resolves no names.
  if (host_port.host == "localhost") host_port.host = "127.0.0.1";
  auto impl = std::make_unique<MetricsServer::Impl>();
  try {
    impl->exposer = std::make_unique<prometheus::Exposer>(host_port.ToString());
    impl->exposer->RegisterCollectable(registry.impl_);
    const std::vector<int> ports = impl->exposer->GetListeningPorts();
    if (ports.empty()) return absl::UnavailableError(absl::StrCat("no port at ", address));
    host_port.port = static_cast<uint16_t>(ports.front());
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what()));
  }
  impl->address = std::move(host_port);
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(impl)));
}

}  // namespace reprise
