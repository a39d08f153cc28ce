// What a cluster of three workers and two stores (`reprise up`) costs while nobody asks anything:
// processor time of all its processes over spans of ten seconds, and how often their threads wake,
// for on an idle machine that is what the time goes into. The least of the spans is the cluster's
// own; what else the machine does only adds to it. Beside it, what one thread pays that does
// nothing but wake: on a virtual machine, far more than the work it wakes for.
#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "bench/bench_main.h"
#include "cli/client/generation_client.h"
#include "common/percentile.h"
#include "common/role.h"
#include "common/thread.h"
#include "tests/cluster/up.h"

namespace reprise::bench {
namespace {

constexpr double kIdleCoreMax = 0.03;
constexpr TimeNs kSettleNs = 3 * kSecond;
constexpr TimeNs kSpanNs = 10 * kSecond;
constexpr int kSpans = 3;
constexpr int kSpansLong = 12;
constexpr int kBareWakes = 100;

struct Use {
  double cpu_seconds = 0;
  int64_t sleeps = 0;
};

StatusOr<Use> UseOf(const harness::Up& up) {
  std::vector<pid_t> pids = up.ChildPids();
  pids.push_back(up.pid());
  Use use;
  for (const pid_t pid : pids) {
    ASSIGN_OR_RETURN(const auto threads, harness::ThreadCpuSeconds(pid));
    for (const auto& [name, seconds] : threads) use.cpu_seconds += seconds;
    ASSIGN_OR_RETURN(const int64_t sleeps, harness::ProcessSleeps(pid));
    use.sleeps += sleeps;
  }
  return use;
}

// Processor time of one wake of a thread that has nothing to do.
double BareWakeMicroseconds() {
  TimeNs spent = 0;
  Thread waker("waker", [&] {
    StopSignal never;
    const TimeNs start = ThreadCpuClock().NowNs();
    for (int i = 0; i < kBareWakes; ++i) never.WaitFor(20 * kMillisecond);
    spent = ThreadCpuClock().NowNs() - start;
  });
  waker.Join();
  return static_cast<double>(spent) / kBareWakes / kMicrosecond;
}

Status Run(const BenchFlags& flags, Report& report) {
  ASSIGN_OR_RETURN(const auto up, harness::Up::Start(flags.reprise, flags.models + "/demo"));
  {
    client::GenerationClient client({.address = up->gateway()});
    v1::GenerateRequest request;
    request.set_text("Once upon a time");
    RETURN_IF_ERROR(client.Generate(request).status());
  }
  StopSignal never;
  never.WaitFor(kSettleNs);
  std::vector<double> cores;
  std::vector<double> wakes;
  for (int span = 0; span < (flags.long_run ? kSpansLong : kSpans); ++span) {
    ASSIGN_OR_RETURN(const Use before, UseOf(*up));
    const TimeNs start = RealClock().NowNs();
    never.WaitFor(kSpanNs);
    ASSIGN_OR_RETURN(const Use after, UseOf(*up));
    const double seconds = SecondsFromNs(RealClock().NowNs() - start);
    cores.push_back((after.cpu_seconds - before.cpu_seconds) / seconds);
    wakes.push_back(static_cast<double>(after.sleeps - before.sleeps) / seconds);
  }
  report.Figure("bare_wake", BareWakeMicroseconds(), "us");
  report.Figure("wakes", Median(wakes), "1/s");
  report.Figure("idle_cores_median", Median(cores), "of one");
  report.Bar("idle_cores", *std::min_element(cores.begin(), cores.end()), "<=", kIdleCoreMax,
             static_cast<int64_t>(cores.size()));
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("idle", argc, argv, reprise::bench::Run);
}
