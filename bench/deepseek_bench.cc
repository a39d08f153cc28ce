// DeepSeek's attention and experts against references in double precision, in this process:
//   logits     tiny models of the shapes of V2-Lite, V2 and V3 (the last also in FP8) against
//              transformers' logits (tests/golden): the prompt form, which expands the latents, and
//              the step form, which absorbs the expansion into the query
//   attention  one layer's latent attention, bf16 weights and cache, of tiny models and at
//   V2-Lite's
//              published size, against the reference with a derived bound (docs/models.md): the
//              farthest element of either form, and the forms from each other, as shares of it
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "bench/attention_model.h"
#include "worker/model/golden_logits.h"
#include "worker/model/latent_layer.h"
#include "worker/model/latent_reference.h"
#include "worker/model/offline.h"

namespace reprise::bench {
namespace {

constexpr int64_t kPromptTokens = 20;  // of the golden tokens; the rest in step form
constexpr int kThreads = 2;

std::string NameOf(absl::string_view model) { return absl::StrReplaceAll(model, {{"-", "_"}}); }

Status Logits(const BenchFlags& flags, const std::string& name, Report& report) {
  const std::string dir = absl::StrCat(flags.models, "/../tests/golden/", name);
  ASSIGN_OR_RETURN(const worker::GoldenLogits golden, worker::ReadGoldenLogits(dir));
  ASSIGN_OR_RETURN(const auto model,
                   worker::OfflineModel::Open({.model_dir = dir, .threads = kThreads}));
  ASSIGN_OR_RETURN(const std::vector<float> prompt, model->ForwardAll(golden.tokens));
  ASSIGN_OR_RETURN(const std::vector<float> step,
                   model->ForwardAll(golden.tokens, 0, kPromptTokens));
  const auto n = static_cast<int64_t>(golden.logits.size());
  const std::string figure = NameOf(name);
  report.Bar(figure + "_logit_error_prompt_form", worker::RelativeLogitError(prompt, golden.logits),
             "<=", worker::kGoldenErrorMax, n);
  report.Bar(figure + "_logit_error_step_form", worker::RelativeLogitError(step, golden.logits),
             "<=", worker::kGoldenErrorMax, n);
  report.Bar(figure + "_logit_distance_of_forms", worker::RelativeLogitError(step, prompt),
             "<=", 2 * worker::kGoldenErrorMax, n);
  return absl::OkStatus();
}

struct Computed {
  worker::Bounded want;
  std::vector<float> found;
  double share = 0;           // of its bound, the farthest element
  double relative_error = 0;  // the farthest element's distance over the root mean square
};

// The farthest element of two forms from each other, as a share of both bounds together.
double ShareBetween(const Computed& a, const Computed& b) {
  double largest = 0;
  for (size_t i = 0; i < a.found.size(); ++i) {
    const double distance = std::abs(static_cast<double>(a.found[i]) - b.found[i]);
    largest = std::max(largest, distance / (a.want.bound[i] + b.want.bound[i]));
  }
  return largest;
}

Computed Compute(const worker::ModelFolder& folder, const worker::ModelWeights& weights,
                 const worker::LatentReference& reference, worker::LatentForm form, int64_t rows) {
  const worker::ModelConfig& config = folder.config();
  std::vector<float> x = NormedInputs(rows * config.hidden);
  const kernels::F32 input{x.data(), rows, config.hidden, config.hidden};
  worker::LatentLayer layer(config, weights.layers[0],
                            {.threads = kThreads, .pages = (rows + 63) / 64});
  const kernels::F32 out = layer.Run(input, form == worker::LatentForm::kExpanded ? rows : 0);
  Computed c;
  c.want = reference.Attended(input, form, {kernels::DType::kBF16, kernels::DType::kBF16});
  c.found.assign(out.data, out.data + c.want.value.size());
  c.share = worker::LargestShareOfBound(out, c.want);
  const std::vector<float> exact(c.want.value.begin(), c.want.value.end());
  c.relative_error = worker::RelativeLogitError(c.found, exact);
  return c;
}

Status Attention(const BenchFlags& flags, const std::string& name,
                 const worker::ModelConfig& config, int64_t rows, Report& report) {
  ASSIGN_OR_RETURN(const worker::ModelFolder folder, MadeAttention(flags, name, config));
  ASSIGN_OR_RETURN(const worker::ModelWeights weights, worker::LoadModelWeights(folder));
  ASSIGN_OR_RETURN(const auto reference, worker::LatentReference::Load(folder, 0));
  const Computed expanded =
      Compute(folder, weights, reference, worker::LatentForm::kExpanded, rows);
  const Computed absorbed =
      Compute(folder, weights, reference, worker::LatentForm::kAbsorbed, rows);
  const auto n = static_cast<int64_t>(expanded.found.size());
  const std::string figure = NameOf(name) + "_attention_";
  report.Figure(figure + "expanded_error", expanded.relative_error, "of the output's size");
  report.Figure(figure + "absorbed_error", absorbed.relative_error, "of the output's size");
  report.Bar(figure + "expanded_of_bound", expanded.share, "<=", 1, n);
  report.Bar(figure + "absorbed_of_bound", absorbed.share, "<=", 1, n);
  report.Bar(figure + "apart_of_bounds", ShareBetween(expanded, absorbed), "<=", 1, n);
  return absl::OkStatus();
}

Status Run(const BenchFlags& flags, Report& report) {
  report.Note("logits: f32 weights and cache, largest error over their root mean square");
  report.Note("attention: bf16 weights and cache, farthest element as a share of its bound");
  for (const std::string name :
       {"deepseek-v2-lite", "deepseek-v2", "deepseek-v3", "deepseek-v3-fp8"}) {
    RETURN_IF_ERROR(Logits(flags, name, report));
  }
  const int64_t rows = flags.long_run ? 200 : 100;
  for (const std::string name : {"tiny-deepseek-v2-lite", "tiny-deepseek-v2", "tiny-deepseek-v3"}) {
    RETURN_IF_ERROR(Attention(flags, name, *worker::PresetConfig(name), rows, report));
  }
  return Attention(flags, "v2-lite", V2LiteAttention(), flags.long_run ? 70 : 24, report);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("deepseek", argc, argv, reprise::bench::Run);
}
