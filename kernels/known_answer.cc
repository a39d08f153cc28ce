#include "kernels/known_answer.h"

#include <memory>
#include <new>
#include <utility>

#include "kernels/packed_weights.h"
#include "kernels/philox.h"

namespace reprise::kernels {
namespace {

struct AlignedDelete {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(64)); }
};

// Runs the operations and gathers what they wrote.
class Recorder {
 public:
  explicit Recorder(const CpuOps& ops) : ops_(ops) {}

  void Linear(DType dtype, int k_slices) {
    constexpr int64_t kM = 5;
    constexpr int64_t kN = 21;
    constexpr int64_t kK = 700;
    const std::vector<float> x = Data(kM * kK, 1);
    const std::vector<float> w = Data(kN * kK, 1);
    std::vector<uint8_t> stored(w.size() * static_cast<size_t>(SizeOf(dtype)));
    ops_.convert(w.data(), DType::kF32, stored.data(), dtype, kN * kK);
    const PackedWeights packed = PackedWeights::Pack(ConstMatrix{stored.data(), dtype, kN, kK, kK});
    std::vector<float> y(kM * kN);
    LinearArgs args;
    args.x = {x.data(), kM, kK, kK};
    args.weights = &packed;
    args.k_slices = k_slices;
    args.y = {y.data(), kM, kN, kN};
    ops_.linear(Scratch(LinearScratchBytes(kM, packed)), args);
    Record(y);
  }

  void Rows() {
    constexpr int64_t kCols = 3 * 48;
    const std::vector<float> x = Data(2 * kCols, 4);
    const std::vector<float> weight = Data(kCols, 1);
    std::vector<float> y(x.size());
    const F32 view{y.data(), 2, kCols, kCols};
    ops_.rms_norm({}, {x.data(), 2, kCols, kCols}, weight.data(), 1e-5f, view);
    Record(y);
    const int64_t positions[] = {3, 100'003};
    double inv_freq[24];
    double frequency = 1;
    for (double& f : inv_freq) {
      f = frequency;
      frequency *= 0.68;
    }
    std::vector<float> cos(48);
    std::vector<float> sin(48);
    FillRopeTable(positions, 2, inv_freq, 24, cos.data(), sin.data());
    ops_.rope_apply({}, {cos.data(), sin.data(), 24}, 48, view);
    Record(y);
    const std::vector<float> gate = Data(2 * kCols, 12);
    ops_.swiglu({}, {gate.data(), 2, kCols, kCols}, view, view);
    Record(y);
  }

  void Attention(DType dtype) {
    constexpr int64_t kKeys = 1100;  // three leaves, the last not full
    constexpr int64_t kRows = 3;
    constexpr int64_t kDim = 40;
    constexpr int64_t kHeads = 4;
    PagedKv kv;
    kv.dtype = dtype;
    kv.kv_heads = 2;
    kv.key_dim = kv.value_dim = kDim;
    kv.page_stride_bytes = SegmentBytes(kv);
    std::vector<int32_t> table(18);
    for (int32_t p = 0; p < 18; ++p) table[p] = 17 - p;
    std::vector<std::byte> memory(18 * static_cast<size_t>(kv.page_stride_bytes));
    kv.base = memory.data();
    const std::vector<float> k = Data(kKeys * 2 * kDim, 1);
    const std::vector<float> v = Data(kKeys * 2 * kDim, 1);
    ops_.write_kv({kv,
                   table.data(),
                   0,
                   {k.data(), kKeys, 2 * kDim, 2 * kDim},
                   {v.data(), kKeys, 2 * kDim, 2 * kDim}});
    const std::vector<float> q = Data(kRows * kHeads * kDim, 3);
    std::vector<float> out(q.size());
    std::vector<float> lse(kRows * kHeads);
    const KeySegment segment{table.data(), kKeys, 0, MaskKind::kCausal};
    AttentionItem item;
    item.q = {q.data(), kRows, kHeads * kDim, kHeads * kDim};
    item.first_position = kKeys - kRows;
    item.segments = &segment;
    item.n_segments = 1;
    item.out = {out.data(), kRows, kHeads * kDim, kHeads * kDim};
    item.lse = lse.data();
    ops_.attention(Scratch(AttentionScratchBytes(1, kv, kKeys)), {kv, kHeads, 0.158f, &item, 1});
    Record(out);
    Record(lse);
  }

  void Sampling() {
    std::vector<float> logits = Data(1003, 15);
    ops_.apply_temperature(logits.data(), 1003, 0.83f);
    const TokenCount counts[] = {{5, 1, 2}, {900, 0, 1}};
    ops_.apply_penalties(logits.data(), counts, 2, {1.3f, 0.4f, 0.2f});
    const SoftmaxStats stats = ops_.softmax_stats(logits.data(), 1003);
    Record(std::vector<float>{stats.max, stats.sum, stats.lse});
    std::vector<Candidate> top(20);
    const int64_t n = ops_.top_k(logits.data(), 1003, 20, top.data());
    std::vector<double> cumulative(20);
    ops_.softmax_sorted(top.data(), n, cumulative.data());
    for (const Candidate& c : top) Record(std::vector<int32_t>{c.id});
    Record(cumulative);
  }

  std::vector<uint8_t> Take() { return std::move(bytes_); }

 private:
  // Values in [-scale, scale), never the same twice in a run.
  std::vector<float> Data(int64_t n, float scale) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = static_cast<float>((2 * UniformAt(2718, 0, next_++) - 1) * scale);
    return v;
  }

  template <class T>
  void Record(const std::vector<T>& values) {
    const auto* p = reinterpret_cast<const uint8_t*>(values.data());
    bytes_.insert(bytes_.end(), p, p + values.size() * sizeof(T));
  }

  Exec Scratch(int64_t bytes) {
    scratch_.reset(static_cast<std::byte*>(
        ::operator new[](static_cast<size_t>(bytes), std::align_val_t(64))));
    Exec exec;
    exec.scratch = scratch_.get();
    exec.scratch_bytes = bytes;
    return exec;
  }

  const CpuOps& ops_;
  uint64_t next_ = 0;
  std::unique_ptr<std::byte[], AlignedDelete> scratch_;
  std::vector<uint8_t> bytes_;
};

}  // namespace

std::vector<uint8_t> KnownAnswerBytes(const CpuOps& ops) {
  Recorder recorder(ops);
  for (int k_slices : {1, 8}) {
    recorder.Linear(DType::kF32, k_slices);
    recorder.Linear(DType::kBF16, k_slices);
  }
  recorder.Rows();
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) recorder.Attention(dtype);
  recorder.Sampling();
  return recorder.Take();
}

}  // namespace reprise::kernels
