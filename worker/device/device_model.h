// The forward pass of every supported family on a device: the graph of worker/model/transformer.h
// in kernels that run one after the other on a stream, over a paged KV pool in device memory. Owns
// weights and scratch; one thread.
//
// Invariants:
// 1. A row's bits do not depend on its company, the chunks or the pages: linear layers sum over k
// in one
//    order (gemm.h), attention's order follows from positions (numerics.h), the rest goes row by
//    row.
// 2. Nothing waits for the device until its results are asked for: rows of a layer can be awaited
// while
//    later layers are computed.
// 3. Steps of single rows repeat what the last one of their shape (StepShape) launched, as a graph;
// the
//    launches, so the bits, are the same.
// 4. After an error nothing on the device is of use.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_MODEL_H_
#define REPRISE_WORKER_DEVICE_DEVICE_MODEL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "kernels/cuda/device/buffer.h"
#include "kernels/cuda/kv_pool.h"
#include "worker/device/device_kernels.h"
#include "worker/device/device_step.h"
#include "worker/device/device_weights.h"

namespace reprise::worker {

class DeviceModel {
 public:
  DeviceModel(const ModelConfig& config, DeviceWeights weights, const DeviceKernels& kernels,
              const cuda::DeviceInfo& device);
  ~DeviceModel();

  // Makes streams and events.
  Status Open();
  // A pool of so many pages, [page][layer] segments as the host's.
  Status MakePool(int32_t pages);
  uint8_t* pool() const { return pool_.as<uint8_t>(); }
  int64_t page_bytes() const { return page_bytes_; }
  cuda::Stream stream() const { return stream_; }

  // Queues the step. Of every row, or of the last of each item that wants output.
  Status Forward(std::span<const StepItem> items, bool all_outputs);
  // The rows that layer `layer` of the step put into the pool, once they are on the host. In bf16
  // two parts, [rows, heads * elements] each; in fp8 one, [rows, kFp8RowBytes], and no second.
  Status AwaitRows(uint32_t layer, const uint8_t** first, const uint8_t** second);
  // Of one row in a layer.
  int64_t first_row_bytes() const;
  int64_t second_row_bytes() const;
  // Where they belong, by row.
  const std::vector<cuda::KvSlot>& slots() const { return step_.host_slots(); }
  // Waits for logits, [outputs, vocab] f32.
  Status AwaitLogits();
  int64_t outputs() const { return step_.outputs(); }
  // The last step repeated another's launches.
  bool repeated() const { return repeated_; }
  std::span<const float> logits(int64_t output) const;

  // Device memory that a model of this configuration takes besides weights and pool, for steps of
  // `rows` rows over `keys` keys.
  static int64_t ScratchBytes(const ModelConfig& config, const DeviceKernels& kernels, int64_t rows,
                              int64_t keys);
  // Of a page in all layers.
  static int64_t PageBytes(const ModelConfig& config, bool fp8);

 private:
  // Device memory by what it holds; grows.
  class Scratch {
   public:
    template <class T>
    StatusOr<T*> Get(int64_t count) {
      const auto bytes = static_cast<size_t>(count) * sizeof(T);
      if (memory_.bytes() < bytes) RETURN_IF_ERROR(Grow(bytes));
      return memory_.as<T>();
    }
    const void* place() const { return memory_.data(); }

   private:
    Status Grow(size_t bytes) { return DeviceStatus(memory_.Reset(bytes), "scratch"); }
    cuda::Buffer memory_;
  };

  // Launches of a step, captured, and the memory they are about.
  struct Recorded {
    cuda::Graph graph = nullptr;
    std::vector<const void*> places;
  };

  cuda::KvPool LayerPool(int64_t layer) const;
  Status ReserveStep();
  Status QueueStep();
  Status Repeat(const StepShape& shape);
  Status Capture(Recorded* recorded);
  void DropGraphs();
  std::vector<const void*> Places() const;
  Status Multiply(const DeviceMatrix& w, const cuda::GemmMatrix& x, cuda::GemmOutput y,
                  const cuda::GemmGroups& groups = {});
  Status MultiplyBy(const cuda::GemmWeights& w, const cuda::GemmMatrix& x,
                    const cuda::GemmOutput& y, const cuda::GemmGroups& groups = {});
  cuda::GemmMatrix Rows(const uint16_t* data, int64_t rows, int64_t cols) const {
    return {data, 1, rows, cols, cols, 0};
  }
  Status Norm(const float* x, const cuda::Buffer& weight, int64_t rows);  // to normed_
  Status Layer(int64_t index);
  Status SendRows(int64_t layer);
  Status ReadNewRows(int64_t layer, uint8_t* first, uint8_t* second);
  Status ProjectHeads(const DeviceLayer& layer, const cuda::KvPool& pool);
  Status ProjectLatents(const DeviceLayer& layer, const cuda::KvPool& pool);
  Status AttendHeads(int64_t index, const cuda::KvPool& pool);
  Status AttendLatents(int64_t index, const DeviceLayer& layer, const cuda::KvPool& pool);
  Status Absorb(const DeviceLatent& w, int64_t first, int64_t rows);
  Status ValuesOf(const DeviceLatent& w, int64_t first, int64_t rows);
  Status RunDecode(int64_t index, const uint16_t* q, int64_t q_cols, uint16_t* out,
                   int64_t out_cols);
  Status RunPrompt(const PromptBatch& batch, const cuda::KvPool& pool, const uint16_t* q,
                   int64_t q_cols, uint16_t* out, int64_t out_cols, bool latent, bool hopper);
  Status ExpandAndAttend(const DeviceLatent& w, const PromptBatch& batch, const cuda::KvPool& pool);
  Status Mlp(const DeviceMlp& w, const uint16_t* x, int64_t rows, float* y);
  Status Mixture(const DeviceMixture& w);
  Status Logits();

  const ModelConfig config_;
  const DeviceWeights weights_;
  const DeviceKernels kernels_;
  const cuda::DeviceInfo device_;
  const int first_dim_, second_dim_, kv_heads_;
  const int64_t segment_bytes_, page_bytes_;
  DeviceStep step_;

  cuda::Stream stream_ = nullptr;
  cuda::Stream copies_ = nullptr;
  std::vector<cuda::Event> computed_, copied_;  // by layer
  cuda::Event sampled_ = nullptr;
  std::map<StepShape, Recorded> graphs_;
  bool capturing_ = false;
  bool repeated_ = false;  // the last step was a graph: its rows are there when its logits are

  cuda::Buffer pool_;
  int32_t pages_ = 0;
  std::vector<cuda::KvMaps> maps_;  // by layer, for Decode

  Scratch x_, normed_, qkv_, q_low_, q_low_normed_, q_, absorbed_, latent_out_, attended_, gate_up_,
      activated_, logits_, out_x_, node_out_, node_lse2_, prefill_scratch_;
  Scratch latents_, rotated_, expanded_;
  Scratch gate_logits_, expert_ids_, expert_weights_, expert_counts_, expert_begins_, expert_rows_,
      expert_places_, expert_scratch_, expert_x_, expert_out_;
  Scratch sent_first_, sent_second_;
  struct Pinned;
  std::unique_ptr<Pinned> host_;  // rows and logits on the host
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_MODEL_H_
