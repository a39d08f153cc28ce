// One set of requests in 192 settings of batch, chunk, way, threads and instruction set: the same
// token ids and logprob bits in all of them.
//
// A cell runs the 16 requests in waves of `batch` at once on one decode worker of its own pool.
// Its way is that of 14 of them; one of the other two takes its prefix from the store and one has
// its prompt computed by another worker, so every cell has hits and moved segments. Pools are too
// small for a wave, so every cell preempts; with batch 1, where a request alone is never preempted,
// an older request grows beside some waves and takes the pages (in the way "preempted": beside
// every wave, at all batches). Each cell is a tenant of its own: no cell finds another's blocks.
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bench/bench_main.h"
#include "bench/determinism_requests.h"
#include "bench/placed_cluster.h"

namespace reprise::bench {
namespace {

constexpr TimeNs kTimeoutNs = 300 * kSecond;
constexpr int kBatches[] = {1, 3, 16};
constexpr int kWhole = 256;  // the demo model's context
constexpr int kChunks[] = {1, 7, 64, kWhole};
constexpr int kThreads[] = {1, 2};
constexpr const char* kIsas[] = {"avx512", "avx2"};
enum class Way { kColocated, kDisaggregated, kStore, kPreempted };
constexpr Way kWays[] = {Way::kColocated, Way::kDisaggregated, Way::kStore, Way::kPreempted};
// Requests with a way of their own in every cell: one greedy, one sampled.
constexpr int kAlwaysFromStore = 4;
constexpr int kAlwaysMoved = 9;

// Pages for a wave: less than its requests need together, enough for the largest (22, with both
// branches) and a copied page.
int PoolPages(int batch) {
  if (batch == 1) return 23;
  return batch == 3 ? 36 : 96;
}

// Processes that share chunk, threads and instruction set.
struct Group {
  int chunk = 0;
  int threads = 0;
  std::string isa;
  std::string Name() const {
    return absl::StrCat("chunk ", chunk == kWhole ? "whole" : absl::StrCat(chunk), ", ", threads,
                        " threads, ", isa);
  }
};

struct Counts {
  int cells = 0;
  int without_hits = 0;
  int without_preemption = 0;
  int without_moves = 0;
  int64_t hits = 0;
  int64_t preemptions = 0;
  int64_t moved_segments = 0;
};

class Determinism {
 public:
  Determinism(const BenchFlags& flags, std::vector<Request> requests, Request pressure)
      : flags_(flags), requests_(std::move(requests)), pressure_(std::move(pressure)) {}

  Status Run(Report& report) {
    for (const int threads : kThreads) {
      for (const char* isa : kIsas) {
        for (const int chunk : kChunks) RETURN_IF_ERROR(RunGroup({chunk, threads, isa}));
      }
    }
    report.Figure("preemptions", static_cast<double>(counts_.preemptions), "");
    report.Figure("prefix_hit_tokens", static_cast<double>(counts_.hits), "");
    report.Figure("moved_segments", static_cast<double>(counts_.moved_segments), "");
    report.Bar("cells", counts_.cells, "==", 192, counts_.cells);
    report.Bar("mismatched_tokens", static_cast<double>(cells_.tokens), "==", 0, cells_.compared);
    report.Bar("mismatched_logprob_bits", static_cast<double>(cells_.logprob_bits), "==", 0,
               cells_.compared);
    report.Bar("transcript_mismatches",
               static_cast<double>(transcripts_.tokens + transcripts_.logprob_bits), "==", 0,
               transcripts_.compared);
    report.Bar("cells_without_hits", counts_.without_hits, "==", 0, counts_.cells);
    report.Bar("cells_without_preemption", counts_.without_preemption, "==", 0, counts_.cells);
    report.Bar("cells_without_moves", counts_.without_moves, "==", 0, counts_.cells);
    return absl::OkStatus();
  }

 private:
  struct Cell {
    std::string tenant;
    int batch = 0;
    Way way = Way::kColocated;
    std::string decode() const { return absl::StrCat("decode-", batch); }
  };

  Way WayOf(const Cell& cell, int request) const {
    if (request == kAlwaysFromStore) return Way::kStore;
    if (request == kAlwaysMoved) return Way::kDisaggregated;
    return cell.way;
  }

