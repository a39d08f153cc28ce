#include "bench/damaged_stores.h"

#include <signal.h>

#include <cstring>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "bench/process_memory.h"
#include "common/random.h"
#include "tests/cluster/setting.h"

namespace reprise::bench {
namespace {

constexpr int kStreams = 16;
constexpr int kPromptTokens = 100;
constexpr int kMaxTokens = 200;
constexpr int64_t kRequestsApart = 1'000'000;
constexpr TimeNs kPatienceNs = 120 * kSecond;

using Rows = absl::flat_hash_map<uint64_t, std::vector<uint8_t>>;  // by their first words

// Every row that the request's sequence will ever have, in all layers.
void AddRows(const worker::TimedModel& model, const harness::CheckedRequest& made, Rows& rows) {
  std::vector<int32_t> tokens(made.request.ids().ids().begin(), made.request.ids().ids().end());
  for (const harness::TranscriptToken& token : made.expected[0]) tokens.push_back(token.id);
  std::vector<uint8_t> row(model.row_bytes);
  for (size_t position = 0; position < tokens.size(); ++position) {
    for (uint32_t layer = 0; layer < model.layers; ++layer) {
      worker::WriteTimedRow(model, tokens[position], static_cast<int64_t>(position),
                            worker::RowForm::kPrompt, layer, row);
      uint64_t word;
      std::memcpy(&word, row.data(), sizeof word);
      rows.emplace(word, row);
    }
  }
}

// One bit of every second such row in the process. It stands still meanwhile: where a row was
// found, something else may lie by now.
StatusOr<int64_t> DamageRows(pid_t pid, const worker::TimedModel& model, const Rows& rows,
                             SplitMix64& random) {
  ASSIGN_OR_RETURN(ProcessMemory memory, ProcessMemory::Open(pid));
  struct Place {
    uint64_t address;
    const std::vector<uint8_t>* row;
  };
  std::vector<Place> places;
  RETURN_IF_ERROR(memory.Scan([&](uint64_t word) { return rows.contains(word); },
                              [&](uint64_t word, uint64_t address) {
                                places.push_back({address, &rows.at(word)});
                              }));
  int64_t damaged = 0;
  kill(pid, SIGSTOP);
  std::vector<uint8_t> found(model.row_bytes);
  for (const auto& [address, row] : places) {
    if (random.Below(2) == 0) continue;
    if (!memory.Read(address, found).ok() || found != *row) continue;
    const uint64_t at = random.Below(model.row_bytes);
    found[at] ^= static_cast<uint8_t>(1 << random.Below(8));
    damaged += memory.Write(address + at, {&found[at], 1}).ok();
  }
  kill(pid, SIGCONT);
  return damaged;
}

}  // namespace

Status ServeFromDamagedStores(const BenchFlags& flags, Report& report) {
  harness::Setting setting;
  setting.program = flags.reprise;
  setting.replica_stores = 2;
  setting.step_ms = 10;
  ASSIGN_OR_RETURN(const auto cluster, harness::StartCluster(setting));
  SplitMix64 random(RandomU64());
  harness::LoadTotals sum;
  int64_t damaged = 0;
  const int rounds = flags.long_run ? 20 : 5;
  for (int round = 0; round < rounds; ++round) {
    harness::CheckedLoadOptions options = harness::TimedLoad(
        setting, *cluster, kStreams, kPromptTokens, kMaxTokens, round * kRequestsApart);
    options.requests = kStreams;
    Rows rows;
    for (int i = 0; i < kStreams; ++i) AddRows(setting.model, options.make(i), rows);
    harness::CheckedLoad load(options);
    RETURN_IF_ERROR(load.WaitForTokens(kStreams * kMaxTokens / 3, kPatienceNs));
    for (const std::string& store : harness::Names("store", setting.stores)) {
      ASSIGN_OR_RETURN(const int64_t in_store,
                       DamageRows(cluster->pid(store), setting.model, rows, random));
      damaged += in_store;
    }
    RETURN_IF_ERROR(cluster->Kill(absl::StrCat("decode-", round % setting.decode_workers)));
    RETURN_IF_ERROR(load.Wait(kPatienceNs));
    RETURN_IF_ERROR(cluster->Repair());
    const harness::LoadTotals totals = harness::Sum(load.results());
    sum.streams += totals.streams;
    sum.hit += totals.hit;
    sum.received += totals.received;
    sum.errors += totals.errors;
    sum.different += totals.different + totals.lost + totals.duplicated;
  }
  report.Figure("rows_damaged_while_serving", static_cast<double>(damaged), "");
  report.Figure("streams_hit", static_cast<double>(sum.hit), "");
  report.Figure("checksum_failures", cluster->MetricOverAll("reprise_kv_checksum_failures_total"),
                "");
  report.Bar("wrong_tokens", static_cast<double>(sum.different), "==", 0, sum.received);
  report.Bar("client_errors", static_cast<double>(sum.errors), "==", 0, sum.streams);
  return absl::OkStatus();
}

}  // namespace reprise::bench
