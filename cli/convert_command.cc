#include "cli/convert_command.h"

#include <cmath>
#include <cstdio>

#include "cli/text_input.h"
#include "worker/convert/convert.h"
#include "worker/model/check_model.h"

namespace reprise::cli {
namespace {

struct ConvertOptions {
  std::string to;
  int64_t kv_heads = 0;
  convert::LatentSizes sizes;
  bool live_norm = false;
  std::string calibration;
  std::string eval;
  int64_t tokens_max = 65'536;
  convert::TextOptions text;
};

void Declare(FlagSet& flags, ConvertOptions& o) {
  flags.Add("to", &o.to, "mla: latent attention; gqa, mqa: fewer KV heads, means of the model's");
  flags.Add("kv-heads", &o.kv_heads, "gqa: how many; a divisor of the model's");
  flags.Add("rope-dims", &o.sizes.rope_dims, "mla: of the rotated key; 0: all, nothing is lost");
  flags.Add("rank", &o.sizes.rank, "mla: of the latent; 0: all that is not rotated");
  flags.Add("fold", &o.sizes.fold,
            "mla: neighbouring frequencies taken as one; 0: as few as rope-dims allows");
  flags.Add("live-norm", &o.live_norm,
            "mla: norm the latent by its size on the calibration text, for training on");
  flags.Add("calibration", &o.calibration,
            "mla: a text that decides what is left out below full size");
  flags.Add("eval", &o.eval, "a text both models are scored on");
  flags.AddRange("tokens-max", &o.tokens_max, 2, int64_t{1} << 24, "read of either text");
  flags.AddRange("threads", &o.text.threads, 1, 256, "for reading texts");
}

// Flags of another --to would be read by nothing.
Status CheckFlags(const ConvertOptions& o, size_t folders) {
  if (o.to != "mla" && o.to != "gqa" && o.to != "mqa") {
    return absl::InvalidArgumentError(absl::StrCat("--to is \"", o.to, "\", not mla, gqa or mqa"));
  }
  if (folders != 2)
    return absl::InvalidArgumentError("name the model's folder and the one to write");
  const bool latent = o.sizes.rope_dims != 0 || o.sizes.rank != 0 || o.sizes.fold != 0 ||
                      o.live_norm || !o.calibration.empty();
  if (latent && o.to != "mla") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--rope-dims, --rank, --fold, --live-norm and --calibration are of --to mla, not ", o.to));
  }
  if (o.kv_heads != 0 && o.to != "gqa") {
    return absl::InvalidArgumentError(absl::StrCat("--kv-heads is of --to gqa, not ", o.to));
  }
  if (o.kv_heads == 0 && o.to == "gqa") return absl::InvalidArgumentError("gqa needs --kv-heads");
  return absl::OkStatus();
}

Status Convert(const ConvertOptions& o, const std::string& from, const std::string& to) {
  if (o.to == "mqa") return convert::ConvertToGrouped(from, to, 1);
  if (o.to == "gqa") return convert::ConvertToGrouped(from, to, o.kv_heads);
  TextInput calibration;
  if (!o.calibration.empty()) {
    ASSIGN_OR_RETURN(calibration, ReadTextInput(o.calibration, from, o.tokens_max));
  }
  return convert::ConvertToLatent(from, to, {o.sizes, o.live_norm, calibration.ids, o.text});
}

Status PrintScores(const ConvertOptions& o, const std::vector<std::string>& folders) {
  ASSIGN_OR_RETURN(const TextInput text, ReadTextInput(o.eval, folders[0], o.tokens_max));
  std::printf("%zu tokens of %s\n%14s %12s %12s %14s\n", text.ids.size(), o.eval.c_str(),
              "bits per byte", "nats/token", "perplexity", "cache B/token");
  for (const std::string& folder : folders) {
    ASSIGN_OR_RETURN(const auto score, convert::ScoreText(folder, text.ids, o.text));
    ASSIGN_OR_RETURN(const auto report, worker::CheckModel(folder));
    const double nats = score.nats / static_cast<double>(score.tokens);
    std::printf("%14.4f %12.4f %12.3f %14lld  %s\n", BitsPerByte(score, text), nats, std::exp(nats),
                static_cast<long long>(report.kv_bytes_per_token), folder.c_str());
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace

int RunConvert(const Args& args) {
  ConvertOptions o;
  FlagSet flags("reprise convert",
                "Writes a model with latent attention (TransMLA) or fewer KV heads out of a Llama "
                "folder, and says what that costs.",
                "FROM TO");
  Declare(flags, o);
  std::vector<std::string> folders;
  if (const auto exit = ParseFlags(flags, args, 2, &folders)) return *exit;
  Status status = CheckFlags(o, folders.size());
  if (status.ok()) status = Convert(o, folders[0], folders[1]);
  if (!status.ok()) return Fail("convert", status);
  std::printf("wrote %s\n", folders[1].c_str());
  std::fflush(stdout);
  if (!o.eval.empty()) status = PrintScores(o, folders);
  return status.ok() ? 0 : Fail("convert", status);
}

}  // namespace reprise::cli