  Status RunGroup(const Group& group) {
    RETURN_IF_ERROR(StartProcesses(group));
    for (const int batch : kBatches) {
      for (const Way way : kWays) {
        const Cell cell{absl::StrCat("cell-", counts_.cells), batch, way};
        const Status status = RunCell(cell);
        if (!status.ok()) {
          return Status(status.code(), absl::StrCat(group.Name(), ", batch ", batch, ", way ",
                                                    static_cast<int>(way), ": ", status.message()));
        }
      }
    }
    RETURN_IF_ERROR(RunTranscripts(group));
    std::fprintf(stderr, "%s: %d cells, %ld mismatches so far\n", group.Name().c_str(),
                 counts_.cells, static_cast<long>(cells_.tokens + cells_.logprob_bits));
    return absl::OkStatus();
  }

  Status StartProcesses(const Group& group) {
    cluster_ = nullptr;
    ASSIGN_OR_RETURN(model_, worker::OfflineModel::Open({.model_dir = flags_.models + "/demo",
                                                         .threads = group.threads,
                                                         .isa = group.isa,
                                                         .block_tokens = kBlockTokens}));
    const size_t block_bytes = model_->executor().info().kv_format.block_bytes();
    const harness::Cluster::Flags common = {
        "--model=" + flags_.models + "/demo", absl::StrCat("--block-tokens=", kBlockTokens),
        absl::StrCat("--chunk-tokens=", group.chunk), absl::StrCat("--threads=", group.threads),
        "--isa=" + group.isa};
    const auto with_pages = [&](int pages) {
      harness::Cluster::Flags worker = common;
      worker.push_back(absl::StrCat("--pool-bytes=", static_cast<size_t>(pages) * block_bytes));
      return worker;
    };
    PlacedOptions options{.reprise = flags_.reprise,
                          .workers = {{"prefill", with_pages(1024)}},
                          .stores = {{"store", {"--memory-bytes=64MiB"}}}};
    for (const int batch : kBatches) {
      options.workers.emplace_back(absl::StrCat("decode-", batch), with_pages(PoolPages(batch)));
    }
    ASSIGN_OR_RETURN(cluster_, PlacedCluster::Start(options));
    return absl::OkStatus();
  }

  // Lets the prefill worker compute the prompts that are to come from the store and the store take
  // them.
  Status FillStore(const Cell& cell) {
    int64_t segments = 0;
    const int layers = static_cast<int>(model_->executor().info().kv_format.layers);
    std::vector<v1::Submit> submits;
    for (int i = 0; i < kRequests; ++i) {
      if (WayOf(cell, i) != Way::kStore) continue;
      const Request& request = requests_[static_cast<size_t>(i)];
      submits.push_back(GreedySubmit(absl::StrCat(cell.tenant, "-fill-", i), request.prompt, 1));
      submits.back().set_tenant(cell.tenant);
      *submits.back().add_stores() = cluster_->ref("store");
      segments += request.whole_blocks() * layers;
    }
    return cluster_->FillStore(submits, kRequests, segments, kTimeoutNs);
  }

  v1::Submit Placed(const Cell& cell, int i) const {
    const Request& request = requests_[static_cast<size_t>(i)];
    v1::Submit submit = MakeSubmit(request, absl::StrCat(cell.tenant, "-", i), cell.tenant);
    const Way way = WayOf(cell, i);
    if (way == Way::kDisaggregated) *submit.mutable_prefill() = cluster_->ref("prefill");
    if (way == Way::kStore) {
      *submit.add_sources() = harness::SourceOf(cluster_->ref("store"), request.whole_blocks());
    }
    return submit;
  }

  Status RunCell(const Cell& cell) {
    RETURN_IF_ERROR(FillStore(cell));
    const double preempted_before =
        cluster_->Metric(cell.decode(), "reprise_worker_preemptions_total");
    const double sent_before = cluster_->Metric("prefill", "reprise_kv_segments_sent_total");
    int64_t hits = 0;
    for (int first = 0; first < kRequests; first += cell.batch) {
      const bool pressed =
          cell.way == Way::kPreempted || (cell.batch == 1 && first % 2 == 1 && first < 8);
      RETURN_IF_ERROR(RunWave(cell, first, std::min(first + cell.batch, kRequests), pressed, hits));
    }
    const auto preemptions = static_cast<int64_t>(
        cluster_->Metric(cell.decode(), "reprise_worker_preemptions_total") - preempted_before);
    const auto moved = static_cast<int64_t>(
        cluster_->Metric("prefill", "reprise_kv_segments_sent_total") - sent_before);
    ++counts_.cells;
    counts_.hits += hits;
    counts_.preemptions += preemptions;
    counts_.moved_segments += moved;
    counts_.without_hits += hits == 0;
    counts_.without_preemption += preemptions == 0;
    counts_.without_moves += moved == 0;
    if (hits == 0 || preemptions == 0 || moved == 0) {
      std::fprintf(stderr, "%s, batch %d, way %d: %ld hits, %ld preemptions, %ld moved segments\n",
                   cell.tenant.c_str(), cell.batch, static_cast<int>(cell.way),
                   static_cast<long>(hits), static_cast<long>(preemptions),
                   static_cast<long>(moved));
    }
    return absl::OkStatus();
  }

