#include "coordinator/planner/kv_layout.h"

#include <algorithm>

#include "common/limits.h"

namespace reprise::planner {
namespace {

constexpr int64_t kWeightBytesMax = int64_t{1} << 50;

Status CheckRange(const char* name, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " is ", value, ", the range is ", min, " to ", max));
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

ModelShape Heads(const char* name, int64_t layers, int64_t heads, int64_t kv_heads,
                 int64_t weight_bytes) {
  return {.name = name,
          .layers = layers,
          .heads = heads,
          .weight_bytes = weight_bytes,
          .kv = {.kv_layers = layers, .kv_heads = kv_heads, .head_dim = 128}};
}

}  // namespace

Status ValidateLayout(const KvLayout& layout) {
  RETURN_IF_ERROR(CheckRange("kv_layers", layout.kv_layers, 1, limits::kLayersMax));
  RETURN_IF_ERROR(CheckRange("latent", layout.latent, 0, limits::kHiddenSizeMax));
  RETURN_IF_ERROR(CheckRange("rope", layout.rope, 0, limits::kHiddenSizeMax));
  RETURN_IF_ERROR(CheckRange("element_bytes", layout.element_bytes, 1, 4));
  if (layout.latent > 0) return absl::OkStatus();
  if (layout.rope > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope is ", layout.rope, " without a latent; it belongs to MLA"));
  }
  RETURN_IF_ERROR(CheckRange("kv_heads", layout.kv_heads, 1, limits::kAttentionHeadsMax));
  return CheckRange("head_dim", layout.head_dim, 1, limits::kHeadDimMax);
}

Status ValidateShape(const ModelShape& shape) {
  RETURN_IF_ERROR(CheckRange("layers", shape.layers, 1, limits::kLayersMax));
  RETURN_IF_ERROR(CheckRange("heads", shape.heads, 1, limits::kAttentionHeadsMax));
  RETURN_IF_ERROR(CheckRange("weight_bytes", shape.weight_bytes, 1, kWeightBytesMax));
  RETURN_IF_ERROR(ValidateLayout(shape.kv));
  RETURN_IF_ERROR(CheckRange("kv_layers", shape.kv.kv_layers, 1, shape.layers));
  if (shape.kv.latent > 0) return absl::OkStatus();
  return CheckRange("kv_heads", shape.kv.kv_heads, 1, shape.heads);
}

int64_t RowBytes(const KvLayout& layout) {
  const int64_t elements =
      layout.latent > 0 ? layout.latent + layout.rope : 2 * layout.kv_heads * layout.head_dim;
  return elements * layout.element_bytes;
}

int64_t BytesPerToken(const KvLayout& layout) { return layout.kv_layers * RowBytes(layout); }

StatusOr<int64_t> KvBytes(const KvLayout& layout, int64_t tokens) {
  int64_t bytes = 0;
  if (tokens < 0 || __builtin_mul_overflow(BytesPerToken(layout), tokens, &bytes)) {
    return absl::OutOfRangeError(absl::StrCat("KV of ", tokens, " tokens at ",
                                              BytesPerToken(layout), " bytes exceeds 63 bits"));
  }
  return bytes;
}

std::vector<NamedLayout> CompareLayouts(const ModelShape& shape, int64_t group) {
  const auto heads = [&](const char* name, int64_t kv_heads, int64_t kv_layers) {
    KvLayout layout = shape.kv;
    layout.kv_layers = kv_layers;
    layout.kv_heads = kv_heads;
    layout.latent = layout.rope = 0;
    return NamedLayout{
        name, absl::StrCat(kv_heads, kv_heads == 1 ? " head, " : " heads, ", kv_layers, " layers"),
        layout};
  };
  KvLayout mla = shape.kv;
  mla.kv_layers = shape.layers;
  mla.latent = 512;
  mla.rope = 64;
  NamedLayout own = heads("own", shape.kv.kv_heads, shape.kv.kv_layers);
  own.layout = shape.kv;
  if (shape.kv.latent > 0) {
    own.what = absl::StrCat("latent ", shape.kv.latent, " + ", shape.kv.rope, ", ",
                            shape.kv.kv_layers, " layers");
  }
  return {own,
          heads("MHA", shape.heads, shape.layers),
          heads("GQA", CeilDiv(shape.heads, group), shape.layers),
          heads("MQA", 1, shape.layers),
          heads("CLA", shape.heads, CeilDiv(shape.layers, 2)),
          heads("MLKV", 1, CeilDiv(shape.layers, group)),
          {"MLA", absl::StrCat("latent 512 + 64, ", shape.layers, " layers"), mla}};
}

int64_t MachinesFor(int64_t weight_bytes, int64_t kv_bytes, int64_t machine_bytes) {
  const double machines = static_cast<double>(weight_bytes) / static_cast<double>(machine_bytes) +
                          static_cast<double>(kv_bytes) / static_cast<double>(machine_bytes);
  return std::max<int64_t>(1, static_cast<int64_t>(machines) +
                                  (machines > static_cast<double>(static_cast<int64_t>(machines))));
}

// Shapes as in the models' own config.json. Weights: OPT and BLOOM as DejaVu's planner has them (16
// bit), Llama 3 by parameters in bf16, DeepSeek-V3's 671 billion in 8 bit.
const std::vector<ModelShape>& PresetShapes() {
  static const auto* const shapes = new std::vector<ModelShape>{
      Heads("opt-30b", 48, 56, 56, 60'000'000'000),
      Heads("opt-66b", 64, 72, 72, 132'000'000'000),
      Heads("opt-175b", 96, 96, 96, 350'000'000'000),
      Heads("bloom-176b", 70, 112, 112, 352'000'000'000),
      Heads("llama-3-8b", 32, 32, 8, 16'060'522'496),
      Heads("llama-3-70b", 80, 64, 8, 141'107'412'992),
      {.name = "deepseek-v3",
       .layers = 61,
       .heads = 128,
       .weight_bytes = 671'026'419'200,
       .kv = {.kv_layers = 61, .kv_heads = 128, .head_dim = 128, .latent = 512, .rope = 64}},
  };
  return *shapes;
}

StatusOr<ModelShape> PresetShape(const std::string& name) {
  std::string known;
  for (const ModelShape& shape : PresetShapes()) {
    if (shape.name == name) return shape;
    absl::StrAppend(&known, known.empty() ? "" : ", ", shape.name);
  }
  return absl::NotFoundError(absl::StrCat("no preset \"", name, "\"; known: ", known));
}

}  // namespace reprise::planner
