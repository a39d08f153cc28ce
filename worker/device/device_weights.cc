#include "worker/device/device_weights.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <thread>
#include <utility>

#include "common/mutex.h"
#include "common/thread.h"
#include "kernels/cuda/device/runtime.h"
#include "worker/device/device_status.h"
#include "worker/model/model_share.h"

namespace reprise::worker {
namespace {

using kernels::PackedWeights;

constexpr int64_t kAlignedTo = 8;  // rows and columns of a matrix
constexpr int64_t kRowsAtOnce = 1024;

int64_t RoundedUp(int64_t n) { return (n + kAlignedTo - 1) / kAlignedTo * kAlignedTo; }

Status CopyTo(void* device, const void* host, size_t bytes) {
  RETURN_IF_ERROR(DeviceStatus(cuda::CopyIn(device, host, bytes, nullptr), "copying weights"));
  return DeviceStatus(cuda::Synchronize(nullptr), "copying weights");
}

StatusOr<cuda::Buffer> UploadVector(const std::vector<float>& values) {
  cuda::Buffer memory;
  if (values.empty()) return memory;
  RETURN_IF_ERROR(DeviceStatus(memory.Reset(values.size() * sizeof(float)), "weights"));
  RETURN_IF_ERROR(CopyTo(memory.data(), values.data(), values.size() * sizeof(float)));
  return memory;
}

// Rows of matrices of the CPU's layout, one after the other, as bf16.
class Uploader {
 public:
  Uploader() : ops_(kernels::Select(kernels::BestIsa())) {}

  // `parts` have the same shape. A batch of them, or (flat) one matrix with their rows.
  StatusOr<DeviceMatrix> Matrix(std::span<const PackedWeights* const> parts, bool flat,
                                absl::string_view name) const {
    const PackedWeights& first = *parts.front();
    if (first.k() % kAlignedTo != 0) {
      return absl::UnimplementedError(absl::StrCat("the device's kernels take a multiple of ",
                                                   kAlignedTo, " columns, ", name, " has ",
                                                   first.k()));
    }
    const auto count = static_cast<int64_t>(parts.size());
    if (flat && count > 1 && first.n() % kAlignedTo != 0) {
      return absl::UnimplementedError(absl::StrCat("the device's kernels take a multiple of ",
                                                   kAlignedTo, " rows a head, ", name, " has ",
                                                   first.n()));
    }
    const int64_t rows = RoundedUp(first.n());
    DeviceMatrix matrix;
    const auto row_bytes = static_cast<size_t>(first.k()) * 2;
    RETURN_IF_ERROR(
        DeviceStatus(matrix.memory.Reset(static_cast<size_t>(count * rows) * row_bytes), name));
    for (int64_t i = 0; i < count; ++i) {
      RETURN_IF_ERROR(
          CopyRows(*parts[static_cast<size_t>(i)], rows,
                   matrix.memory.as<uint8_t>() + static_cast<size_t>(i * rows) * row_bytes));
    }
    const cuda::GemmMatrix view = {matrix.memory.as<uint16_t>(),
                                   flat ? 1 : count,
                                   flat ? count * rows : rows,
                                   first.k(),
                                   first.k(),
                                   rows * first.k()};
    RETURN_IF_ERROR(DeviceStatus(cuda::MakeGemmWeights(view, &matrix.view), name));
    return matrix;
  }
  StatusOr<DeviceMatrix> Matrix(const PackedWeights& whole, absl::string_view name) const {
    const PackedWeights* const part = &whole;
    return Matrix(std::span(&part, 1), true, name);
  }
  StatusOr<DeviceMatrix> Project(const Projection& projection, absl::string_view name) const {
    ASSIGN_OR_RETURN(DeviceMatrix matrix, Matrix(projection.matrix, name));
    std::vector<float> bias = projection.bias;
    if (!bias.empty()) bias.resize(static_cast<size_t>(matrix.view.n));
    ASSIGN_OR_RETURN(matrix.bias, UploadVector(bias));
    return matrix;
  }

 private:
  Status CopyRows(const PackedWeights& packed, int64_t rows, uint8_t* to) const {
    const int64_t k = packed.k();
    std::vector<float> wide(static_cast<size_t>(std::min(rows, kRowsAtOnce) * k));
    std::vector<uint16_t> narrow(wide.size());
    for (int64_t first = 0; first < rows; first += kRowsAtOnce) {
      const int64_t count = std::min(kRowsAtOnce, rows - first);
      const int64_t there = std::clamp<int64_t>(packed.n() - first, 0, count);
      std::vector<int32_t> ids(static_cast<size_t>(there));
      std::iota(ids.begin(), ids.end(), static_cast<int32_t>(first));
      std::fill(wide.begin(), wide.end(), 0.0F);
      GatherRows(ops_, packed, ids, {wide.data(), there, k, k});
      ops_.convert(wide.data(), kernels::DType::kF32, narrow.data(), kernels::DType::kBF16,
                   count * k);
      RETURN_IF_ERROR(CopyTo(to, narrow.data(), static_cast<size_t>(count * k) * 2));
      to += count * k * 2;
    }
    return absl::OkStatus();
  }

