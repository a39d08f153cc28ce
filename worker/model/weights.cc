#include "worker/model/weights.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "worker/model/block_scaled.h"

namespace reprise::worker {
namespace {

using kernels::ConstMatrix;
using kernels::DType;
using kernels::PackedWeights;

constexpr char kEmbedding[] = "model.embed_tokens.weight";

DType TypeOf(const TensorView& tensor) {
  switch (tensor.type) {
    case TensorType::kBF16:
      return DType::kBF16;
    case TensorType::kF16:
      return DType::kF16;
    default:
      return DType::kF32;  // FP8 is widened before
  }
}

ConstMatrix MatrixOf(const TensorView& tensor) {
  const auto rows = static_cast<int64_t>(tensor.shape[0]);
  const auto cols = static_cast<int64_t>(tensor.shape[1]);
  return {tensor.bytes.data(), TypeOf(tensor), rows, cols, cols};
}

// A tensor as it is stored, or widened, in another order, transposed: then with bytes of its own.
struct OwnMatrix {
  std::vector<uint8_t> bytes;
  ConstMatrix view;
};

// Row i of the result is row order[i] of `matrix`.
OwnMatrix Reordered(const ConstMatrix& matrix, const std::vector<int64_t>& order) {
  OwnMatrix own;
  const auto row_bytes = static_cast<size_t>(matrix.cols * SizeOf(matrix.dtype));
  own.bytes.resize(order.size() * row_bytes);
  const auto* from = static_cast<const uint8_t*>(matrix.data);
  for (size_t i = 0; i < order.size(); ++i) {
    std::memcpy(own.bytes.data() + i * row_bytes, from + static_cast<size_t>(order[i]) * row_bytes,
                row_bytes);
  }
  own.view = {own.bytes.data(), matrix.dtype, static_cast<int64_t>(order.size()), matrix.cols,
              matrix.cols};
  return own;
}

OwnMatrix Transposed(const ConstMatrix& matrix) {
  OwnMatrix own;
  const auto element = static_cast<size_t>(SizeOf(matrix.dtype));
  const auto rows = static_cast<size_t>(matrix.rows);
  const auto cols = static_cast<size_t>(matrix.cols);
  own.bytes.resize(rows * cols * element);
  const auto* from = static_cast<const uint8_t*>(matrix.data);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < cols; ++c) {
      std::memcpy(own.bytes.data() + (c * rows + r) * element, from + (r * cols + c) * element,
                  element);
    }
  }
  own.view = {own.bytes.data(), matrix.dtype, matrix.cols, matrix.rows, matrix.rows};
  return own;
}

ConstMatrix RowsOf(const ConstMatrix& matrix, const Span& rows) {
  const auto* data = static_cast<const uint8_t*>(matrix.data);
  return {data + rows.begin * matrix.row_stride * SizeOf(matrix.dtype), matrix.dtype, rows.size(),
          matrix.cols, matrix.row_stride};
}

ConstMatrix ColumnsOf(const ConstMatrix& matrix, const Span& columns) {
  const auto* data = static_cast<const uint8_t*>(matrix.data);
  return {data + columns.begin * SizeOf(matrix.dtype), matrix.dtype, matrix.rows, columns.size(),
          matrix.row_stride};
}

// Rows of the matrix (and elements of the bias) that belong to so many heads or other units.
Span Times(const Span& units, int64_t each) { return {units.begin * each, units.end * each}; }

// Rows of a tensor.
struct TensorRows {
  std::string name;  // without ".weight"
  Span rows;
};

// Where the rotated rows of one head come from, the pair's halves apart: first + these.
void AppendRotated(const LatentAttention& l, int64_t first, std::vector<int64_t>* order) {
  const int64_t half = l.rope_dim / 2;
  for (int64_t i = 0; i < l.rope_dim; ++i) {
    const int64_t pair = i % half;
    order->push_back(first + (l.interleaved ? 2 * pair + i / half : i));
  }
}

class Loader {
 public:
  // `fingerprint` gets the sums of all tensors that are read.
  Loader(const ModelFolder& folder, const ModelShare& share, ModelFingerprint* fingerprint)
      : folder_(folder),
        share_(share),
        fingerprint_(fingerprint),
        ops_(kernels::Select(kernels::BestIsa())),
        widened_(TypeOf(folder.tensor(kEmbedding)) == DType::kBF16 ? DType::kBF16 : DType::kF32) {}

