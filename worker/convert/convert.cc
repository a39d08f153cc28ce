#include "worker/convert/convert.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "worker/convert/converted_folder.h"

namespace reprise::convert {
namespace {

using worker::ModelConfig;
using worker::ModelFolder;
using worker::TensorType;

// DeepSeek norms the latent. Numbers this small leave the norm nothing but its epsilon: the mean
// square of latents below 2^18 is below 2^-44, and 1e-6 + 2^-44 is 1e-6 in f32, so the norm divides
// by a constant, which its weight takes back.
constexpr double kQuiet = 0x1p-40;
constexpr float kNormEps = 1e-6F;  // of the norm of the latent

constexpr char kQuery[] = "self_attn.q_proj.weight";
constexpr char kKey[] = "self_attn.k_proj.weight";
constexpr char kValue[] = "self_attn.v_proj.weight";
constexpr char kKeyBias[] = "self_attn.k_proj.bias";
constexpr char kValueBias[] = "self_attn.v_proj.bias";
constexpr char kDown[] = "self_attn.kv_a_proj_with_mqa.weight";
constexpr char kDownNorm[] = "self_attn.kv_a_layernorm.weight";
constexpr char kUp[] = "self_attn.kv_b_proj.weight";

StatusOr<ModelFolder> OpenSource(const std::string& dir) {
  ASSIGN_OR_RETURN(ModelFolder folder, ModelFolder::Open(dir));
  const ModelConfig& config = folder.config();
  if (config.family != worker::Family::kLlama) {
    return absl::UnimplementedError(
        absl::StrCat(dir, " is a ", worker::FamilyName(config.family),
                     config.latent ? ", its attention already is latent" : "",
                     "; LlamaForCausalLM is converted"));
  }
  if (config.block_scales) {
    return absl::UnimplementedError(
        absl::StrCat(dir, " is stored in FP8; f32, bf16 and f16 are converted"));
  }
  return folder;
}

ModelConfig LatentConfig(const ModelConfig& source, const LatentShape& shape) {
  ModelConfig c = source;
  c.family = worker::Family::kDeepseekV2;
  c.kv_heads = c.heads;
  worker::LatentAttention l;
  l.kv_rank = shape.rank;
  l.nope_dim = shape.nope_dim();
  l.rope_dim = shape.rope_dims;
  l.value_dim = shape.head_dim;
  l.rope_heads = shape.rope_heads();
  // A model that other servers can read too has its scale in q_proj; one they cannot keeps the
  // source's very numbers there.
  if (shape.rope_heads() > 1 || shape.still() == 0) {
    l.scale_dims = static_cast<double>(shape.head_dim);
  }
  c.head_dim = l.nope_dim + l.rope_dim;
  c.latent = l;
  return c;
}

class ToLatent final : public Conversion {
 public:
  ToLatent(const ModelFolder& source, const LatentShape& shape, bool live_norm,
           std::vector<LatentPlan> plans)
      : source_(source),
        shape_(shape),
        live_norm_(live_norm),
        config_(LatentConfig(source.config(), shape)),
        plans_(std::move(plans)),
        query_scale_(config_.latent->scale_dims != 0
                         ? 1
                         : std::sqrt(static_cast<double>(config_.head_dim) /
                                     static_cast<double>(shape.head_dim))) {}

  const ModelConfig& config() const override { return config_; }

  std::optional<TensorType> TypeOf(int64_t layer, absl::string_view name) const override {
    // The projections of a layer are of one type.
    const TensorType type = source_.tensor(LayerPrefix(layer) + kKey).type;
    if (name == kQuery || name == kUp) return type;
    if (name == kDownNorm) return live_norm_ ? type : TensorType::kF32;
    if (name != kDown) return std::nullopt;
    if (live_norm_) return type;
    // f16 has no numbers as small as the norm wants them.
    return type == TensorType::kF16 ? TensorType::kF32 : type;
  }

  std::map<std::string, Matrix> MakeLayer(int64_t layer) const override {
    const std::string prefix = LayerPrefix(layer);
    const LatentPlan& plan = plans_[static_cast<size_t>(layer)];
    std::map<std::string, Matrix> made;
    made[kQuery] = Queries(ReadMatrix(source_, prefix + kQuery), plan);
    made[kDown] =
        Down(ReadMatrix(source_, prefix + kKey), ReadMatrix(source_, prefix + kValue), plan);
    Matrix norm(1, shape_.rank);
    for (double& x : norm.values()) {
      x = live_norm_ ? plan.latent_rms : std::sqrt(static_cast<double>(kNormEps)) / kQuiet;
    }
    made[kDownNorm] = std::move(norm);
    made[kUp] = Up(plan);
    return made;
  }

 private:
  // First column, in keys and values, of the group a head belongs to.
  int64_t GroupOf(int64_t head) const {
    return head / (shape_.heads / shape_.kv_heads) * shape_.head_dim;
  }

  static void Copy(const Matrix& from, int64_t to_row, Matrix* to) {
    for (int64_t r = 0; r < from.rows(); ++r) {
      std::copy_n(from.row(r), from.cols(), to->row(to_row + r));
    }
  }

  // Per head: the source's query against what stands still, and its share of the rotated key.
  Matrix Queries(const Matrix& source, const LatentPlan& plan) const {
    Matrix q(shape_.heads * config_.head_dim, source.cols());
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const Matrix own = RowsOf(source, head * shape_.head_dim, shape_.head_dim);
      const int64_t to = head * config_.head_dim;
      if (shape_.still() > 0) Copy(own, to, &q);
      Copy(Product(ColumnsOf(plan.rotated, GroupOf(head), shape_.head_dim), own),
           to + shape_.nope_dim(), &q);
    }
    Scale(q, query_scale_);
    return q;
  }

