// One set of requests through device workers, on a card or on the emulator, in every setting of
// chunk, batch and way: the same token ids and logprob bits in all of them, and those recorded for
// the numerics class. Short by default, since the emulator is slow; --long takes more requests,
// longer answers and more chunks.
//
// A cell runs the requests on processes of its chunk: on one worker, with prompts computed by
// another, with prefixes from a store, on a worker whose pool is too small (sequences go to host
// memory and come back), and on one that is killed in mid-answer (another goes on, with the rows
// that a store has). Each cell is a tenant of its own: no cell finds another's blocks.
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bench/answers_file.h"
#include "bench/bench_main.h"
#include "bench/determinism_requests.h"
#include "bench/placed_cluster.h"
#include "common/sha256.h"

namespace reprise::bench {
namespace {

constexpr TimeNs kTimeoutNs = 300 * kSecond;
constexpr int kPageTokens = 64;  // what the device's kernels take
constexpr int kWhole = 256;      // more than any prompt
constexpr int kLayers = 2;
constexpr int kTokenBytes = kLayers * 576 * 2;
constexpr size_t kTokensBeforeKill = 3;
enum class Way { kColocated, kDisaggregated, kStore, kSwapped, kKilled };
constexpr const char* kWayNames[] = {"colocated", "disaggregated", "store", "swapped", "killed"};

// DeepSeek-V2-Lite's latents, routing and kinds of layers, the rest as small as the emulator needs.
StatusOr<std::string> SmallModel(const BenchFlags& flags) {
  return MadeModel(flags, "deepseek-v2-lite",
                   {absl::StrCat("--layers=", kLayers), "--hidden=64", "--heads=2",
                    "--intermediate=64", "--experts=4", "--experts-per-token=2",
                    "--expert-intermediate=32", "--vocab=512", "--context=512"});
}

// Enough for the largest request, too few for all.
int SmallPages(const BenchFlags& flags) { return flags.long_run ? 8 : 5; }

// 1 and 2 whole blocks of prompt.
RequestSizes SizesOf(const BenchFlags& flags) {
  RequestSizes sizes;
  sizes.requests = flags.long_run ? 12 : 3;
  sizes.block_tokens = kPageTokens;
  sizes.first_prompt_tokens = 70;
  sizes.last_prompt_tokens = 130;
  sizes.new_tokens = flags.long_run ? 64 : 12;
  return sizes;
}

struct Cell {
  int chunk = 0;
  Way way = Way::kColocated;
  int batch = 0;
  std::string tenant;
  std::string Name() const {
    return absl::StrCat("chunk ", chunk == kWhole ? "whole" : absl::StrCat(chunk), ", batch ",
                        batch, ", ", kWayNames[static_cast<int>(way)]);
  }
};

class DeviceDeterminism {
 public:
  DeviceDeterminism(const BenchFlags& flags, std::string model, std::vector<Request> requests)
      : flags_(flags), model_(std::move(model)), requests_(std::move(requests)) {}

  Status Run(Report& report) {
    ASSIGN_OR_RETURN(AnswersFile golden, AnswersFile::Load(flags_.golden));
    for (const int chunk :
         flags_.long_run ? std::vector<int>{7, 24, 64, kWhole} : std::vector<int>{24, kWhole}) {
      RETURN_IF_ERROR(RunChunk(chunk));
    }
    report.Note(absl::StrCat(flags_.device, ", numerics class ", key_.numerics_class.substr(0, 16),
                             ", ", answers_.size(), " requests in each cell"));
    report.Figure("preemptions", preemptions_, "");
    report.Figure("swapped_bytes", swapped_bytes_, "bytes");
    report.Figure("prefix_hit_tokens", hits_, "");
    report.Figure("moved_segments", moved_, "");
    report.Figure("requests_killed_in_mid_answer", killed_, "");
    report.Bar("cells", cells_, "==", flags_.long_run ? 32 : 16, cells_);
    report.Bar("mismatched_tokens", static_cast<double>(all_.tokens), "==", 0, all_.compared);
    report.Bar("mismatched_logprob_bits", static_cast<double>(all_.logprob_bits), "==", 0,
               all_.compared);
    report.Bar("cells_that_did_not_go_their_way", astray_, "==", 0, cells_);
    return CompareWithGolden(golden, report);
  }

 private:
  Status CompareWithGolden(AnswersFile& golden, Report& report) {
    std::vector<harness::WorkerResult> answers;
    for (const auto& [request, answer] : answers_) answers.push_back(answer);
    if (flags_.record) {
      if (all_.tokens + all_.logprob_bits > 0) {
        return absl::FailedPreconditionError("cells differ: nothing is recorded");
      }
      RETURN_IF_ERROR(golden.Record(key_, flags_.device, answers));
      report.Note(absl::StrCat("recorded in ", flags_.golden));
    }
    const std::vector<harness::WorkerResult>* want = golden.Find(key_);
    if (want == nullptr) {
      report.Note(
          "NO ANSWERS ARE RECORDED for this class: cells are compared with one another "
          "alone; --record writes them");
      report.Figure("golden_recorded", 0, "");
      return absl::OkStatus();
    }
    Mismatches m;
    for (size_t i = 0; i < want->size(); ++i) m += Compare((*want)[i], answers.at(i));
    report.Figure("golden_recorded", 1, "");
    report.Bar("mismatches_with_golden", static_cast<double>(m.tokens + m.logprob_bits), "==", 0,
               m.compared);
    return absl::OkStatus();
  }

