// How much of moving a prompt's KV hides behind computing it, between a prefill and a decode worker
// on a link throttled so that the transfer alone takes half the prefill.
//
// The first token leaves the decode worker when the prefill worker has sampled it, that is right
// after the last layer; the second needs every row of the prompt at the decode worker and one step.
// So exposed transfer = (second token - first token) - one step, the step being the median gap of
// the tokens after. Prefill = request sent to first token. The one segment that cannot hide is the
// last layer of the last chunk: its bytes over the link's rate.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "bench/bench_main.h"
#include "bench/placed_cluster.h"
#include "common/percentile.h"
#include "common/random.h"

namespace reprise::bench {
namespace {

constexpr double kExposedMax = 0.05;
constexpr double kWithoutStreamingMin = 0.4;
constexpr double kTransferOverPrefill = 0.5;
constexpr double kTransferError = 0.05;
constexpr int kTriesPerPair = 4;
constexpr int kChunkTokens = 512;
constexpr int kLayers = 12;
constexpr int kVocab = 32'000;
constexpr int kNewTokens = 12;
constexpr TimeNs kTimeoutNs = 300 * kSecond;

// The preset's context is 2,048 tokens, prompt and answer together; weights do not depend on it.
StatusOr<std::string> LongContextModel(const BenchFlags& flags) {
  ASSIGN_OR_RETURN(const std::string dir, MadeModel(flags, "llama-160m"));
  const std::string longer = dir + "-4096";
  if (std::filesystem::exists(longer + "/config.json")) return longer;
  std::error_code error;
  std::filesystem::remove_all(longer, error);
  std::filesystem::create_directories(longer, error);
  for (const auto& file : std::filesystem::directory_iterator(dir)) {
    if (file.path().filename() == "config.json") continue;
    std::filesystem::create_hard_link(file.path(), longer / file.path().filename(), error);
    if (error) return absl::UnavailableError(absl::StrCat(longer, ": ", error.message()));
  }
  std::ifstream in(dir + "/config.json");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::string changed = text;
  for (const char* space : {"", " "}) {
    const std::string key = absl::StrCat("\"max_position_embeddings\":", space);
    changed =
        absl::StrReplaceAll(changed, {{absl::StrCat(key, "2048"), absl::StrCat(key, "4096")}});
  }
  if (changed == text) return absl::NotFoundError(dir + "/config.json has no context of 2048");
  std::ofstream(longer + "/config.json") << changed;
  return longer;
}

struct Sample {
  double prefill_s = 0;
  double exposed_s = 0;
};

class Overlap {
 public:
  Overlap(const BenchFlags& flags, std::string model, int prompt_tokens)
      : flags_(flags), model_(std::move(model)), prompt_tokens_(prompt_tokens) {}

  Status Run(Report& report) {
    RETURN_IF_ERROR(Start());
    RETURN_IF_ERROR(MeasurePrefill());
    SetLink(prefill_s_);
    RETURN_IF_ERROR(Start());
    const int pairs = flags_.long_run ? 9 : prompt_tokens_ > 1000 ? 3 : 5;
    int misfits = 0;
    for (int pair = 0; pair < pairs * kTriesPerPair && kept() < pairs; ++pair) {
      ASSIGN_OR_RETURN(const Sample with, Measure("layers"));
      ASSIGN_OR_RETURN(const Sample without, Measure("whole"));
      if (Fits(with) && Fits(without)) {
        Keep(with, without);
      } else if (++misfits % 2 == 0) {
        SetLink(std::sqrt(with.prefill_s * without.prefill_s));
        RETURN_IF_ERROR(Start());
      }
    }
    const std::string at = absl::StrCat("_", prompt_tokens_);
    report.Figure("prefill" + at, Median(prefill_ms_), "ms");
    report.Figure("kv_bytes" + at, kv_bytes_, "bytes");
    report.Figure("transfer_alone_over_prefill" + at, Median(transfer_), "");
    report.Figure("exposed_over_prefill" + at, Median(exposed_), "");
    report.Figure("pairs_off_the_setting" + at, misfits, "");
    report.Bar("exposed_less_one_segment_over_prefill" + at, Median(streamed_), "<=", kExposedMax,
               kept());
    report.Bar("exposed_over_prefill_without_layer_streaming" + at, Median(whole_),
               ">=", kWithoutStreamingMin, kept());
    return absl::OkStatus();
  }

 private:
  harness::Cluster::Flags WorkerFlags(int chunk_tokens, int64_t bytes_per_s) const {
    return {"--model=" + model_, absl::StrCat("--chunk-tokens=", chunk_tokens), "--threads=1",
            "--pool-bytes=512MiB", absl::StrCat("--throttle-bytes-per-s=", bytes_per_s)};
  }

  int kept() const { return static_cast<int>(streamed_.size()); }

