// Prefill of one prompt over the ranks of a context-parallel group, each a process of its own over
// UCX, against one rank that computes all of it: the bits of every logit and every cached row, what
// a rank keeps, what it sends against the ring's formula, and how long it was blocked for
// transfers.
//
//   32,768 tokens over 4 ranks, 4 heads of 64, 2 layers: GQA (2 KV heads) and latents (128 + 32)
//   131,072 tokens over 4 ranks, 1 layer: one head of 64; with --long four, and latents too
// Four heads at 131,072 are 4.4e12 multiply-adds, twice (alone and in the group). Ranks have a
// thread each, the one alone has two; on a machine with two processors the ranks take turns, so
// exactness, memory and volume count here and time does not.
//
// Transfers between processes of one machine take next to nothing. How much of them hides behind
// compute shows over a link slowed until they take half as long as the attention does: blocked time
// over that of the same transfers with nothing computed.
#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "bench/attention_model.h"
#include "bench/ring_process.h"
#include "worker/model/attention_block.h"

namespace reprise::bench {
namespace {

constexpr int kRanks = 4;
constexpr int64_t kLeaves = 2;  // of a stripe: a round is 8,192 tokens
// Of the transfers' time over a slow link; without overlap none would hide.
constexpr double kHiddenMin = 0.3;
constexpr int64_t kSlowTokens = 16'384;

struct Setting {
  std::string name;
  int64_t tokens = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  bool latent = false;
};

worker::ModelConfig ConfigOf(const Setting& setting) {
  worker::ModelConfig config =
      *worker::PresetConfig(setting.latent ? "tiny-deepseek-v2-lite" : "tiny-gqa");
  config.layers = setting.layers;
  config.heads = setting.heads;
  config.kv_heads = setting.latent ? setting.heads : (setting.heads + 1) / 2;
  config.head_dim = 64;
  if (setting.latent) {
    config.latent->kv_rank = 128;
    config.latent->nope_dim = config.latent->rope_dim = 32;
    config.latent->value_dim = 64;
    config.mixture.reset();
  }
  config.context = setting.tokens;
  return config;
}

// `link_bytes_per_s` 0: as fast as it is.
StatusOr<std::vector<RingAnswer>> RunRanks(const std::string& model, const Setting& setting,
                                           int ranks, int threads, double link_bytes_per_s = 0) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  ASSIGN_OR_RETURN(const auto processes,
                   RingProcess::StartAll({.program = (self.parent_path() / "ring_rank").string(),
                                          .model = model,
                                          .tokens = setting.tokens,
                                          .leaves = kLeaves,
                                          .threads = threads,
                                          .link_bytes_per_s = link_bytes_per_s},
                                         ranks));
  std::vector<RingAnswer> answers;
  for (const auto& process : processes) {
    ASSIGN_OR_RETURN(RingAnswer answer, process->Finish());
    answers.push_back(std::move(answer));
  }
  return answers;
}

double Most(const std::vector<RingAnswer>& answers, const std::string& count) {
  double most = 0;
  for (const RingAnswer& answer : answers) most = std::max(most, answer.counts.at(count));
  return most;
}

double Sum(const std::vector<RingAnswer>& answers, const std::string& count) {
  double sum = 0;
  for (const RingAnswer& answer : answers) sum += answer.counts.at(count);
  return sum;
}

void Add(const Setting& setting, const RingAnswer& alone, const std::vector<RingAnswer>& ranks,
         Report& report) {
  kernels::PagedKv kv = worker::KvShape(ConfigOf(setting));
  const double row_bytes = static_cast<double>(SegmentBytes(kv) / kv.block_tokens);
  const auto tokens = static_cast<double>(setting.tokens);
  const auto layers = static_cast<double>(setting.layers);
  int64_t different = 0;
  std::map<int64_t, RingLeaf> leaves;
  double blocked = 0;
  double sent_otherwise = 0;
  // Every rank's shard of every layer goes to the other three.
  const double formula = (kRanks - 1) * tokens / kRanks * row_bytes * layers;
  for (const RingAnswer& rank : ranks) {
    leaves.insert(rank.leaves.begin(), rank.leaves.end());
    if (rank.counts.at("sent_bytes") != formula) ++sent_otherwise;
    blocked = std::max(blocked, rank.counts.at("wait_ns") / rank.counts.at("attention_ns"));
  }
  for (const auto& [index, leaf] : alone.leaves) {
    if (leaves.count(index) == 0 || leaves.at(index) != leaf) ++different;
  }
  const std::string at = "_" + setting.name;
  const auto leaf_count = static_cast<int64_t>(alone.leaves.size());
  report.Bar("leaves_with_other_bits" + at, static_cast<double>(different), "==", 0, leaf_count);
  report.Bar("cache_over_share" + at,
             Most(ranks, "cache_bytes") / (tokens / kRanks * row_bytes * layers), "==", 1, kRanks);
  report.Bar("ring_buffers_over_three_shards" + at,
             Most(ranks, "shard_bytes") / (3 * tokens / kRanks * row_bytes), "<=", 1, kRanks);
  report.Bar("ranks_that_sent_other_bytes" + at, sent_otherwise, "==", 0, kRanks);
  report.Figure("blocked_over_attention" + at, blocked, "");
  report.Figure("transfer_alone" + at, Most(ranks, "transfer_alone_ns") / 1e9, "s");
  report.Figure("attention" + at, Most(ranks, "attention_ns") / 1e9, "s");
  report.Figure("prefill" + at, Most(ranks, "prefill_ns") / 1e9, "s");
  report.Figure("prefill_alone" + at, alone.counts.at("prefill_ns") / 1e9, "s");
  report.Figure("sent" + at, formula, "bytes a rank");
  report.Figure("cache" + at, Most(ranks, "cache_bytes"), "bytes a rank");
  report.Figure("cache_alone" + at, alone.counts.at("cache_bytes"), "bytes");
  report.Figure("ring_buffers" + at, Most(ranks, "shard_bytes"), "bytes a rank");
  report.Figure("partial_results" + at, Most(ranks, "partial_bytes"), "bytes a rank");
  report.Figure("resident" + at, Most(ranks, "resident_bytes"), "bytes a rank");
  report.Figure("resident_alone" + at, alone.counts.at("resident_bytes"), "bytes");
}

// Half of the long prompt over a link on which its transfers alone take about half its attention's
// time, a quarter of the long one's.
Status MeasureOverlap(const std::string& model, Setting setting, double long_attention_s,
                      Report& report) {
  kernels::PagedKv kv = worker::KvShape(ConfigOf(setting));
  const double bytes = static_cast<double>((kRanks - 1) * kSlowTokens / kRanks * setting.layers) *
                       static_cast<double>(SegmentBytes(kv) / kv.block_tokens);
  setting.tokens = kSlowTokens;
  ASSIGN_OR_RETURN(const std::vector<RingAnswer> ranks,
                   RunRanks(model, setting, kRanks, 1, bytes / (long_attention_s / 8)));
  const double alone = Sum(ranks, "transfer_alone_ns");
  const double blocked = Sum(ranks, "wait_ns");
  report.Figure("slow_transfer_alone", alone / kRanks / 1e9, "s a rank");
  report.Figure("slow_attention", Sum(ranks, "attention_ns") / kRanks / 1e9, "s a rank");
  report.Figure("slow_blocked", blocked / kRanks / 1e9, "s a rank, for transfers or a processor");
  report.Bar("slow_transfer_hidden", 1 - blocked / alone, ">=", kHiddenMin, kRanks);
  return absl::OkStatus();
}

Status Run(const BenchFlags& flags, Report& report) {
  report.Note(absl::StrCat(kRanks, " processes of one thread; alone: one of two threads"));
  const int64_t long_heads = flags.long_run ? 4 : 1;
  std::vector<Setting> settings = {{"gqa_32k", 32'768, 2, 4, false},
                                   {"latent_32k", 32'768, 2, 4, true},
                                   {"heads_131k", 131'072, 1, long_heads, false}};
  if (flags.long_run) settings.push_back({"latent_131k", 131'072, 1, 4, true});
  for (const Setting& setting : settings) {
    ASSIGN_OR_RETURN(const worker::ModelFolder folder,
                     MadeAttention(flags, "ring-" + setting.name, ConfigOf(setting)));
    ASSIGN_OR_RETURN(const std::vector<RingAnswer> alone, RunRanks(folder.dir(), setting, 1, 2));
    ASSIGN_OR_RETURN(const std::vector<RingAnswer> ranks,
                     RunRanks(folder.dir(), setting, kRanks, 1));
    Add(setting, alone[0], ranks, report);
    if (&setting != settings.data()) continue;
    RETURN_IF_ERROR(
        MeasureOverlap(folder.dir(), setting, Most(ranks, "attention_ns") / 1e9, report));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("ring", argc, argv, reprise::bench::Run);
}
