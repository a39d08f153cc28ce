#include "bench/mla_cpu_peer.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/attention_model.h"
#include "bench/llama_cpp.h"
#include "common/clock.h"
#include "common/percentile.h"
#include "common/random.h"
#include "worker/model/offline.h"

namespace reprise::bench {
namespace {

constexpr int64_t kLayers = 4;  // 28 MB of weights and 5 of cache each: more than the caches hold
constexpr int64_t kContext = 4096;
constexpr int64_t kChunk = 512;
constexpr int64_t kNewTokens = 16;
constexpr LlamaCppTest kDecode{.new_tokens = kNewTokens, .depth = kContext - kNewTokens / 2};
constexpr LlamaCppTest kPrefill{.prompt_tokens = kChunk, .depth = kContext - kChunk};
constexpr int64_t kTrialDepth = 2048;
// Its flash attention has no fast paths for a cache of bf16.
constexpr std::pair<bool, const char*> kChoices[] = {
    {true, "f16"}, {false, "f16"}, {false, "bf16"}};
// Short ones and many: threads of llama.cpp wait for each other in loops, so that a neighbour who
// takes one of their cores for a moment costs it dear.
constexpr int kDecodeRepetitions = 8;
constexpr int kPrefillRepetitions = 2;
constexpr double kDecodeMin = 1.5;
constexpr double kPrefillMin = 1.0;

int Repetitions(const LlamaCppTest& test) {
  return test.new_tokens > 0 ? kDecodeRepetitions : kPrefillRepetitions;
}

// A model of some layers on both sides.
class Pair {
 public:
  static StatusOr<std::unique_ptr<Pair>> Make(const BenchFlags& flags, int threads,
                                              int64_t layers) {
    worker::ModelConfig config = V2LiteAttention();
    config.layers = layers;
    const std::string name = absl::StrCat("v2-lite-", layers);
    ASSIGN_OR_RETURN(const worker::ModelFolder folder, MadeAttention(flags, name, config));
    auto pair = std::unique_ptr<Pair>(new Pair);
    pair->gguf_ = absl::StrCat(flags.cache_dir, "/attention-", name, ".gguf");
    RETURN_IF_ERROR(WriteLatentGguf(config, pair->gguf_));
    ASSIGN_OR_RETURN(pair->model_,
                     worker::OfflineModel::Open({.model_dir = folder.dir(),
                                                 .threads = threads,
                                                 .chunk_tokens = static_cast<int>(kChunk)},
                                                kContext + kNewTokens));
    SplitMix64 random(5);
    for (int64_t i = 0; i < kContext + kNewTokens; ++i) {
      pair->tokens_.push_back(
          static_cast<int32_t>(random.Below(static_cast<uint64_t>(config.vocab))));
    }
    RETURN_IF_ERROR(pair->model_->Read(pair->tokens_));
    return pair;
  }

  const std::string& gguf() const { return gguf_; }

  // Seconds for all tokens of the test, the best of some repetitions.
  StatusOr<double> Ours(const LlamaCppTest& test) {
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < Repetitions(test); ++i) {
      const TimeNs start = RealClock().NowNs();
      if (test.prompt_tokens > 0) {
        RETURN_IF_ERROR(Step(test.depth, test.prompt_tokens, INT64_MAX));
      }
      for (int64_t token = 0; token < test.new_tokens; ++token) {
        RETURN_IF_ERROR(Step(test.depth + token, 1, test.depth));
      }
      best = std::min(best, SecondsFromNs(RealClock().NowNs() - start));
    }
    return best;
  }

 private:
  // Every row gives logits: else ours would attend one row alone in the last layer, llama.cpp all.
  Status Step(int64_t first, int64_t tokens, int64_t prompt_end) {
    const worker::StepItem item{
        std::span(tokens_).subspan(static_cast<size_t>(first), static_cast<size_t>(tokens)), first,
        model_->pages(), true, prompt_end};
    return model_->executor().RunAll({&item, 1});
  }

  std::string gguf_;
  std::unique_ptr<worker::OfflineModel> model_;
  std::vector<int32_t> tokens_;
};

class Comparison {
 public:
  Comparison(const LlamaCpp& peer, const LlamaCppTest& test) : peer_(peer), test_(test) {}