  Status RunChunk(int chunk) {
    RETURN_IF_ERROR(StartProcesses(chunk));
    const int all = static_cast<int>(requests_.size());
    for (const int batch : {1, all}) {
      for (const Way way : {Way::kColocated, Way::kDisaggregated, Way::kStore}) {
        RETURN_IF_ERROR(RunCell({chunk, way, batch, ""}));
      }
    }
    RETURN_IF_ERROR(RunCell({chunk, Way::kSwapped, all, ""}));
    return RunCell({chunk, Way::kKilled, all, ""});  // last: its worker is gone
  }

  Status StartProcesses(int chunk) {
    cluster_ = nullptr;
    harness::Cluster::Flags worker = {"--model=" + model_, "--device=" + flags_.device,
                                      absl::StrCat("--block-tokens=", kPageTokens),
                                      absl::StrCat("--chunk-tokens=", chunk)};
    if (flags_.unproven_kernels) worker.push_back("--unproven-kernels");
    harness::Cluster::Flags small = worker;
    worker.push_back("--pool-bytes=32MiB");
    small.push_back(absl::StrCat("--pool-bytes=", SmallPages(flags_) * kPageTokens * kTokenBytes));
    small.push_back("--swap-host-bytes=32MiB");
    ASSIGN_OR_RETURN(cluster_,
                     PlacedCluster::Start({.reprise = flags_.reprise,
                                           .workers = {{"prefill", worker},
                                                       {"decode", worker},
                                                       {"victim", worker},
                                                       {"small", small}},
                                           .stores = {{"store", {"--memory-bytes=64MiB"}}}}));
    ASSIGN_OR_RETURN(const v1::ModelInfo model, cluster_->processes().QueryModel());
    const auto hex = [](const std::string& bytes) {
      return HexEncode(std::span(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
    };
    const AnswersKey key = {hex(model.numerics_class()), hex(model.fingerprint()),
                            flags_.long_run ? "long" : "short"};
    if (cells_ > 0 && !(key == key_)) {
      return absl::InternalError("processes that were started anew have another numerics class");
    }
    key_ = key;
    return absl::OkStatus();
  }

  // Lets the prefill worker compute the prompts and the store take them.
  Status FillStore(const Cell& cell) {
    int64_t segments = 0;
    std::vector<v1::Submit> submits;
    for (const Request& request : requests_) {
      submits.push_back(
          GreedySubmit(absl::StrCat(cell.tenant, "-fill-", submits.size()), request.prompt, 1));
      submits.back().set_tenant(cell.tenant);
      *submits.back().add_stores() = cluster_->ref("store");
      segments += request.whole_blocks() * kLayers;
    }
    return cluster_->FillStore(submits, cell.batch, segments, kTimeoutNs);
  }

  std::vector<v1::Submit> Placed(const Cell& cell) const {
    std::vector<v1::Submit> submits;
    for (const Request& request : requests_) {
      v1::Submit submit =
          MakeSubmit(request, absl::StrCat(cell.tenant, "-", submits.size()), cell.tenant);
      if (cell.way == Way::kDisaggregated) *submit.mutable_prefill() = cluster_->ref("prefill");
      if (cell.way == Way::kKilled) *submit.add_stores() = cluster_->ref("store");
      if (cell.way == Way::kStore) {
        *submit.add_sources() = harness::SourceOf(cluster_->ref("store"), request.whole_blocks());
      }
      submits.push_back(std::move(submit));
    }
    return submits;
  }

  StatusOr<std::vector<harness::WorkerResult>> RunWay(const Cell& cell) {
    const std::vector<v1::Submit> submits = Placed(cell);
    if (cell.way == Way::kKilled) return RunKilled(submits);
    if (cell.way == Way::kStore) RETURN_IF_ERROR(FillStore(cell));
    const char* const worker = cell.way == Way::kSwapped ? "small" : "decode";
    return cluster_->worker(worker).RunAll(submits, cell.batch, kTimeoutNs);
  }

  // The worker is killed once the last request has some tokens; what is missing comes from another.
  StatusOr<std::vector<harness::WorkerResult>> RunKilled(std::vector<v1::Submit> submits) {
    harness::WorkerClient& victim = cluster_->worker("victim");
    for (const v1::Submit& submit : submits) RETURN_IF_ERROR(victim.Submit(submit));
    RETURN_IF_ERROR(
        victim.WaitForTokens(submits.back().request_id(), kTokensBeforeKill, kTimeoutNs));
    RETURN_IF_ERROR(cluster_->processes().Kill("victim"));
    std::vector<harness::WorkerResult> results;
    for (v1::Submit& submit : submits) {
      ASSIGN_OR_RETURN(harness::WorkerResult result, victim.Wait(submit.request_id(), kTimeoutNs));
      if (!result.status.ok()) {
        killed_ += Continue(result, &submit) ? 1 : 0;
        ASSIGN_OR_RETURN(result, cluster_->worker("decode").Run(submit, kTimeoutNs));
        RETURN_IF_ERROR(result.status);
      }
      results.push_back(std::move(result));
    }
    return results;
  }

  // Makes the submission the next attempt's, as a gateway would. False when there was no token yet.
  bool Continue(const harness::WorkerResult& so_far, v1::Submit* submit) const {
    submit->mutable_attempt()->set_owner_epoch(1);
    submit->mutable_attempt()->set_n(2);
    *submit->add_replicas() = cluster_->ref("store");
    bool any = false;
    for (const harness::WorkerBranch& branch : so_far.branches) any |= !branch.ids.empty();
    if (!any) return false;
    for (size_t b = 0; b < so_far.branches.size(); ++b) {
      const harness::WorkerBranch& branch = so_far.branches[b];
      v1::BranchTokens& emitted = *submit->add_branches();
      emitted.set_branch(static_cast<int32_t>(b));
      emitted.mutable_emitted()->Add(branch.ids.begin(), branch.ids.end());
      emitted.mutable_logprobs()->Add(branch.logprobs.begin(), branch.logprobs.end());
      emitted.set_finished(branch.reason != v1::FINISH_REASON_UNSPECIFIED);
    }
    return true;
  }

  Status RunCell(Cell cell) {
    cell.tenant = absl::StrCat("cell-", cells_);
    const double preemptions = cluster_->Metric("small", "reprise_worker_preemptions_total");
    const double swapped = cluster_->Metric("small", "reprise_worker_swap_bytes_total");
    const double moved = cluster_->Metric("prefill", "reprise_kv_segments_sent_total");
    const double killed = killed_;
    const auto results = RunWay(cell);
    if (!results.ok()) {
      return Status(results.status().code(),
                    absl::StrCat(cell.Name(), ": ", results.status().message()));
    }
    ++cells_;
    int64_t hits = 0;
    Mismatches here;
    for (size_t i = 0; i < results->size(); ++i) {
      hits += (*results)[i].cached_tokens;
      // The first answer to a request is what all later ones are compared with.
      const auto [entry, fresh] = answers_.try_emplace(static_cast<int>(i), (*results)[i]);
      if (!fresh) here += Compare(entry->second, (*results)[i]);
    }
    all_ += here;
    const double more_preemptions =
        cluster_->Metric("small", "reprise_worker_preemptions_total") - preemptions;
    const double more_moved = cluster_->Metric("prefill", "reprise_kv_segments_sent_total") - moved;
    preemptions_ += more_preemptions;
    swapped_bytes_ += cluster_->Metric("small", "reprise_worker_swap_bytes_total") - swapped;
    moved_ += more_moved;
    if (cell.way == Way::kStore) hits_ += static_cast<double>(hits);
    const bool astray = (cell.way == Way::kDisaggregated && more_moved == 0) ||
                        (cell.way == Way::kStore && hits == 0) ||
                        (cell.way == Way::kSwapped && more_preemptions == 0) ||
                        (cell.way == Way::kKilled && killed_ == killed);
    astray_ += astray ? 1 : 0;
    std::fprintf(stderr, "%s: %ld tokens compared, %ld mismatches%s\n", cell.Name().c_str(),
                 static_cast<long>(here.compared),
                 static_cast<long>(here.tokens + here.logprob_bits),
                 astray ? ", DID NOT GO ITS WAY" : "");
    return absl::OkStatus();
  }

  const BenchFlags& flags_;
  const std::string model_;
  const std::vector<Request> requests_;
  std::unique_ptr<PlacedCluster> cluster_;
  AnswersKey key_;
  std::map<int, harness::WorkerResult> answers_;  // by request
  Mismatches all_;
  int cells_ = 0;
  int astray_ = 0;
  double preemptions_ = 0;
  double swapped_bytes_ = 0;
  double hits_ = 0;
  double moved_ = 0;
  double killed_ = 0;
};

Status Run(const BenchFlags& flags, Report& report) {
  ASSIGN_OR_RETURN(std::string model, SmallModel(flags));
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(model));
  ASSIGN_OR_RETURN(std::vector<Request> requests, MakeRequests(*tokenizer, SizesOf(flags)));
  return DeviceDeterminism(flags, std::move(model), std::move(requests)).Run(report);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("determinism-device", argc, argv, reprise::bench::Run);
}