  const kernels::CpuOps& ops_;
};

std::vector<const PackedWeights*> Pointers(const std::vector<PackedWeights>& matrices) {
  std::vector<const PackedWeights*> pointers;
  pointers.reserve(matrices.size());
  for (const PackedWeights& m : matrices) pointers.push_back(&m);
  return pointers;
}

StatusOr<DeviceLatent> UploadLatent(const Uploader& up, const LatentWeights& w) {
  DeviceLatent d;
  if (w.q_a.matrix.n() > 0) {
    ASSIGN_OR_RETURN(d.q_a, up.Project(w.q_a, "q_a_proj"));
    ASSIGN_OR_RETURN(d.q_a_norm, UploadVector(w.q_a_norm));
  }
  ASSIGN_OR_RETURN(d.q, up.Matrix(w.q, "q_proj"));
  ASSIGN_OR_RETURN(d.kv_a, up.Project(w.kv_a, "kv_a_proj_with_mqa"));
  ASSIGN_OR_RETURN(d.kv_a_norm, UploadVector(w.kv_a_norm));
  ASSIGN_OR_RETURN(d.key, up.Matrix(Pointers(w.key), true, "kv_b_proj (keys)"));
  ASSIGN_OR_RETURN(d.absorb, up.Matrix(Pointers(w.absorb), false, "kv_b_proj (absorbed)"));
  ASSIGN_OR_RETURN(d.value, up.Matrix(Pointers(w.value), false, "kv_b_proj (values)"));
  const cuda::GemmMatrix& heads = d.value.view.matrix;
  const cuda::GemmMatrix all = {heads.data, 1, heads.batch * heads.rows, heads.cols, heads.cols, 0};
  RETURN_IF_ERROR(DeviceStatus(cuda::MakeGemmWeights(all, &d.all_values), "kv_b_proj (values)"));
  return d;
}

StatusOr<DeviceMlp> UploadMlp(const Uploader& up, const MlpWeights& w) {
  DeviceMlp d;
  ASSIGN_OR_RETURN(d.gate_up, up.Project(w.gate_up, "gate_proj and up_proj"));
  ASSIGN_OR_RETURN(d.down, up.Project(w.down, "down_proj"));
  return d;
}

StatusOr<DeviceMixture> UploadMixture(const Uploader& up, const MixtureWeights& w) {
  DeviceMixture d;
  ASSIGN_OR_RETURN(d.gate, up.Matrix(w.gate, "the experts' gate"));
  ASSIGN_OR_RETURN(d.bias, UploadVector(w.bias));
  std::vector<const PackedWeights*> gate_up;
  std::vector<const PackedWeights*> down;
  for (const MlpWeights& expert : w.experts) {
    gate_up.push_back(&expert.gate_up.matrix);
    down.push_back(&expert.down.matrix);
  }
  ASSIGN_OR_RETURN(d.gate_up, up.Matrix(gate_up, false, "the experts' gate_proj and up_proj"));
  ASSIGN_OR_RETURN(d.down, up.Matrix(down, false, "the experts' down_proj"));
  d.own = w.own;
  if (w.shared) {
    ASSIGN_OR_RETURN(d.shared, UploadMlp(up, *w.shared));
  }
  return d;
}

StatusOr<DeviceLayer> UploadLayer(const Uploader& up, const LayerWeights& w) {
  DeviceLayer d;
  ASSIGN_OR_RETURN(d.attention_norm, UploadVector(w.attention_norm));
  ASSIGN_OR_RETURN(d.mlp_norm, UploadVector(w.mlp_norm));
  if (w.heads) {
    DeviceHeads& heads = d.heads.emplace();
    ASSIGN_OR_RETURN(heads.qkv, up.Project(w.heads->qkv, "q_proj, k_proj and v_proj"));
    ASSIGN_OR_RETURN(heads.q_norm, UploadVector(w.heads->q_norm));
    ASSIGN_OR_RETURN(heads.k_norm, UploadVector(w.heads->k_norm));
  }
  if (w.latent) {
    ASSIGN_OR_RETURN(d.latent, UploadLatent(up, *w.latent));
  }
  ASSIGN_OR_RETURN(d.o, up.Project(w.o, "o_proj"));
  if (w.mlp) {
    ASSIGN_OR_RETURN(d.mlp, UploadMlp(up, *w.mlp));
  }
  if (w.mixture) {
    ASSIGN_OR_RETURN(d.mixture, UploadMixture(up, *w.mixture));
  }
  return d;
}

Status UploadEnds(const Uploader& up, const ModelWeights& weights, DeviceWeights* d) {
  if (weights.embedding.n() > 0) {
    ASSIGN_OR_RETURN(d->embedding, up.Matrix(weights.embedding, "embed_tokens"));
  }
  if (weights.lm_head.n() > 0) {
    ASSIGN_OR_RETURN(d->lm_head, up.Matrix(weights.lm_head, "lm_head"));
  }
  if (!weights.final_norm.empty()) {
    ASSIGN_OR_RETURN(d->final_norm, UploadVector(weights.final_norm));
  }
  return absl::OkStatus();
}

// Packing costs the host several times what copying costs the bus: layers are loaded by a few
// threads at once, each of which holds one.
class LayerLoader {
 public:
  LayerLoader(const ModelFolder& folder, const ModelShare& share)
      : folder_(folder), share_(share), sums_(folder) {}

