// Every failure of every role on one standing cluster under load, some times over, and then a kill
// at every named moment of the protocol. All transcripts must equal those of undisturbed runs.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/bench_main.h"
#include "common/percentile.h"
#include "tests/failover/cases.h"
#include "tests/failover/phases.h"

namespace reprise::bench {
namespace {

constexpr int kStreams = 24;
constexpr int64_t kRequestsApart = 10'000'000;

struct Sums {
  int64_t streams = 0;
  int64_t tokens = 0;
  int64_t unequal = 0;  // streams whose transcript was not that of the undisturbed run
  void Add(const harness::LoadTotals& t) {
    streams += t.streams;
    tokens += t.received;
    unequal += t.lost + t.duplicated + t.different + t.errors;
  }
};

class Roles {
 public:
  Roles(const BenchFlags& flags, Report& report)
      : setting_(harness::StandingSetting(flags.reprise)),
        runs_(flags.long_run ? 20 : 5),
        report_(report) {}

  Status Run() {
    ASSIGN_OR_RETURN(cluster_, harness::StartCluster(setting_));
    for (int run = 0; run < runs_; ++run) {
      for (const harness::Case& story : harness::EveryRole()) {
        RETURN_IF_ERROR(PlayOnce(story));
      }
    }
    for (const auto& [name, gaps] : gaps_ms_) {
      report_.Note(absl::StrFormat("%-52s longest gap of hit streams: median %.0f ms, worst %.0f",
                                   name, Median(gaps), Percentile(gaps, 100)));
    }
    report_.Bar("untrue_stories", untrue_, "==", 0, stories_);
    report_.Bar("unequal_transcripts", static_cast<double>(sums_.unequal), "==", 0, sums_.streams);
    RETURN_IF_ERROR(Coverage());
    report_.Figure("tokens_checked", static_cast<double>(sums_.tokens), "");
    return absl::OkStatus();
  }

 private:
  // A cluster that could not be brought back is replaced: the story counts as untrue.
  Status PlayOnce(const harness::Case& story) {
    const auto outcome = harness::Play(*cluster_, setting_, story, kStreams, NextRequests());
    const Status verdict = outcome.ok() ? harness::Judge(story, *outcome) : outcome.status();
    ++stories_;
    untrue_ += !verdict.ok();
    if (outcome.ok()) {
      sums_.Add(outcome->totals);
      auto& gaps = gaps_ms_[story.name];
      gaps.insert(gaps.end(), outcome->totals.hit_gaps_ms.begin(),
                  outcome->totals.hit_gaps_ms.end());
    }
    if (!verdict.ok()) report_.Note(verdict.ToString());
    std::fprintf(stderr, "%s: %s\n", story.name.c_str(), verdict.ToString().c_str());
    if (outcome.ok()) return absl::OkStatus();
    return StartAnew();
  }

  Status StartAnew() {
    cluster_ = nullptr;
    ASSIGN_OR_RETURN(cluster_, harness::StartCluster(setting_));
    return absl::OkStatus();
  }

  Status Coverage() {
    setting_ = harness::PhaseSetting(setting_.program);
    RETURN_IF_ERROR(StartAnew());
    int hit = 0;
    Sums sums;
    const std::vector<harness::Phase> phases = harness::AllPhases();
    for (const harness::Phase& phase : phases) {
      const auto outcome = harness::PlayPhase(*cluster_, setting_, phase, kStreams, NextRequests());
      if (outcome.ok()) sums.Add(outcome->totals);
      const bool cell = outcome.ok() && outcome->hit;
      hit += cell;
      std::string line = absl::StrFormat("killed at %-28s %-10s %s", phase.failpoint, phase.victim,
                                         cell ? "hit" : "NOT HIT");
      if (!outcome.ok()) absl::StrAppend(&line, "; ", outcome.status().ToString());
      if (outcome.ok() && !outcome->totals.first_error.ok()) {
        absl::StrAppend(&line, "; ", outcome->totals.first_error.ToString());
      }
      report_.Note(line);
      std::fprintf(stderr, "%s\n", line.c_str());
      if (!outcome.ok()) RETURN_IF_ERROR(StartAnew());
    }
    report_.Bar("coverage_cells", static_cast<double>(phases.size()), ">=", 20, phases.size());
    report_.Bar("coverage_cells_not_hit", static_cast<double>(phases.size()) - hit, "==", 0,
                phases.size());
    report_.Bar("unequal_transcripts_at_phases", static_cast<double>(sums.unequal), "==", 0,
                sums.streams);
    sums_.tokens += sums.tokens;
    return absl::OkStatus();
  }

  int64_t NextRequests() { return kRequestsApart * next_++; }

  harness::Setting setting_;
  const int runs_;
  Report& report_;
  std::unique_ptr<harness::Cluster> cluster_;
  int64_t next_ = 0;
  Sums sums_;
  int stories_ = 0;
  int untrue_ = 0;
  std::map<std::string, std::vector<double>> gaps_ms_;
};

Status Run(const BenchFlags& flags, Report& report) { return Roles(flags, report).Run(); }

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("roles", argc, argv, reprise::bench::Run);
}