  Matrix Down(const Matrix& keys, const Matrix& values, const LatentPlan& plan) const {
    Matrix latent = Product(plan.down_keys, keys);
    AddScaled(latent, 1, Product(plan.down_values, values));
    if (!live_norm_) Scale(latent, kQuiet);
    Matrix down(shape_.rank + shape_.rope_dims, keys.cols());
    Copy(latent, 0, &down);
    Copy(Product(plan.rotated, keys), shape_.rank, &down);
    return down;
  }

  Matrix Up(const LatentPlan& plan) const {
    const int64_t per_head = shape_.nope_dim() + shape_.head_dim;
    Matrix up(shape_.heads * per_head, shape_.rank);
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const int64_t to = head * per_head;
      if (shape_.still() > 0) {
        Copy(RowsOf(plan.up_keys, GroupOf(head), shape_.head_dim), to, &up);
      }
      Copy(RowsOf(plan.up_values, GroupOf(head), shape_.head_dim), to + shape_.nope_dim(), &up);
    }
    return up;
  }

  const ModelFolder& source_;
  const LatentShape shape_;
  const bool live_norm_;
  const ModelConfig config_;
  const std::vector<LatentPlan> plans_;  // one a layer
  const double query_scale_;
};

class ToGrouped final : public Conversion {
 public:
  ToGrouped(const ModelFolder& source, int64_t kv_heads)
      : source_(source), config_(source.config()) {
    config_.kv_heads = kv_heads;
  }

  const ModelConfig& config() const override { return config_; }

  std::optional<TensorType> TypeOf(int64_t layer, absl::string_view name) const override {
    if (config_.kv_heads == source_.config().kv_heads) return std::nullopt;
    for (const char* pooled : {kKey, kValue, kKeyBias, kValueBias}) {
      if (name == pooled) return source_.tensor(LayerPrefix(layer) + pooled).type;
    }
    return std::nullopt;
  }

  std::map<std::string, Matrix> MakeLayer(int64_t layer) const override {
    std::map<std::string, Matrix> made;
    for (const char* pooled : {kKey, kValue}) {
      const Matrix heads = ReadMatrix(source_, LayerPrefix(layer) + pooled);
      made[pooled] = Product(Mean(heads.rows()), heads);
    }
    if (!config_.attention_bias) return made;
    for (const char* pooled : {kKeyBias, kValueBias}) {
      const Matrix heads = ReadMatrix(source_, LayerPrefix(layer) + pooled);
      made[pooled] = Transposed(Product(Mean(heads.cols()), Transposed(heads)));
    }
    return made;
  }

 private:
  // [kv_heads head_dim, rows]: row i of a new head is the mean of rows i of the old ones.
  Matrix Mean(int64_t rows) const {
    const int64_t pooled = source_.config().kv_heads / config_.kv_heads;
    Matrix mean(config_.kv_heads * config_.head_dim, rows);
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t head = row / config_.head_dim / pooled;
      mean.at(head * config_.head_dim + row % config_.head_dim, row) =
          1 / static_cast<double>(pooled);
    }
    return mean;
  }

  const ModelFolder& source_;
  ModelConfig config_;
};

StatusOr<std::vector<LatentPlan>> PlanLayers(const ModelFolder& source, const LatentShape& shape,
                                             const ToLatentOptions& options) {
  const auto layers = static_cast<size_t>(source.config().layers);
  std::vector<Matrix> moments(layers);
  const bool needed = shape.needs_moments() || options.live_norm;
  if (needed && options.calibration.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope dims ", shape.rope_dims, " of ", shape.keys(), ", rank ", shape.rank,
                     " of ", shape.rank_max(), options.live_norm ? " and a norm" : "",
                     " need a calibration text that decides what is left out"));
  }
  if (!needed && !options.calibration.empty()) {
    return absl::InvalidArgumentError(
        "at full size nothing is left out: a calibration text decides nothing");
  }
  if (needed) {
    ASSIGN_OR_RETURN(moments, KeyValueMoments(source.dir(), options.calibration, options.text));
  }
  std::vector<LatentPlan> plans;
  for (size_t layer = 0; layer < layers; ++layer) {
    ASSIGN_OR_RETURN(LatentPlan plan, PlanLatent(shape, moments[layer]));
    plans.push_back(std::move(plan));
  }
  return plans;
}

}  // namespace

Status ConvertToLatent(const std::string& from, const std::string& to,
                       const ToLatentOptions& options) {
  ASSIGN_OR_RETURN(const ModelFolder source, OpenSource(from));
  if (source.config().attention_bias) {
    return absl::UnimplementedError(absl::StrCat(
        from, " has biases in its attention, for which DeepSeek-V2's queries have no place"));
  }
  if (source.config().rope_scaling.kind == worker::RopeKind::kYarn) {
    return absl::UnimplementedError(
        absl::StrCat(from,
                     " scales its rotation by YaRN, which DeepSeek-V2 means otherwise; "
                     "default, linear and llama3 are converted"));
  }
  ASSIGN_OR_RETURN(const LatentShape shape, FitLatent(source.config(), options.sizes));
  ASSIGN_OR_RETURN(std::vector<LatentPlan> plans, PlanLayers(source, shape, options));
  return WriteConverted(source, ToLatent(source, shape, options.live_norm, std::move(plans)), to);
}

Status ConvertToGrouped(const std::string& from, const std::string& to, int64_t kv_heads) {
  ASSIGN_OR_RETURN(const ModelFolder source, OpenSource(from));
  const int64_t have = source.config().kv_heads;
  if (kv_heads < 1 || have % kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV heads asked for are ", kv_heads, ", not a divisor of the model's ", have));
  }
  return WriteConverted(source, ToGrouped(source, kv_heads), to);
}

}  // namespace reprise::convert
