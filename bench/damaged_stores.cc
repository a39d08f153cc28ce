#include "bench/damaged_stores.h"

#include <cstring>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
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

// The first words of every row that the request's sequence will ever have, in all layers.
void AddRows(const worker::TimedModel& model, const harness::CheckedRequest& made,
             absl::flat_hash_set<uint64_t>& words) {
  std::vector<int32_t> tokens(made.request.ids().ids().begin(), made.request.ids().ids().end());
  for (const harness::TranscriptToken& token : made.expected[0]) tokens.push_back(token.id);
  std::vector<uint8_t> row(model.row_bytes);
  for (size_t position = 0; position < tokens.size(); ++position) {
    for (uint32_t layer = 0; layer < model.layers; ++layer) {
      worker::WriteTimedRow(model, tokens[position], static_cast<int64_t>(position),
                            worker::RowForm::kPrompt, layer, row);
      uint64_t word;
      std::memcpy(&word, row.data(), sizeof word);
      words.insert(word);
    }
  }
}

// One bit of every second such row in the process.
StatusOr<int64_t> DamageRows(pid_t pid, const worker::TimedModel& model,
                             const absl::flat_hash_set<uint64_t>& words, SplitMix64& random) {
  ASSIGN_OR_RETURN(ProcessMemory memory, ProcessMemory::Open(pid));
  std::vector<uint64_t> places;
  RETURN_IF_ERROR(memory.Scan([&](uint64_t word) { return words.contains(word); },
                              [&](uint64_t, uint64_t address) { places.push_back(address); }));
  int64_t damaged = 0;
  for (const uint64_t place : places) {
    if (random.Below(2) == 0) continue;
    const uint64_t address = place + random.Below(model.row_bytes);
    uint8_t byte = 0;
    if (!memory.Read(address, {&byte, 1}).ok()) continue;  // a buffer that is gone by now
    byte ^= static_cast<uint8_t>(1 << random.Below(8));
    damaged += memory.Write(address, {&byte, 1}).ok();
  }
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
    absl::flat_hash_set<uint64_t> words;
    for (int i = 0; i < kStreams; ++i) AddRows(setting.model, options.make(i), words);
    harness::CheckedLoad load(options);
    RETURN_IF_ERROR(load.WaitForTokens(kStreams * kMaxTokens / 3, kPatienceNs));
    for (const std::string& store : harness::Names("store", setting.stores)) {
      ASSIGN_OR_RETURN(const int64_t rows,
                       DamageRows(cluster->pid(store), setting.model, words, random));
      damaged += rows;
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