  Status RunWave(const Cell& cell, int first, int last, bool pressed, int64_t& hits) {
    harness::WorkerClient& worker = cluster_->worker(cell.decode());
    const std::string pressure_id = absl::StrCat(cell.tenant, "-pressure-", first);
    // One stream carries both in order, so it is the older one.
    if (pressed) {
      RETURN_IF_ERROR(worker.Submit(MakeSubmit(pressure_, pressure_id, pressure_id)));
    }
    std::vector<v1::Submit> submits;
    for (int i = first; i < last; ++i) submits.push_back(Placed(cell, i));
    ASSIGN_OR_RETURN(const auto results, worker.RunAll(submits, last - first, kTimeoutNs));
    for (int i = first; i < last; ++i) {
      const harness::WorkerResult& result = results[static_cast<size_t>(i - first)];
      if (WayOf(cell, i) == Way::kStore) hits += result.cached_tokens;
      Check(i, result);
    }
    if (!pressed) return absl::OkStatus();
    ASSIGN_OR_RETURN(const harness::WorkerResult result, worker.Wait(pressure_id, kTimeoutNs));
    RETURN_IF_ERROR(result.status);
    Check(kRequests, result);
    return absl::OkStatus();
  }

  // The first answer to a request is what all later ones are compared with.
  void Check(int request, const harness::WorkerResult& result) {
    const auto [entry, fresh] = answers_.try_emplace(request, result);
    if (!fresh) cells_ += Compare(entry->second, result);
  }

  Status RunTranscripts(const Group& group) {
    const kernels::CpuOps& ops =
        kernels::Select(group.isa == "avx2" ? kernels::Isa::kAvx2 : kernels::Isa::kAvx512);
    for (const auto& [i, answer] : answers_) {
      const Request& request = i == kRequests ? pressure_ : requests_[static_cast<size_t>(i)];
      ASSIGN_OR_RETURN(const Mismatches m,
                       CompareTranscript(request, answer, ops, group.chunk, *model_));
      transcripts_ += m;
    }
    return TranscriptThroughCluster();
  }

  // One greedy request (another in each group): its transcript up to every generated position as a
  // prompt to a worker, one token each.
  Status TranscriptThroughCluster() {
    const int i = transcript_turn_++ * 2 % kRequests;
    const harness::WorkerBranch& answer = answers_.at(i).branches[0];
    std::vector<int32_t> prompt = requests_[static_cast<size_t>(i)].prompt;
    std::vector<v1::Submit> submits;
    for (size_t t = 0; t < answer.ids.size(); ++t) {
      submits.push_back(
          GreedySubmit(absl::StrCat("transcript-", counts_.cells, "-", t), prompt, 1));
      submits.back().set_tenant("transcripts");
      prompt.push_back(answer.ids[t]);
    }
    ASSIGN_OR_RETURN(const auto results,
                     cluster_->worker("prefill").RunAll(submits, kRequests, kTimeoutNs));
    for (size_t t = 0; t < results.size(); ++t) {
      harness::WorkerResult want;
      want.branches.resize(1);
      want.branches[0].ids = {answer.ids[t]};
      want.branches[0].logprobs = {answer.logprobs[t]};
      transcripts_ += Compare(want, results[t]);
    }
    return absl::OkStatus();
  }

  const BenchFlags& flags_;
  const std::vector<Request> requests_;
  const Request pressure_;
  std::unique_ptr<worker::OfflineModel> model_;
  std::unique_ptr<PlacedCluster> cluster_;
  std::map<int, harness::WorkerResult> answers_;  // by request; kRequests is the pressure
  int transcript_turn_ = 0;
  Mismatches cells_;
  Mismatches transcripts_;
  Counts counts_;
};

Status Run(const BenchFlags& flags, Report& report) {
  for (const kernels::Isa isa : {kernels::Isa::kAvx512, kernels::Isa::kAvx2}) {
    if (!kernels::Supported(isa)) {
      return absl::FailedPreconditionError(
          absl::StrCat("this machine has no ", kernels::IsaName(isa)));
    }
  }
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(flags.models + "/demo"));
  ASSIGN_OR_RETURN(std::vector<Request> requests, MakeRequests(*tokenizer, {}));
  return Determinism(flags, std::move(requests), MakePressure(*tokenizer, kWhole)).Run(report);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("determinism", argc, argv, reprise::bench::Run);
}