  void SetLink(double prefill_s) {
    bytes_per_s_ = kv_bytes_ / (prefill_s * kTransferOverPrefill);
    transfer_s_ = kv_bytes_ / bytes_per_s_;
  }

  // Whether the link was what the benchmark is about: the machine may have become faster or slower
  // since it was set.
  bool Fits(const Sample& sample) const {
    return std::abs(transfer_s_ / sample.prefill_s - kTransferOverPrefill) < kTransferError;
  }

  void Keep(const Sample& with, const Sample& without) {
    const double last_segment_s =
        transfer_s_ / kLayers * std::min(kChunkTokens, prompt_tokens_) / prompt_tokens_;
    exposed_.push_back(with.exposed_s / with.prefill_s);
    streamed_.push_back((with.exposed_s - last_segment_s) / with.prefill_s);
    whole_.push_back(without.exposed_s / without.prefill_s);
    for (const Sample& sample : {with, without}) {
      transfer_.push_back(transfer_s_ / sample.prefill_s);
      prefill_ms_.push_back(sample.prefill_s * 1000);
    }
  }

  // Without layer streaming a block is served when it is complete; one chunk holds
  // the whole prompt there, so that none is complete before the prefill ends.
  Status Start() {
    cluster_ = nullptr;
    const auto link = static_cast<int64_t>(bytes_per_s_);
    const harness::Cluster::Flags layers = WorkerFlags(kChunkTokens, link);
    harness::Cluster::Flags whole = WorkerFlags(prompt_tokens_, link);
    whole.push_back("--no-layer-streaming");
    ASSIGN_OR_RETURN(cluster_,
                     PlacedCluster::Start({.reprise = flags_.reprise,
                                           .workers = {{"layers", layers},
                                                       {"whole", whole},
                                                       {"decode", WorkerFlags(kChunkTokens, 0)}}}));
    RETURN_IF_ERROR(Measure("layers").status());  // connects
    return Measure("whole").status();
  }

  // Also what a prompt's KV is in bytes.
  Status MeasurePrefill() {
    std::vector<double> prefill;
    for (int i = 0; i < 3; ++i) {
      const double before = cluster_->Metric("layers", "reprise_kv_bytes_sent_total");
      ASSIGN_OR_RETURN(const Sample sample, Measure("layers"));
      kv_bytes_ = cluster_->Metric("layers", "reprise_kv_bytes_sent_total") - before;
      prefill.push_back(sample.prefill_s);
    }
    prefill_s_ = Median(prefill);
    if (kv_bytes_ <= 0) return absl::InternalError("no KV was moved");
    return absl::OkStatus();
  }

  StatusOr<Sample> Measure(const std::string& prefill_worker) {
    std::vector<int32_t> prompt(static_cast<size_t>(prompt_tokens_));
    for (int32_t& token : prompt) token = 1 + static_cast<int32_t>(random_.Below(kVocab - 1));
    v1::Submit submit = GreedySubmit(absl::StrCat("overlap-", next_id_++), prompt, kNewTokens);
    *submit.mutable_prefill() = cluster_->ref(prefill_worker);
    ASSIGN_OR_RETURN(const harness::WorkerResult result,
                     cluster_->worker("decode").Run(submit, kTimeoutNs));
    RETURN_IF_ERROR(result.status);
    const std::vector<TimeNs>& at = result.branches[0].arrived_ns;
    if (at.size() != kNewTokens) return absl::InternalError("not every token came");
    std::vector<double> steps;
    for (size_t t = 2; t < at.size(); ++t) steps.push_back(SecondsFromNs(at[t] - at[t - 1]));
    return Sample{.prefill_s = SecondsFromNs(at[0] - result.submitted_ns),
                  .exposed_s = SecondsFromNs(at[1] - at[0]) - Median(steps)};
  }

  const BenchFlags& flags_;
  const std::string model_;
  const int prompt_tokens_;
  std::unique_ptr<PlacedCluster> cluster_;
  SplitMix64 random_{11};
  int next_id_ = 0;
  double prefill_s_ = 0;
  double kv_bytes_ = 0;
  double bytes_per_s_ = 0;  // 0: no throttle
  double transfer_s_ = 0;   // alone
  // Of the pairs kept; prefill and transfer of both runs of a pair.
  std::vector<double> streamed_;
  std::vector<double> exposed_;
  std::vector<double> whole_;
  std::vector<double> transfer_;
  std::vector<double> prefill_ms_;
};

Status Run(const BenchFlags& flags, Report& report) {
  ASSIGN_OR_RETURN(const std::string model, LongContextModel(flags));
  report.Note("llama-160m, one thread a worker; exposed = second token - first token - one step");
  for (const int prompt_tokens : {512, 2048}) {
    RETURN_IF_ERROR(Overlap(flags, model, prompt_tokens).Run(report));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("overlap", argc, argv, reprise::bench::Run);
}