  StatusOr<OwnMatrix> Matrix(const std::string& name) const {
    const std::string weight = name + ".weight";
    const TensorView& tensor = Read(weight);
    OwnMatrix matrix;
    matrix.view = MatrixOf(tensor);
    if (tensor.type != TensorType::kF8E4M3) return matrix;
    auto wide = WidenBlockScaled(tensor, Read(ScalesName(weight)), *folder_.config().block_scales,
                                 widened_);
    if (!wide.ok()) {
      return Annotate(wide.status(), absl::StrCat(folder_.dir(), ": tensor \"", weight, "\""));
    }
    matrix.bytes = *std::move(wide);
    matrix.view.data = matrix.bytes.data();
    matrix.view.dtype = widened_;
    return matrix;
  }

  StatusOr<PackedWeights> Pack(const std::vector<TensorRows>& tensors) const {
    std::vector<OwnMatrix> sources;
    std::vector<ConstMatrix> parts;
    for (const auto& [name, rows] : tensors) {
      ASSIGN_OR_RETURN(OwnMatrix source, Matrix(name));
      sources.push_back(std::move(source));
      parts.push_back(RowsOf(sources.back().view, rows));
      if (parts.back().dtype != parts.front().dtype) {
        return absl::UnimplementedError(
            absl::StrCat(folder_.dir(), ": tensors ", tensors.front().name, ".weight and ", name,
                         ".weight have different types, which are computed as one matrix"));
      }
    }
    return PackedWeights::Pack(parts);
  }

