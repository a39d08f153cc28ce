#include "worker/model/weights.h"

#include <algorithm>
#include <string>
#include <utility>

#include "common/crc32c.h"

namespace reprise::worker {
namespace {

using kernels::ConstMatrix;
using kernels::DType;
using kernels::PackedWeights;

DType TypeOf(const TensorView& tensor) {
  switch (tensor.type) {
    case TensorType::kBF16:
      return DType::kBF16;
    case TensorType::kF16:
      return DType::kF16;
    default:
      return DType::kF32;  // a folder holds no other type
  }
}

ConstMatrix MatrixOf(const TensorView& tensor) {
  const auto rows = static_cast<int64_t>(tensor.shape[0]);
  const auto cols = static_cast<int64_t>(tensor.shape[1]);
  return {tensor.bytes.data(), TypeOf(tensor), rows, cols, cols};
}

class Loader {
 public:
  explicit Loader(const ModelFolder& folder)
      : folder_(folder), ops_(kernels::Select(kernels::BestIsa())) {}

  // `names` without ".weight".
  StatusOr<PackedWeights> Pack(const std::vector<std::string>& names) const {
    std::vector<ConstMatrix> parts;
    for (const std::string& name : names) {
      parts.push_back(MatrixOf(folder_.tensor(name + ".weight")));
      if (parts.back().dtype != parts.front().dtype) {
        return absl::UnimplementedError(
            absl::StrCat(folder_.dir(), ": tensors ", names.front(), ".weight and ", name,
                         ".weight have different types, which are computed as one matrix"));
      }
    }
    return PackedWeights::Pack(parts);
  }

  void AppendVector(const std::string& name, std::vector<float>* out) const {
    const TensorView& tensor = folder_.tensor(name);
    const size_t at = out->size();
    out->resize(at + tensor.elements());
    ops_.convert(tensor.bytes.data(), TypeOf(tensor), out->data() + at, DType::kF32,
                 static_cast<int64_t>(tensor.elements()));
  }

  std::vector<float> Vector(const std::string& name) const {
    std::vector<float> values;
    AppendVector(name, &values);
    return values;
  }

  std::vector<float> Biases(bool present, const std::vector<std::string>& names) const {
    std::vector<float> values;
    if (!present) return values;
    for (const std::string& name : names) AppendVector(name + ".bias", &values);
    return values;
  }

  StatusOr<LlamaLayerWeights> Layer(int64_t index) const {
    const ModelConfig& c = folder_.config();
    const std::string prefix = absl::StrCat("model.layers.", index, ".");
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    const std::vector<std::string> qkv = {attention + "q_proj", attention + "k_proj",
                                          attention + "v_proj"};
    const std::vector<std::string> gate_up = {mlp + "gate_proj", mlp + "up_proj"};
    LlamaLayerWeights w;
    w.attention_norm = Vector(prefix + "input_layernorm.weight");
    ASSIGN_OR_RETURN(w.qkv, Pack(qkv));
    w.qkv_bias = Biases(c.attention_bias, qkv);
    ASSIGN_OR_RETURN(w.o, Pack({attention + "o_proj"}));
    w.o_bias = Biases(c.attention_bias, {attention + "o_proj"});
    w.mlp_norm = Vector(prefix + "post_attention_layernorm.weight");
    ASSIGN_OR_RETURN(w.gate_up, Pack(gate_up));
    w.gate_up_bias = Biases(c.mlp_bias, gate_up);
    ASSIGN_OR_RETURN(w.down, Pack({mlp + "down_proj"}));
    w.down_bias = Biases(c.mlp_bias, {mlp + "down_proj"});
    return w;
  }

 private:
  const ModelFolder& folder_;
  const kernels::CpuOps& ops_;
};

Digest256 Fingerprint(const ModelFolder& folder) {
  const std::string config = folder.config().CanonicalText();
  Sha256 hash;
  hash.Update("reprise.model.v1").UpdateU64le(config.size()).Update(config);
  for (const auto& [name, tensor] : folder.tensors()) {
    hash.UpdateU64le(name.size()).Update(name);
    hash.UpdateU64le(TensorTypeName(tensor.type).size()).Update(TensorTypeName(tensor.type));
    hash.UpdateU64le(tensor.shape.size());
    for (const uint64_t dim : tensor.shape) hash.UpdateU64le(dim);
    hash.UpdateU32le(Crc32c(tensor.bytes.data(), tensor.bytes.size()));
  }
  return hash.Finish();
}

}  // namespace

int64_t LlamaWeights::bytes() const {
  int64_t total = embedding.bytes() + (tied ? 0 : lm_head.bytes());
  for (const LlamaLayerWeights& layer : layers) {
    total += layer.qkv.bytes() + layer.o.bytes() + layer.gate_up.bytes() + layer.down.bytes();
  }
  return total;
}

StatusOr<LlamaWeights> LoadLlamaWeights(const ModelFolder& folder) {
  const Loader loader(folder);
  LlamaWeights w;
  w.tied = folder.config().tied_embeddings;
  w.dtype = TypeOf(folder.tensor("model.embed_tokens.weight"));
  ASSIGN_OR_RETURN(w.embedding, loader.Pack({"model.embed_tokens"}));
  for (int64_t layer = 0; layer < folder.config().layers; ++layer) {
    ASSIGN_OR_RETURN(LlamaLayerWeights weights, loader.Layer(layer));
    w.layers.push_back(std::move(weights));
  }
  w.final_norm = loader.Vector("model.norm.weight");
  if (!w.tied) {
    ASSIGN_OR_RETURN(w.lm_head, loader.Pack({"lm_head"}));
  }
  w.fingerprint = Fingerprint(folder);
  RETURN_IF_ERROR(folder.CheckUnchanged());
  return w;
}

void GatherRows(const kernels::CpuOps& ops, const PackedWeights& packed,
                std::span<const int32_t> ids, kernels::F32 out) {
  const int64_t per_line = PackedWeights::kLineBytes / SizeOf(packed.dtype());
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t id = ids[i];
    const std::byte* line = packed.block(id / PackedWeights::kRows) +
                            id % PackedWeights::kRows * PackedWeights::kLineBytes;
    float* row = out.row(static_cast<int64_t>(i));
    for (int64_t k = 0; k < packed.k(); k += per_line) {
      ops.convert(line, packed.dtype(), row + k, DType::kF32, std::min(per_line, packed.k() - k));
      line += PackedWeights::kRows * PackedWeights::kLineBytes;
    }
  }
}

}  // namespace reprise::worker