  // The peer's fastest way, each tried at half the context.
  Status Choose(const Pair& model) {
    LlamaCppTest trial = test_;
    trial.depth = kTrialDepth;
    double best = std::numeric_limits<double>::infinity();
    for (const auto& [flash_attention, cache_type] : kChoices) {
      const LlamaCppChoice choice{flash_attention, cache_type};
      ASSIGN_OR_RETURN(const double seconds, Theirs(model, choice, trial));
      if (seconds < best) choice_ = choice;
      best = std::min(best, seconds);
    }
    return absl::OkStatus();
  }

  struct Times {
    double ours = 0;
    double theirs = 0;
  };
  // Who begins changes from turn to turn.
  StatusOr<Times> Measure(Pair& model, int turn) {
    Times times;
    for (const int side : {0, 1}) {
      if ((turn + side) % 2 == 0) {
        ASSIGN_OR_RETURN(times.theirs, Theirs(model, choice_, test_));
      } else {
        ASSIGN_OR_RETURN(times.ours, model.Ours(test_));
      }
    }
    std::fprintf(stderr, "%.4f s, llama.cpp %.4f s (%s)\n", times.ours, times.theirs,
                 choice_.ToString().c_str());
    return times;
  }

  Status Add(Pair& model, int turn) {
    ASSIGN_OR_RETURN(const Times times, Measure(model, turn));
    ours_.push_back(times.ours);
    theirs_.push_back(times.theirs);
    ratios_.push_back(times.theirs / times.ours);
    return absl::OkStatus();
  }

  Status Finish(const std::string& name, double min, Pair& half, Report& report) {
    ASSIGN_OR_RETURN(const Times half_times, Measure(half, 0));
    const double ours = Median(ours_);
    const double theirs = Median(theirs_);
    const double steps = test_.new_tokens > 0 ? static_cast<double>(test_.new_tokens) : 1;
    const auto per_layer_ms = [steps](double seconds) { return seconds / steps / kLayers * 1e3; };
    report.Note(absl::StrCat(name, ": llama.cpp ", build_, " with ", choice_.ToString(),
                             ", its fastest way here"));
    report.Figure(name + "_layer_ms", per_layer_ms(ours), "ms a layer and step");
    report.Figure("llama_cpp_" + name + "_layer_ms", per_layer_ms(theirs), "ms a layer and step");
    report.Figure(name + "_half_the_layers", half_times.ours / ours, "of the time");
    report.Figure("llama_cpp_" + name + "_half_the_layers", half_times.theirs / theirs,
                  "of the time");
    report.Bar(name + "_over_llama_cpp", Median(ratios_), ">=", min,
               static_cast<int64_t>(ratios_.size()));
    return absl::OkStatus();
  }

 private:
  StatusOr<double> Theirs(const Pair& model, const LlamaCppChoice& choice,
                          const LlamaCppTest& test) {
    ASSIGN_OR_RETURN(const LlamaCppTimes times,
                     peer_.Run(model.gguf(), choice, test, Repetitions(test)));
    build_ = times.build;
    return *std::min_element(times.seconds.begin(), times.seconds.end());
  }

  const LlamaCpp& peer_;
  const LlamaCppTest test_;
  LlamaCppChoice choice_;
  std::string build_;
  std::vector<double> ours_, theirs_, ratios_;  // one a pair, seconds
};

}  // namespace

Status CompareWithLlamaCpp(const BenchFlags& flags, int threads, Report& report) {
  if (flags.peer.empty()) {
    report.Note(
        "decode_over_llama_cpp and prefill_over_llama_cpp were not measured: --peer=DIR names a "
        "build folder of llama.cpp with bin/llama-bench");
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const LlamaCpp peer, LlamaCpp::Open(flags.peer, threads));
  ASSIGN_OR_RETURN(const auto model, Pair::Make(flags, threads, kLayers));
  ASSIGN_OR_RETURN(const auto half, Pair::Make(flags, threads, kLayers / 2));
  Comparison decode(peer, kDecode);
  Comparison prefill(peer, kPrefill);
  RETURN_IF_ERROR(decode.Choose(*half));
  RETURN_IF_ERROR(prefill.Choose(*half));
  const int pairs = flags.long_run ? 9 : 3;
  for (int pair = 0; pair < pairs; ++pair) {
    RETURN_IF_ERROR(decode.Add(*model, pair));
    RETURN_IF_ERROR(prefill.Add(*model, pair));
  }
  RETURN_IF_ERROR(decode.Finish("decode", kDecodeMin, *half, report));
  RETURN_IF_ERROR(prefill.Finish("prefill", kPrefillMin, *half, report));
  return absl::OkStatus();
}

}  // namespace reprise::bench