  void AppendVector(const std::string& name, std::vector<float>* out) const {
    const TensorView& tensor = Read(name);
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

  void AppendBias(const TensorRows& tensor, std::vector<float>* bias) const {
    const std::vector<float> whole = Vector(tensor.name + ".bias");
    bias->insert(bias->end(), whole.begin() + tensor.rows.begin, whole.begin() + tensor.rows.end);
  }

  StatusOr<Projection> Project(const std::vector<TensorRows>& tensors, bool bias) const {
    Projection projection;
    ASSIGN_OR_RETURN(projection.matrix, Pack(tensors));
    if (!bias) return projection;
    for (const TensorRows& tensor : tensors) AppendBias(tensor, &projection.bias);
    return projection;
  }

  // y [rows] = a row-parallel product over k, the share's part of k when `share` is given.
  StatusOr<Projection> ProjectRowParallel(const std::string& name, int64_t rows, int64_t k,
                                          const ModelShare& share, bool bias) const {
    ASSIGN_OR_RETURN(const OwnMatrix source, Matrix(name));
    Projection projection;
    projection.matrix = PackedWeights::Pack(ColumnsOf(source.view, share.Columns(k)));
    projection.k_slices = static_cast<int>(share.slices.size());
    projection.slice_k = kernels::SliceK(k);
    if (bias) AppendBias({name, {0, rows}}, &projection.bias);
    return projection;
  }

  StatusOr<HeadsWeights> Heads(const std::string& at) const {
    const ModelConfig& c = folder_.config();
    const Span q = Times(share_.heads, c.head_dim);
    const Span kv = Times(share_.kv_heads, c.head_dim);
    HeadsWeights w;
    ASSIGN_OR_RETURN(w.qkv, Project({{at + "q_proj", q}, {at + "k_proj", kv}, {at + "v_proj", kv}},
                                    c.attention_bias));
    if (c.qk_norm) {
      w.q_norm = Vector(at + "q_norm.weight");
      w.k_norm = Vector(at + "k_norm.weight");
    }
    return w;
  }

  StatusOr<LatentWeights> Latent(const std::string& at) const {
    const ModelConfig& c = folder_.config();
    const LatentAttention& l = *c.latent;
    LatentWeights w;
    if (l.q_rank > 0) {
      ASSIGN_OR_RETURN(w.q_a, Project({{at + "q_a_proj", {0, l.q_rank}}}, c.attention_bias));
      w.q_a_norm = Vector(at + "q_a_layernorm.weight");
    }
    std::vector<int64_t> order;
    for (int64_t head = share_.heads.begin; head < share_.heads.end; ++head) {
      const int64_t first = head * c.head_dim;
      AppendRotated(l, first + l.nope_dim, &order);
      for (int64_t i = 0; i < l.nope_dim; ++i) order.push_back(first + i);
    }
    ASSIGN_OR_RETURN(const OwnMatrix q, Matrix(at + (l.q_rank > 0 ? "q_b_proj" : "q_proj")));
    w.q = PackedWeights::Pack(Reordered(q.view, order).view);
    order.clear();
    for (int64_t i = 0; i < l.kv_rank; ++i) order.push_back(i);
    AppendRotated(l, l.kv_rank, &order);
    ASSIGN_OR_RETURN(const OwnMatrix kv_a, Matrix(at + "kv_a_proj_with_mqa"));
    w.kv_a.matrix = PackedWeights::Pack(Reordered(kv_a.view, order).view);
    if (c.attention_bias) {
      const std::vector<float> bias = Vector(at + "kv_a_proj_with_mqa.bias");
      for (const int64_t i : order) w.kv_a.bias.push_back(bias[static_cast<size_t>(i)]);
    }
    w.kv_a_norm = Vector(at + "kv_a_layernorm.weight");
    ASSIGN_OR_RETURN(const OwnMatrix kv_b, Matrix(at + "kv_b_proj"));
    for (int64_t head = share_.heads.begin; head < share_.heads.end; ++head) {
      const int64_t first = head * (l.nope_dim + l.value_dim);
      const ConstMatrix key = RowsOf(kv_b.view, {first, first + l.nope_dim});
      w.key.push_back(PackedWeights::Pack(key));
      w.absorb.push_back(PackedWeights::Pack(Transposed(key).view));
      const int64_t value = first + l.nope_dim;
      w.value.push_back(PackedWeights::Pack(RowsOf(kv_b.view, {value, value + l.value_dim})));
    }
    return w;
  }

  struct MlpNames {
    std::string gate, up, down;
  };
  // The share's columns of an MLP of so many.
  StatusOr<MlpWeights> Mlp(const MlpNames& names, int64_t intermediate, const ModelShare& share,
                           bool bias = false) const {
    const Span columns = share.Columns(intermediate);
    MlpWeights w;
    ASSIGN_OR_RETURN(w.gate_up, Project({{names.gate, columns}, {names.up, columns}}, bias));
    ASSIGN_OR_RETURN(
        w.down, ProjectRowParallel(names.down, folder_.config().hidden, intermediate, share, bias));
    return w;
  }

  StatusOr<MixtureWeights> Mixture(const std::string& prefix) const {
    const ModelConfig& c = folder_.config();
    const ModelShare whole = WholeModel(c);  // of an expert
    const bool mixtral = c.family == Family::kMixtral;
    const std::string at = prefix + (mixtral ? "block_sparse_moe." : "mlp.");
    MixtureWeights w;
    const std::vector<float> gate = Vector(at + "gate.weight");
    w.gate = PackedWeights::Pack(
        ConstMatrix{gate.data(), DType::kF32, c.mixture->experts, c.hidden, c.hidden});
    if (c.mixture->bias) w.bias = Vector(at + "gate.e_score_correction_bias");
    w.own = share_.experts;
    for (int64_t expert = w.own.begin; expert < w.own.end; ++expert) {
      const std::string one = absl::StrCat(at, "experts.", expert, ".");
      const MlpNames names = mixtral
                                 ? MlpNames{one + "w1", one + "w3", one + "w2"}
                                 : MlpNames{one + "gate_proj", one + "up_proj", one + "down_proj"};
      ASSIGN_OR_RETURN(MlpWeights mlp, Mlp(names, c.mixture->intermediate, whole));
      w.experts.push_back(std::move(mlp));
    }
    if (c.mixture->shared_intermediate > 0) {
      const std::string shared = at + "shared_experts.";
      ASSIGN_OR_RETURN(w.shared,
                       Mlp({shared + "gate_proj", shared + "up_proj", shared + "down_proj"},
                           c.mixture->shared_intermediate, share_));
    }
    return w;
  }

  StatusOr<LayerWeights> Layer(int64_t index) const {
    const ModelConfig& c = folder_.config();
    const std::string prefix = absl::StrCat("model.layers.", index, ".");
    const std::string attention = prefix + "self_attn.";
    LayerWeights w;
    w.attention_norm = Vector(prefix + "input_layernorm.weight");
    if (c.latent) {
      ASSIGN_OR_RETURN(w.latent, Latent(attention));
    } else {
      ASSIGN_OR_RETURN(w.heads, Heads(attention));
    }
    ASSIGN_OR_RETURN(w.o, ProjectRowParallel(attention + "o_proj", c.hidden,
                                             c.heads * c.value_dim(), share_, c.attention_bias));
    w.mlp_norm = Vector(prefix + "post_attention_layernorm.weight");
    if (c.is_mixture(index)) {
      ASSIGN_OR_RETURN(w.mixture, Mixture(prefix));
    } else {
      const std::string mlp = prefix + "mlp.";
      ASSIGN_OR_RETURN(w.mlp, Mlp({mlp + "gate_proj", mlp + "up_proj", mlp + "down_proj"},
                                  c.intermediate, share_, c.mlp_bias));
    }
    return w;
  }

 private:
  const TensorView& Read(const std::string& name) const {
    fingerprint_->Read(folder_, name);
    return folder_.tensor(name);
  }

  const ModelFolder& folder_;
  const ModelShare& share_;
  ModelFingerprint* const fingerprint_;
  const kernels::CpuOps& ops_;
  const DType widened_;  // what FP8 matrices become
};

}  // namespace

