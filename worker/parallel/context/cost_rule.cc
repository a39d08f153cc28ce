#include "worker/parallel/context/cost_rule.h"

#include <algorithm>

namespace reprise::parallel {
namespace {

double MostBytes(Way way, const Stripes& stripes, const ContextItem& item, const WireShape& wire) {
  int64_t most = 0;
  for (int rank = 0; rank < stripes.ranks(); ++rank) {
    const int64_t bytes = way == Way::kRing ? RingBytes(stripes, item, wire, rank)
                          : way == Way::kGather
                              ? GatherBytes(stripes, item, wire, rank)
                              : QueryBytes(stripes, item, wire, rank, Merge::kGather);
    most = std::max(most, bytes);
  }
  return static_cast<double>(most);
}

// A run counts as so many queries that see this many keys.
int64_t MiddleKeys(const QueryRun& run) { return run.first_position + (run.rows + 1) / 2; }

// Of the rank with the most to do when keys come to the queries.
double KeysComeMacs(const Stripes& stripes, const ContextItem& item, const CostShape& shape) {
  double most = 0;
  for (int rank = 0; rank < stripes.ranks(); ++rank) {
    const std::vector<QueryRun> runs = RunsOf(stripes, {item}, rank);
    double macs = runs.empty() ? 0 : static_cast<double>(runs.back().keys()) * shape.key_macs;
    for (const QueryRun& run : runs) {
      macs += static_cast<double>(run.rows * MiddleKeys(run)) * shape.pair_macs;
    }
    most = std::max(most, macs);
  }
  return most;
}

int64_t TurnsOf(const ContextItem& item, const Machine& machine) {
  return (item.rows + machine.query_rows_max - 1) / machine.query_rows_max;
}

// And when queries come to the keys.
double QueriesComeMacs(const Stripes& stripes, const ContextItem& item, const CostShape& shape,
                       const Machine& machine) {
  double most = 0;
  const auto turns = static_cast<double>(TurnsOf(item, machine));
  for (int keeper = 0; keeper < stripes.ranks(); ++keeper) {
    double macs =
        static_cast<double>(stripes.RowsKept(keeper, item.keys())) * shape.key_macs * turns;
    for (int rank = 0; rank < stripes.ranks(); ++rank) {
      for (const QueryRun& run : RunsOf(stripes, {item}, rank)) {
        macs += static_cast<double>(run.rows) * shape.pair_macs *
                static_cast<double>(stripes.RowsKept(keeper, MiddleKeys(run)));
      }
    }
    most = std::max(most, macs);
  }
  return most;
}

double MergeSeconds(Merge merge, const Stripes& stripes,
                    const std::vector<std::vector<QueryRun>>& runs, const CostShape& shape,
                    const Machine& machine) {
  const int ranks = stripes.ranks();
  std::vector<std::vector<int64_t>> received;  // by level and rank, in floats
  for (int owner = 0; owner < ranks; ++owner) {
    const auto levels = MovesOf(merge, ranks, owner);
    received.resize(std::max(received.size(), levels.size()),
                    std::vector<int64_t>(static_cast<size_t>(ranks)));
    for (size_t level = 0; level < levels.size(); ++level) {
      for (const Move& move : levels[level]) {
        received[level][static_cast<size_t>(move.to)] += MoveFloats(
            stripes, runs[static_cast<size_t>(owner)], move.ranks, shape.wire.partial_floats);
      }
    }
  }
  double seconds = 0;
  for (const std::vector<int64_t>& level : received) {
    const int64_t most = *std::max_element(level.begin(), level.end());
    seconds += machine.latency_s + static_cast<double>(most) * sizeof(float) / machine.bytes_per_s;
  }
  return seconds;
}

}  // namespace

const char* WayName(Way way) {
  return way == Way::kRing ? "ring" : way == Way::kGather ? "gather" : "query";
}

double SecondsOf(Way way, const Stripes& stripes, const ContextItem& item, const CostShape& shape,
                 const Machine& machine) {
  const double transfer = MostBytes(way, stripes, item, shape.wire) / machine.bytes_per_s;
  if (way == Way::kQuery) {
    const double compute = QueriesComeMacs(stripes, item, shape, machine) / machine.macs_per_s;
    const auto turns = static_cast<double>(TurnsOf(item, machine));
    return transfer + compute + 2 * turns * machine.latency_s;
  }
  const double compute = KeysComeMacs(stripes, item, shape) / machine.macs_per_s;
  if (way == Way::kGather) return transfer + compute + machine.latency_s;
  const auto steps = static_cast<double>(RoundsOf(stripes, item.keys()) * (stripes.ranks() - 1));
  return std::max(transfer, compute) + steps * machine.latency_s;
}

Way ChooseWay(const Stripes& stripes, const ContextItem& item, const CostShape& shape,
              const Machine& machine) {
  int64_t gathered = 0;
  for (int rank = 0; rank < stripes.ranks(); ++rank) {
    gathered +=
        PagesKept(stripes, shape.wire.block_tokens, rank, item.keys()) * shape.wire.page_bytes;
  }
  Way best = Way::kRing;
  double least = SecondsOf(best, stripes, item, shape, machine);
  for (const Way way : {Way::kGather, Way::kQuery}) {
    if (way == Way::kGather && gathered > machine.gather_bytes_max) continue;
    const double seconds = SecondsOf(way, stripes, item, shape, machine);
    if (seconds < least) {
      best = way;
      least = seconds;
    }
  }
  return best;
}

Merge ChooseMerge(const Stripes& stripes, const std::vector<ContextItem>& items,
                  const CostShape& shape, const Machine& machine) {
  std::vector<std::vector<QueryRun>> runs;
  runs.reserve(static_cast<size_t>(stripes.ranks()));
  for (int rank = 0; rank < stripes.ranks(); ++rank) {
    runs.push_back(RunsOf(stripes, items, rank));
  }
  const double gather = MergeSeconds(Merge::kGather, stripes, runs, shape, machine);
  const double tree = MergeSeconds(Merge::kTree, stripes, runs, shape, machine);
  return tree < gather ? Merge::kTree : Merge::kGather;
}

}  // namespace reprise::parallel
