// Any group's KV read by any other: every pair of (tensor, pipeline, context) splits that fits four
// ranks a side, for rows of heads, of latents and of the timed engine, over UCX between eight
// processes, one a rank. What must come is computed by the reader itself and compared byte by byte.
//
// The least that must leave the holding group is every byte of the sequence once, whoever needs it
// how often. What several ranks of the reading group need, one of them hands on, which is counted
// apart, against the least of that: once more for every further rank.
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "bench/bench_main.h"
#include "bench/relayout_cells.h"
#include "common/percentile.h"
#include "common/subprocess.h"
#include "tests/cluster/scratch_dir.h"

namespace reprise::bench {
namespace {

constexpr double kRatioMax = 1.02;

struct CellResult {
  size_t ranks = 0;  // that have read
  size_t blocks = 0;
  size_t wrong = 0;
  uint64_t sent = 0;       // by the holding side
  uint64_t handed_on = 0;  // by the reading side
  TimeNs took_ns = 0;      // of the slowest rank
};

std::string PeerPath() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path() / "relayout_peer").string();
}

// What a rank's process printed, to its end.
StatusOr<std::string> OutputOf(Subprocess& process) {
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(process.out_fd(), buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  const ExitStatus exit = process.Wait();
  if (exit.ok()) return text;
  return absl::UnavailableError(absl::StrCat("a rank ended with ", exit.ToString()));
}

void Take(const std::string& text, bool reads, std::map<size_t, CellResult>* cells) {
  std::istringstream lines(text);
  size_t number = 0, blocks = 0, wrong = 0;
  uint64_t sent = 0;
  TimeNs took_ns = 0;
  while (lines >> number >> blocks >> wrong >> sent >> took_ns) {
    CellResult& cell = (*cells)[number];
    (reads ? cell.handed_on : cell.sent) += sent;
    if (!reads) continue;
    ++cell.ranks;
    cell.blocks += blocks;
    cell.wrong += wrong;
    cell.took_ns = std::max(cell.took_ns, took_ns);
  }
}

StatusOr<std::map<size_t, CellResult>> RunRanks(bool shared_memory) {
  ASSIGN_OR_RETURN(const auto folder, harness::ScratchDir::Create());
  std::vector<std::pair<bool, std::unique_ptr<Subprocess>>> ranks;
  for (const bool reads : {false, true}) {
    for (uint32_t rank = 0; rank < kRelayoutRanks; ++rank) {
      ASSIGN_OR_RETURN(
          auto process,
          Subprocess::Spawn(
              {.argv = {PeerPath(), "--dir=" + folder->path(), absl::StrCat("--rank=", rank),
                        reads ? "--reads" : "--no-reads",
                        shared_memory ? "--shared-memory" : "--no-shared-memory"},
               .extra_env = {},
               .out = SubprocessOutput::Pipe(),
               .err = SubprocessOutput::Inherit()}));
      ranks.emplace_back(reads, std::move(process));
    }
  }
  std::map<size_t, CellResult> cells;
  for (auto& [reads, process] : ranks) {
    ASSIGN_OR_RETURN(const std::string text, OutputOf(*process));
    Take(text, reads, &cells);
  }
  return cells;
}

struct Totals {
  int64_t cells = 0;
  int64_t passed = 0;
  double moved = 0, least = 0;
  double handed_on = 0, handed_on_least = 0;
  double worst = 0;  // ratio of a cell
  std::vector<double> gb_per_s;
};

// A cell passes when every rank of the reading side has its blocks, and none of them is wrong.
void Judge(const RelayoutCell& cell, const CellResult& result, Totals* totals) {
  const kv::KvFormat& format = cell.shape.format;
  const double least = static_cast<double>(kRelayoutBlocks * format.block_bytes());
  const size_t copies = cell.to.ranks() / cell.to.context;  // ranks that have a part of each block
  const bool passed = result.ranks == cell.to.ranks() && result.wrong == 0 &&
                      result.blocks == kRelayoutBlocks * copies;
  ++totals->cells;
  totals->passed += passed;
  totals->moved += static_cast<double>(result.sent);
  totals->least += least;
  totals->worst = std::max(totals->worst, static_cast<double>(result.sent) / least);
  totals->handed_on += static_cast<double>(result.handed_on);
  totals->handed_on_least += least * (kv::HeadReplicas(format, cell.to) - 1);
  totals->gb_per_s.push_back(least / static_cast<double>(std::max<TimeNs>(result.took_ns, 1)));
}

Status Run(const BenchFlags&, Report& report) {
  report.Note(absl::StrCat("every (TP, PP, CP) in {1,2,4}^3 of at most ", kRelayoutRanks,
                           " ranks to every other; ", kRelayoutBlocks,
                           " blocks; one process a rank, over UCX"));
  report.Note("least: every byte of the sequence leaves the holding group once");
  for (const bool shared_memory : {true, false}) {
    const std::string where = shared_memory ? "shm" : "tcp";
    ASSIGN_OR_RETURN(auto results, RunRanks(shared_memory));
    std::map<std::string, Totals> shapes;
    Totals all;
    for (const RelayoutCell& cell : RelayoutCells()) {
      Judge(cell, results[cell.number], &shapes[cell.shape.name]);
      Judge(cell, results[cell.number], &all);
    }
    for (const auto& [name, totals] : shapes) {
      const std::string cell = absl::StrCat(where, "_", name);
      report.Figure(cell + "_bytes_moved", totals.moved, "bytes");
      report.Figure(cell + "_bytes_least", totals.least, "bytes");
      report.Figure(cell + "_handed_on", totals.handed_on, "bytes");
      report.Figure(cell + "_cell_and_connecting", Median(totals.gb_per_s), "GB/s");
    }
    report.Figure(where + "_cells", static_cast<double>(all.cells), "");
    report.Bar(where + "_cells_passed", static_cast<double>(all.passed),
               "==", static_cast<double>(all.cells), all.cells);
    report.Bar(where + "_bytes_moved_over_least", all.moved / all.least, "<=", kRatioMax,
               all.cells);
    report.Bar(where + "_worst_cell_over_least", all.worst, "<=", kRatioMax, all.cells);
    report.Bar(where + "_handed_on_over_least", all.handed_on / all.handed_on_least,
               "<=", kRatioMax, all.cells);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("relayout", argc, argv, reprise::bench::Run);
}