int64_t ModelWeights::bytes() const {
  int64_t total = embedding.bytes() + lm_head.bytes();
  const auto add = [&total](const MlpWeights& mlp) {
    total += mlp.gate_up.matrix.bytes() + mlp.down.matrix.bytes();
  };
  for (const LayerWeights& layer : layers) {
    total += layer.o.matrix.bytes();
    if (layer.heads) total += layer.heads->qkv.matrix.bytes();
    if (layer.latent) {
      const LatentWeights& w = *layer.latent;
      total += w.q_a.matrix.bytes() + w.q.bytes() + w.kv_a.matrix.bytes();
      for (const auto* heads : {&w.key, &w.absorb, &w.value}) {
        for (const PackedWeights& head : *heads) total += head.bytes();
      }
    }
    if (layer.mlp) add(*layer.mlp);
    if (!layer.mixture) continue;
    total += layer.mixture->gate.bytes();
    for (const MlpWeights& expert : layer.mixture->experts) add(expert);
    if (layer.mixture->shared) add(*layer.mixture->shared);
  }
  return total;
}

StatusOr<ModelWeights> LoadModelWeights(const ModelFolder& folder) {
  return LoadModelWeights(folder, WholeModel(folder.config()), Sums::kOfAll);
}

StatusOr<ModelWeights> LoadModelWeights(const ModelFolder& folder, const ModelShare& share,
                                        Sums sums) {
  return LoadModelWeights(folder, share, ModelFingerprint(folder), sums);
}

StatusOr<ModelWeights> LoadModelWeights(const ModelFolder& folder, const ModelShare& share,
                                        ModelFingerprint known, Sums sums) {
  const bool tied = folder.config().tied_embeddings;
  const Span vocab{0, folder.config().vocab};
  ModelWeights w;
  w.fingerprint = std::move(known);
  const Loader loader(folder, share, &w.fingerprint);
  w.dtype = TypeOf(folder.tensor(kEmbedding));
  if (share.first_stage) {
    ASSIGN_OR_RETURN(w.embedding, loader.Pack({{"model.embed_tokens", vocab}}));
  }
  for (int64_t layer = share.layers.begin; layer < share.layers.end; ++layer) {
    ASSIGN_OR_RETURN(LayerWeights weights, loader.Layer(layer));
    w.layers.push_back(std::move(weights));
  }
  if (share.last_stage) {
    w.final_norm = loader.Vector("model.norm.weight");
    if (!tied || !share.first_stage || share.vocab != vocab) {
      const std::string name = tied ? "model.embed_tokens" : "lm_head";
      ASSIGN_OR_RETURN(w.lm_head, loader.Pack({{name, share.vocab}}));
    }
  }
  if (sums == Sums::kOfAll) w.fingerprint.ReadAll(folder);
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
