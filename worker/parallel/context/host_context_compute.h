// Context attention on the CPU: everything is done when it is asked for.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_HOST_CONTEXT_COMPUTE_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_HOST_CONTEXT_COMPUTE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "kernels/ops.h"
#include "worker/parallel/context/attender.h"
#include "worker/parallel/context/context_compute.h"

namespace reprise::parallel {

// The graph's rows: f32.
inline ByteRows BytesOf(const kernels::ConstF32& rows) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(float));
  return {reinterpret_cast<uint8_t*>(const_cast<float*>(rows.data)), rows.rows, rows.cols * kBytes,
          rows.row_stride * kBytes};
}
inline LayerPages PagesOf(const kernels::PagedKv& kv) {
  return {reinterpret_cast<const uint8_t*>(kv.base) + kv.layer * kernels::SegmentBytes(kv),
          kv.page_stride_bytes};
}

class HostContextCompute final : public ContextCompute {
 public:
  explicit HostContextCompute(const kernels::CpuOps& ops) : ops_(ops) {}

  // For the calls that follow: keys like kv's, `heads` query heads with values of `value_dim`. The
  // attender outlives them.
  void SetCall(const kernels::PagedKv& kv, int64_t heads, int64_t value_dim, Attender* attender) {
    kv_ = kv;
    heads_ = heads;
    value_dim_ = value_dim;
    attender_ = attender;
  }

  StatusOr<uint8_t*> Take(size_t bytes, Use use) override;
  void Give(uint8_t* memory) override;
  Status CopyPages(const LayerPages& from, std::span<const int32_t> pages, int64_t page_bytes,
                   uint8_t* to) override;
  Status CopyRows(const ByteRows& from, uint8_t* to) override;
  Status Copy(const void* from, void* to, size_t bytes) override;
  Status AwaitCopies() override { return absl::OkStatus(); }
  Status Attend(const LayerPages& keys, std::span<const NodeItem> items) override;
  Status Merge(const Partial& left, const Partial& right) override;
  Status Finish(const Partial& from, const ByteRows& to) override;
  StatusOr<MarkId> Mark() override { return MarkId{0}; }
  Status Await(MarkId) override { return absl::OkStatus(); }

 private:
  kernels::Partials View(const Partial& partial) const {
    const int64_t cols = heads_ * value_dim_;
    return {{partial.out, partial.rows, cols, cols}, partial.lse};
  }

  struct Block {
    std::unique_ptr<std::byte[]> memory;
    uint8_t* data = nullptr;
    size_t bytes = 0;
  };

  const kernels::CpuOps& ops_;
  kernels::PagedKv kv_;
  int64_t heads_ = 0;
  int64_t value_dim_ = 0;
  Attender* attender_ = nullptr;
  std::map<uint8_t*, Block> taken_;
  std::map<size_t, std::vector<Block>> free_;  // by size
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_HOST_CONTEXT_COMPUTE_H_
