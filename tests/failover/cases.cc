#include "tests/failover/cases.h"

#include <signal.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "tests/cluster/counters.h"
#include "tests/cluster/poll.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kPatienceNs = 60 * kSecond;  // liveness only: no story takes this long
constexpr int kPromptTokens = 100;            // beyond the least for a remote prefill
constexpr int kMaxTokens = 80;

constexpr char kRestored[] = "reprise_worker_restored_rows_total";
constexpr char kReplayed[] = "reprise_worker_replayed_rows_total";
constexpr char kRefused[] = "reprise_stale_refused_total";

Status Ends(Cluster& cluster, const std::string& name) {
  if (cluster.WaitEnd(name, kPatienceNs).has_value()) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat(name, " still runs"));
}

Status DiesAt(Cluster& cluster, const std::string& name, const std::string& moment) {
  RETURN_IF_ERROR(cluster.Arm(name, moment + "=kill@1"));
  return Ends(cluster, name);
}

// The worker is given up by everybody and comes back to life when its requests are elsewhere.
Status FreezesAndThaws(Cluster& cluster, const std::string& name) {
  RETURN_IF_ERROR(cluster.Freeze(name));
  RETURN_IF_ERROR(AwaitMovedAway(cluster, name));
  return cluster.Thaw(name);
}

Status IsDrained(Cluster& cluster, const std::string& name) {
  const auto end = cluster.WaitEnd(name, kPatienceNs);
  if (!end.has_value()) return absl::DeadlineExceededError(absl::StrCat(name, " did not end"));
  if (end->ok()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(name, " ended with ", end->ToString(),
                                          "; the end of its log:\n", cluster.LastLogLines(name)));
}

std::vector<std::string> Coordinators(const Cluster& cluster) {
  std::vector<std::string> names = cluster.names();
  std::erase_if(names, [](const std::string& name) { return name.find("coordinator") != 0; });
  return names;
}

std::vector<Case> Deaths() {
  return {
      {.name = "a prefill worker dies in mid-prompt",
       .happens = [](Cluster& c) { return DiesAt(c, "prefill-0", "worker.leg.layer"); },
       .must_hit = false},
      {.name = "a decode worker dies",
       .happens = [](Cluster& c) { return c.Kill("decode-0"); },
       .hit_share_max = 0.6,
       .restored = true},
      {.name = "two adjacent workers die at once",
       .happens =
           [](Cluster& c) {
             return c.KillAll({"decode-1", "decode-2"});
           },
       .hit_share_max = 0.85,
       .restored = true},
      {.name = "a gateway dies",
       .happens = [](Cluster& c) { return c.Kill("gateway-0"); },
       .hit_share_max = 0.85},
      {.name = "a gateway and a decode worker die together",
       .happens =
           [](Cluster& c) {
             return c.KillAll({"gateway-1", "decode-3"});
           },
       .hit_share_max = 0.95},
      {.name = "a store and a decode worker die together",
       .happens =
           [](Cluster& c) {
             return c.KillAll({"store-0", "decode-0"});
           },
       .hit_share_max = 0.6,
       .restored = true},
      {.name = "a prefill and a decode worker die together",
       .happens =
           [](Cluster& c) {
             return c.KillAll({"prefill-0", "decode-1"});
           },
       .hit_share_max = 0.6,
       .restored = true},
      {.name = "the leading coordinator and a decode worker die together",
       .happens =
           [](Cluster& c) {
             ASSIGN_OR_RETURN(const std::string leader, c.Leader());
             return c.KillAll({leader, "decode-2"});
           },
       .hit_share_max = 0.6,
       .restored = true},
  };
}

std::vector<Case> Returns() {
  const auto store_returns = [](bool with_disk) {
    return [with_disk](Cluster& c) {
      RETURN_IF_ERROR(c.Kill("store-1"));
      std::error_code ignored;
      if (!with_disk) std::filesystem::remove(c.dir() + "/store-1.blocks", ignored);
      return c.Restart("store-1");
    };
  };
  return {
      {.name = "a store dies and returns empty",
       .happens = store_returns(false),
       .hit_share_max = 0,
       .must_hit = false},
      {.name = "a store dies and returns with its disk",
       .happens = store_returns(true),
       .hit_share_max = 0,
       .must_hit = false},
      {.name = "the coordinators die and fresh ones take over",
       .happens =
           [](Cluster& c) {
             RETURN_IF_ERROR(c.KillAll(Coordinators(c)));
             for (const std::string& name : Coordinators(c)) RETURN_IF_ERROR(c.BeginRestart(name));
             return absl::OkStatus();
           },
       .hit_share_max = 0,
       .must_hit = false},
      {.name = "the leading coordinator dies",
       .happens =
           [](Cluster& c) {
             ASSIGN_OR_RETURN(const std::string leader, c.Leader());
             return c.Kill(leader);
           },
       .hit_share_max = 0,
       .must_hit = false},
      {.name = "a decode worker freezes, thaws and is refused",
       .happens = [](Cluster& c) { return FreezesAndThaws(c, "decode-1"); },
       .hit_share_max = 0.6,
       .stale_refused = true,
       .restored = true},
  };
}