  StatusOr<std::vector<DeviceLayer>> Load() {
    layers_.resize(static_cast<size_t>(share_.layers.size()));
    const int64_t threads = std::min<int64_t>(
        {share_.layers.size(), kThreadsMax, std::max(1U, std::thread::hardware_concurrency())});
    std::vector<Thread> running;
    for (int64_t i = 0; i < threads; ++i) {
      running.emplace_back("load_layers", [this] { Run(); });
    }
    for (Thread& thread : running) thread.Join();
    MutexLock lock(mu_);
    RETURN_IF_ERROR(status_);
    return std::move(layers_);
  }
  // Of the layers' tensors, after Load.
  ModelFingerprint TakeSums() {
    MutexLock lock(mu_);
    return std::move(sums_);
  }

 private:
  static constexpr int64_t kThreadsMax = 8;

  void Run() {
    ModelFingerprint known(folder_);
    const Status status = LoadSome(&known);
    MutexLock lock(mu_);
    status_.Update(status);
    sums_.Add(known);
  }
  Status LoadSome(ModelFingerprint* known) {
    const Uploader up;
    ModelShare part = share_;
    part.first_stage = part.last_stage = false;
    for (int64_t i = next_++; i < share_.layers.size(); i = next_++) {
      part.layers = {share_.layers.begin + i, share_.layers.begin + i + 1};
      ASSIGN_OR_RETURN(ModelWeights one, LoadModelWeights(folder_, part, std::move(*known)));
      *known = std::move(one.fingerprint);
      ASSIGN_OR_RETURN(layers_[static_cast<size_t>(i)], UploadLayer(up, one.layers.front()));
    }
    return absl::OkStatus();
  }

  const ModelFolder& folder_;
  const ModelShare& share_;
  std::atomic<int64_t> next_{0};
  std::vector<DeviceLayer> layers_;  // each one thread's
  Mutex mu_;
  Status status_ GUARDED_BY(mu_);
  ModelFingerprint sums_ GUARDED_BY(mu_);
};

}  // namespace

StatusOr<DeviceWeights> UploadWeights(const ModelWeights& weights) {
  const Uploader up;
  DeviceWeights d;
  RETURN_IF_ERROR(UploadEnds(up, weights, &d));
  for (const LayerWeights& layer : weights.layers) {
    ASSIGN_OR_RETURN(DeviceLayer uploaded, UploadLayer(up, layer));
    d.layers.push_back(std::move(uploaded));
  }
  return d;
}

StatusOr<DeviceWeights> LoadDeviceWeights(const ModelFolder& folder, const ModelShare& share,
                                          Sums sums, ModelFingerprint* fingerprint) {
  LayerLoader loader(folder, share);
  DeviceWeights d;
  ASSIGN_OR_RETURN(d.layers, loader.Load());
  ModelShare part = share;
  part.layers = {share.layers.begin, share.layers.begin};
  ASSIGN_OR_RETURN(ModelWeights ends, LoadModelWeights(folder, part, loader.TakeSums(), sums));
  RETURN_IF_ERROR(UploadEnds(Uploader(), ends, &d));
  *fingerprint = std::move(ends.fingerprint);
  return d;
}

int64_t DeviceWeightBytes(const ModelConfig& config, const ModelShare& share) {
  // Keys of latents are there twice, to expand and to absorb.
  int64_t elements = config.parameters();
  if (config.latent) {
    elements += config.layers * config.heads * config.latent->nope_dim * config.latent->kv_rank;
  }
  if (config.mixture) {
    const ExpertMixture& m = *config.mixture;
    const auto layers = std::count(m.layers.begin(), m.layers.end(), true);
    elements -= layers * (m.experts - share.experts.size()) * 3 * config.hidden * m.intermediate;
  }
  return 2 * elements;
}

}  // namespace reprise::worker
