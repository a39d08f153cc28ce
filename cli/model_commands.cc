#include "cli/model_commands.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "cli/text_input.h"
#include "common/clock.h"
#include "common/limits.h"
#include "gateway/text/tokenizer.h"
#include "worker/model/check_model.h"
#include "worker/model/make_model.h"
#include "worker/model/presets.h"

namespace reprise::cli {

namespace {

struct MakeOptions {
  worker::MakeModelOptions model;
  worker::ShapeSizes sizes;
  int64_t seed = 0;
};

void Declare(FlagSet& flags, MakeOptions& o) {
  worker::ShapeSizes& sizes = o.sizes;
  flags.Add("preset", &o.model.preset, "shape: tiny, llama-160m, deepseek-v2-lite, ...");
  flags.AddRange("seed", &o.seed, 0, INT64_MAX, "the weights are a function of it");
  flags.AddChoice("dtype", &o.model.dtype, {"bf16", "f16", "f32"}, "element type of the weights");
  flags.AddRange("shards", &o.model.shards, 1, 1000,
                 "weight files; more than one come with an index");
  flags.AddRange("threads", &o.model.threads, 0, 256,
                 "0: as many as the machine has; the bytes are the same");
  flags.AddRange("layers", &sizes.layers, 0, limits::kLayersMax, "0, here and below: the preset's");
  flags.AddRange("hidden", &sizes.hidden, 0, limits::kHiddenSizeMax, "width of the model");
  flags.AddRange("heads", &sizes.heads, 0, limits::kAttentionHeadsMax, "of queries");
  flags.AddRange("intermediate", &sizes.intermediate, 0, limits::kIntermediateSizeMax,
                 "width of a layer's MLP");
  flags.AddRange("experts", &sizes.experts, 0, limits::kExpertsMax, "of a layer that has some");
  flags.AddRange("experts-per-token", &sizes.experts_per_token, 0, limits::kExpertsMax,
                 "that a token goes to");
  flags.AddRange("expert-intermediate", &sizes.expert_intermediate, 0, limits::kIntermediateSizeMax,
                 "width of one expert");
  flags.AddRange("vocab", &sizes.vocab, 0, limits::kVocabMax, "ids");
  flags.AddRange("context", &sizes.context, 0, limits::kContextTokensMax, "tokens");
}

Status Make(const MakeOptions& o) {
  ASSIGN_OR_RETURN(worker::ModelConfig preset, worker::PresetConfig(o.model.preset));
  ASSIGN_OR_RETURN(worker::ModelConfig config, worker::Resized(std::move(preset), o.sizes));
  const int64_t bytes = config.parameters() * (o.model.dtype == "f32" ? 4 : 2);
  std::printf("%s: %lld parameters, %lld bytes of weights in %s\n", o.model.preset.c_str(),
              static_cast<long long>(config.parameters()), static_cast<long long>(bytes),
              o.model.dtype.c_str());
  std::fflush(stdout);
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const TimeNs start = RealClock().NowNs();
  RETURN_IF_ERROR(
      worker::MakeModelOf(std::move(config), o.model, [&](uint64_t done, uint64_t total) {
        if (!terminal) return;
        std::fprintf(stderr, "\r%lu of %lu MiB%s", static_cast<unsigned long>(done >> 20),
                     static_cast<unsigned long>(total >> 20), done == total ? "\n" : "");
      }));
  std::printf("wrote %s in %.1f s\n", o.model.dir.c_str(),
              SecondsFromNs(RealClock().NowNs() - start));
  return absl::OkStatus();
}

}  // namespace

int RunMakeModel(const Args& args) {
  MakeOptions o;
  FlagSet flags("reprise make-model", "Writes a model folder with random weights.", "FOLDER");
  Declare(flags, o);
  std::vector<std::string> positional;
  if (const auto exit = ParseFlags(flags, args, 1, &positional)) return *exit;
  if (positional.size() != 1) {
    return Fail("make-model", absl::InvalidArgumentError("name the folder to write"));
  }
  o.model.dir = positional[0];
  o.model.seed = static_cast<uint64_t>(o.seed);
  const Status status = Make(o);
  return status.ok() ? 0 : Fail("make-model", status);
}

namespace {

struct CheckOptions {
  worker::CheckModelOptions model;
  std::string eval;
  int64_t tokens_max = 65'536;
  convert::TextOptions text;
};

Status PrintScore(const std::string& folder, const CheckOptions& o) {
  ASSIGN_OR_RETURN(const TextInput text, ReadTextInput(o.eval, folder, o.tokens_max));
  ASSIGN_OR_RETURN(const auto score, convert::ScoreText(folder, text.ids, o.text));
  std::printf("text            %.4f bits per byte, %.4f nats per token over %lld tokens of %s\n",
              BitsPerByte(score, text), score.nats / static_cast<double>(score.tokens),
              static_cast<long long>(score.tokens), o.eval.c_str());
  return absl::OkStatus();
}

}  // namespace

int RunCheck(const Args& args) {
  CheckOptions o;
  FlagSet flags("reprise check", "Looks a model folder over: files, tensors, shapes, tokenizer.",
                "FOLDER");
  flags.Add("scan-values", &o.model.scan_values,
            "also read every weight and refuse NaN and infinity");
  flags.Add("eval", &o.eval, "also score the model on a text");
  flags.AddRange("tokens-max", &o.tokens_max, 2, int64_t{1} << 24, "read of the text");
  flags.AddRange("threads", &o.text.threads, 1, 256, "for reading the text");
  std::vector<std::string> positional;
  if (const auto exit = ParseFlags(flags, args, 1, &positional)) return *exit;
  if (positional.size() != 1) {
    return Fail("check", absl::InvalidArgumentError("name the model's folder"));
  }
  const auto report = worker::CheckModel(positional[0], o.model);
  if (!report.ok()) return Fail("check", report.status());
  const auto tokenizer = Tokenizer::Load(positional[0]);
  if (!tokenizer.ok()) return Fail("check", tokenizer.status());
  std::printf("%stokenizer       %d entries\n", report->ToString().c_str(),
              static_cast<int>((*tokenizer)->vocab_size()));
  if (o.eval.empty()) return 0;
  const Status status = PrintScore(positional[0], o);
  return status.ok() ? 0 : Fail("check", status);
}

}  // namespace reprise::cli