std::vector<Case> Drains() {
  return {
      {.name = "a decode worker is drained by the coordinator",
       .happens =
           [](Cluster& c) {
             RETURN_IF_ERROR(c.Drain("decode-2"));
             return IsDrained(c, "decode-2");
           },
       .hit_share_max = 0.6},
      {.name = "a decode worker is drained by SIGTERM",
       .happens =
           [](Cluster& c) {
             RETURN_IF_ERROR(c.Signal("decode-3", SIGTERM));
             return IsDrained(c, "decode-3");
           },
       .hit_share_max = 0.6},
  };
}

}  // namespace

Status AwaitMovedAway(Cluster& cluster, const std::string& name) {
  RETURN_IF_ERROR(PollUntil(absl::StrCat("a verdict about ", name), kPatienceNs,
                            [&] { return cluster.GivenUp(name); }));
  StopSignal never;
  never.WaitFor(kSecond);
  return absl::OkStatus();
}

std::vector<Case> EveryRole() {
  std::vector<Case> all = Deaths();
  for (const auto& more : {Returns(), Drains()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

Setting StandingSetting(const std::string& program) {
  Setting setting;
  setting.program = program;
  setting.prefill_workers = 1;
  setting.coordinators = 2;
  setting.replica_stores = 2;
  setting.store_disks = true;
  setting.failpoints = true;
  setting.step_ms = 10;
  return setting;
}

StatusOr<Outcome> Play(Cluster& cluster, const Setting& setting, const Case& story, int streams,
                       int64_t first_request) {
  Counters counters(cluster, {kRestored, kReplayed, kRefused});
  counters.AskAll();
  const auto before = [&](const char* family) { return counters.Total(family); };
  Outcome outcome{.restored_rows = -before(kRestored),
                  .replayed_rows = -before(kReplayed),
                  .stale_refused = -before(kRefused)};
  const int64_t third = int64_t{streams} * kMaxTokens / 3;
  CheckedLoad load(TimedLoad(setting, cluster, streams, kPromptTokens, kMaxTokens, first_request));
  RETURN_IF_ERROR(load.WaitForTokens(third, kPatienceNs));
  const TimeNs at = RealClock().NowNs();
  RETURN_IF_ERROR(story.happens(cluster));
  RETURN_IF_ERROR(load.WaitForTokens(load.tokens() + third, kPatienceNs));
  RETURN_IF_ERROR(load.Stop(kPatienceNs));
  counters.AskAll();
  RETURN_IF_ERROR(cluster.Repair());
  counters.AskAll();
  const std::vector<StreamResult> results = load.results();
  outcome.totals = Sum(results);
  for (const StreamResult& r : results) {
    const bool under_way = r.first_ns != 0 && r.first_ns < at && r.end_ns > at;
    outcome.under_way += under_way;
    outcome.under_way_hit += under_way && r.hit();
  }
  outcome.restored_rows += counters.Total(kRestored);
  outcome.replayed_rows += counters.Total(kReplayed);
  outcome.stale_refused += counters.Total(kRefused);
  return outcome;
}

Status Judge(const Case& story, const Outcome& o) {
  const LoadTotals& t = o.totals;
  const auto untrue = [&](const auto&... what) {
    return absl::InternalError(absl::StrCat(story.name, ": ", what...));
  };
  if (t.errors > 0) {
    return untrue(t.errors, " of ", t.streams, " streams failed, first ", t.first_error.ToString());
  }
  if (t.lost + t.duplicated + t.different > 0) {
    return untrue("of ", t.received, " tokens ", t.lost, " were lost, ", t.duplicated,
                  " came twice, ", t.different, " were different");
  }
  if (o.under_way == 0) return untrue("no stream was under way");
  if (story.must_hit && o.under_way_hit == 0) return untrue("it hit no stream");
  const double share = static_cast<double>(o.under_way_hit) / static_cast<double>(o.under_way);
  if (share > story.hit_share_max) {
    return untrue("it hit ", o.under_way_hit, " of ", o.under_way, " streams under way, at most ",
                  story.hit_share_max, " of them may be");
  }
  if (story.stale_refused && o.stale_refused <= 0) return untrue("nothing stale was refused");
  if (story.restored && o.restored_rows <= 0) return untrue("no row came back from a replica");
  return absl::OkStatus();
}

}  // namespace reprise::harness
