// Two groups of ranks serve one model: tensor by pipeline (pp2,tp2) and context-parallel (cp4),
// nine processes besides coordinator, gateway and stores. Random ranks are killed, drivers
// included, half of them with a warm spare beside each group and half without. Every token of every
// stream is compared with what one process alone gives. A rank's death is mended inside the group
// (the driver gives the place and its rows to another process); a driver's is the worker's, and its
// streams go on at the other group from the stores.
#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "bench/bench_main.h"
#include "common/json.h"
#include "common/percentile.h"
#include "common/random.h"
#include "tests/cluster/counters.h"
#include "tests/cluster/setting.h"

namespace reprise::bench {
namespace {

using harness::LoadTotals;

constexpr int kKillsEach = 25;
constexpr int kStreams = 12;
constexpr int kRequests = 12;  // different ones
constexpr int kTokens = 120;
constexpr TimeNs kEndTimeoutNs = 120 * kSecond;
// The dead process comes back after so long.
constexpr TimeNs kRestartAfterNs = kSecond;
constexpr TimeNs kBetweenNs = kSecond;

constexpr char kGiven[] = "reprise_group_rows_given_total";
constexpr char kReplaced[] = "reprise_group_places_replaced_total";
constexpr char kRestored[] = "reprise_worker_restored_rows_total";

harness::Setting GroupSetting(const BenchFlags& flags, const std::string& model, int spares) {
  harness::Setting setting = harness::OneWorker(flags.reprise, model);
  setting.decode_workers = 2;
  setting.stores = 2;
  setting.replica_stores = 1;
  setting.groups = {{"decode-0", "pp2,tp2"}, {"decode-1", "cp4"}};
  setting.group_spares = spares;
  return setting;
}

// Short prompts, and some longer than a stripe of the context ranks.
v1::GenerateRequest Request(int number) {
  v1::GenerateRequest request;
  const int prompt = number % 3 == 0 ? 700 + 40 * number : 20 + 5 * number;
  for (int i = 0; i < prompt; ++i) {
    request.mutable_ids()->add_ids(1 + (number * 131 + i * i * 7 + i) % 500);
  }
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(number % 2 == 0 ? 0.0F : 1.0F);
  sampling.set_seed(static_cast<uint64_t>(number));
  sampling.set_max_tokens(kTokens);
  sampling.set_ignore_eos(true);
  return request;
}

StatusOr<std::vector<harness::CheckedRequest>> OneProcess(const BenchFlags& flags,
                                                          const std::string& model) {
  ASSIGN_OR_RETURN(const auto cluster,
                   harness::StartCluster(harness::OneWorker(flags.reprise, model)));
  std::vector<v1::GenerateRequest> requests;
  for (int i = 0; i < kRequests; ++i) requests.push_back(Request(i));
  return harness::RunForTranscripts(cluster->gateways().front(), requests);
}

// What drivers logged of the epochs they formed after a death, in ms.
struct Formations {
  std::vector<double> find, join, load;
};

Formations ReadFormations(const harness::Cluster& cluster) {
  Formations formations;
  for (const char* worker : {"decode-0", "decode-1"}) {
    std::ifstream log(cluster.log_path(worker));
    for (std::string line; std::getline(log, line);) {
      if (!absl::StrContains(line, "\"group_formed\"")) continue;
      const auto event = ParseJson(line);
      if (!event.ok()) continue;
      const auto number = [&](const char* field) {
        return GetNumber(*event, field, 0).value_or(0);
      };
      if (number("epoch") < 2) continue;  // the driver's own start
      formations.find.push_back(number("find_ms"));
      formations.join.push_back(number("join_ms") - number("load_ms"));
      formations.load.push_back(number("load_ms"));
    }
  }
  return formations;
}

struct Outcome {
  LoadTotals totals;
  int kills = 0;
  int driver_kills = 0;
  int hangs = 0;
  double given = 0;
  double restored = 0;
  double replaced = 0;
  Formations formations;
};

StatusOr<Outcome> RunKills(const harness::Setting& setting,
                           const std::vector<harness::CheckedRequest>& requests, int kills,
                           uint64_t seed) {
  ASSIGN_OR_RETURN(const auto cluster, harness::StartCluster(setting));
  harness::Counters counters(*cluster, {kGiven, kReplaced, kRestored});
  harness::CheckedLoad load(harness::InTurn(cluster->gateways(), kStreams, requests));
  RETURN_IF_ERROR(load.WaitForTokens(kStreams * 20, kEndTimeoutNs));
  SplitMix64 random(seed);
  StopSignal never;
  Outcome outcome;
  for (; outcome.kills < kills; ++outcome.kills) {
    const uint64_t rank = random.Below(4);
    std::string victim = absl::StrCat("decode-", random.Below(2));
    outcome.driver_kills += rank == 0;
    if (rank > 0) absl::StrAppend(&victim, "-rank-", rank);
    counters.AskAll();
    RETURN_IF_ERROR(cluster->Kill(victim));
    never.WaitFor(kRestartAfterNs);
    RETURN_IF_ERROR(cluster->BeginRestart(victim));
    RETURN_IF_ERROR(cluster->WaitLive());
    // Something must have come of it before the next one.
    RETURN_IF_ERROR(load.WaitForTokens(load.tokens() + kStreams, kEndTimeoutNs));
    never.WaitFor(kBetweenNs);
  }
  outcome.hangs = load.Stop(kEndTimeoutNs).ok() ? 0 : load.running();
  counters.AskAll();
  outcome.totals = harness::Sum(load.results());
  outcome.given = counters.Total(kGiven);
  outcome.replaced = counters.Total(kReplaced);
  outcome.restored = counters.Total(kRestored);
  outcome.formations = ReadFormations(*cluster);
  return outcome;
}

void ReportOutcome(const std::string& prefix, const Outcome& o, Report& report) {
  const LoadTotals& t = o.totals;
  if (!t.first_error.ok()) report.Note(prefix + "first error: " + t.first_error.ToString());
  report.Figure(prefix + "driver_kills", o.driver_kills, "");
  report.Figure(prefix + "places_replaced", o.replaced, "");
  report.Figure(prefix + "streams", static_cast<double>(t.streams), "");
  report.Figure(prefix + "streams_hit", static_cast<double>(t.hit), "");
  report.Figure(prefix + "hit_gap_p50", Percentile(t.hit_gaps_ms, 50), "ms");
  report.Figure(prefix + "untouched_gap_p99", Percentile(t.untouched_gaps_ms, 99), "ms");
  report.Figure(prefix + "formations", static_cast<double>(o.formations.find.size()), "");
  report.Figure(prefix + "find_p50", Percentile(o.formations.find, 50), "ms");
  report.Figure(prefix + "join_p50", Percentile(o.formations.join, 50), "ms");
  report.Figure(prefix + "load_p50", Percentile(o.formations.load, 50), "ms");
  report.Figure(prefix + "rows_given_to_ranks", o.given, "");
  report.Figure(prefix + "rows_from_stores", o.restored, "");
}

Status Run(const BenchFlags& flags, Report& report) {
  ASSIGN_OR_RETURN(const std::string model, MadeModel(flags, "tiny-wide"));
  ASSIGN_OR_RETURN(const auto requests, OneProcess(flags, model));
  const int kills = flags.long_run ? 4 * kKillsEach : kKillsEach;
  const uint64_t seed = RandomU64() % 1'000'000;
  report.Note(absl::StrCat("seed of the kills ", seed));
  ASSIGN_OR_RETURN(const Outcome warm,
                   RunKills(GroupSetting(flags, model, 1), requests, kills, seed));
  ASSIGN_OR_RETURN(const Outcome cold,
                   RunKills(GroupSetting(flags, model, 0), requests, kills, seed + 1));
  ReportOutcome("spares_", warm, report);
  ReportOutcome("no_spares_", cold, report);
  const int64_t streams = warm.totals.streams + cold.totals.streams;
  const auto wrong = [](const LoadTotals& t) {
    return static_cast<double>(t.lost + t.duplicated + t.different + t.errors);
  };
  report.Bar("kills", warm.kills + cold.kills, ">=", 50, warm.kills + cold.kills);
  report.Bar("transcripts_different", wrong(warm.totals) + wrong(cold.totals), "==", 0, streams);
  report.Bar("hangs", warm.hangs + cold.hangs, "==", 0, streams);
  report.Bar("rows_restored_in_groups", std::min(warm.given, cold.given), ">", 0, warm.kills);
  report.Bar("rows_restored_from_stores", warm.restored + cold.restored, ">", 0,
             warm.driver_kills + cold.driver_kills);
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("group-kill", argc, argv, reprise::bench::Run);
}
