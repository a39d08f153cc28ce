// The forward pass of every supported family, or of a rank's share of one, on a device: the graph
// of worker/model/transformer.h in kernels that run one after the other on a stream, over a paged
// KV pool in device memory. Owns weights and scratch; one thread.
//
// Invariants:
// 1. A row's bits do not depend on its company, the chunks or the pages: linear layers sum over k
//    in one order (gemm.h), attention's order follows from positions (numerics.h), the rest goes
//    row by row.
// 2. Nothing waits for the device until its results are asked for: rows of a layer can be awaited
//    while later layers are computed.
// 3. Steps of single rows repeat what the last one of their shape (StepShape) launched, as a graph;
//    the launches, so the bits, are the same.
// 4. Context ranks have the bits of one device (context_attention.h). Tensor ranks add what each
// has of a row-parallel product, by the communicator's tree: a
//    numerics class of its own for each number of them. Stages change no bit.
// 5. After an error of the device nothing on it is of use. After one of another rank the pool's
//    pages are, of the steps that were done.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_MODEL_H_
#define REPRISE_WORKER_DEVICE_DEVICE_MODEL_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "kernels/cuda/device/buffer.h"
#include "kernels/cuda/kv_pool.h"
#include "worker/device/device_context.h"
#include "worker/device/device_kernels.h"
#include "worker/device/device_step.h"
#include "worker/device/device_weights.h"
#include "worker/device/segment_packer.h"
#include "worker/device/step_memory.h"
#include "worker/model/context_parallel.h"
#include "worker/model/model_share.h"
#include "worker/parallel/communicator.h"

namespace reprise::worker {

// The other ranks of a group, by communicators whose operands may be in device memory; they outlive
// their use. Null: there are no others of that kind.
struct DeviceRanks {
  parallel::Communicator* tensor = nullptr;
  parallel::Communicator* pipeline = nullptr;  // rank r is stage r
  // This rank computes only the rows whose positions it owns, and has their logits; what attends is
  // `compute`, which is the context's own.
  ContextParallel* context = nullptr;
  DeviceContextCompute* compute = nullptr;
  // That move bytes while the context's attention runs.
  int busy_processors = 0;
};

class DeviceModel {
 public:
  // Of a whole model.
  DeviceModel(const ModelConfig& config, DeviceWeights weights, const DeviceKernels& kernels,
              const cuda::DeviceInfo& device)
      : DeviceModel(config, WholeModel(config), std::move(weights), kernels, device) {}
  // Of a share: `config` is ConfigOfShare.
  DeviceModel(const ModelConfig& config, const ModelShare& share, DeviceWeights weights,
              const DeviceKernels& kernels, const cuda::DeviceInfo& device);
  ~DeviceModel();

  // Makes streams and events.
  Status Open();
  // A pool of so many pages, [page][layer] segments as the host's.
  Status MakePool(int32_t pages);
  uint8_t* pool() const { return pool_.as<uint8_t>(); }
  int64_t page_bytes() const { return page_bytes_; }
  cuda::Stream stream() const { return stream_; }

  // For the steps of one epoch of the group.
  void SetRanks(const DeviceRanks& ranks);

  // Called between layers as they are queued, which on the emulated device is when they are
  // computed.
  void SetTick(Executor::Tick tick) { tick_ = std::move(tick); }
  // Queues the step.
  Status Forward(const StepWishes& wishes) { return Forward(wishes, nullptr, INT64_MAX); }
  // Of a share: all ranks make the same calls, and whatever one waits for another ends by the
  // deadline. `queued(l)` is called when the share's layer l is on its way.
  using LayerQueued = std::function<Status(uint32_t layer)>;
  Status Forward(const StepWishes& wishes, const LayerQueued& queued, TimeNs deadline_ns);
  // Waits until the next stage has what the last Forward gave.
  Status Settle(TimeNs deadline_ns);
  // What layer `layer` of the step put into the pool, once it is on the host: pages that the step
  // wrote whole as segments(), other rows in bf16 as two parts, [rows, heads * elements] each, in
  // fp8 as one, [rows, kFp8RowBytes], and no second.
  Status AwaitRows(uint32_t layer, const uint8_t** first, const uint8_t** second);
  // Of one row in a layer.
  int64_t first_row_bytes() const;
  int64_t second_row_bytes() const;
  // Where those rows belong, by row.
  const std::vector<cuda::KvSlot>& slots() const { return step_.host_slots(); }
  const SegmentPacker& segments() const { return segments_; }
  // Waits for what the step was asked for.
  Status AwaitOutputs();
  int64_t outputs() const { return step_.outputs(); }
  // The last step repeated another's launches.
  bool repeated() const { return repeated_; }
  // Rows of the last step whose first keys were read once for several of them.
  int64_t shared_rows() const { return step_.shared_rows(); }
  // f32 [vocab], the share's, of a step without samples.
  std::span<const float> logits(int64_t output) const;
  // What the device drew, or nothing: then the host has the logits to draw from.
  std::optional<SampledToken> drawn(size_t sample) const;
  std::span<const float> sample_logits(size_t sample) const {
    return logits(step_.samples().place(sample).output);
  }

  // Device memory that a model of this configuration takes besides weights and pool, for steps of
  // `rows` rows over `keys` keys.
  static int64_t ScratchBytes(const ModelConfig& config, const DeviceKernels& kernels, int64_t rows,
                              int64_t keys);

 private:
  // Launches of a step, captured, and where memory was.
  struct Recorded {
    cuda::Graph graph = nullptr;
    uint64_t moves = UINT64_MAX;
  };

  cuda::KvPool LayerPool(int64_t layer) const;
  Status ReserveStep();
  Status QueueStep();
  Status TakeRows();
  Status GiveRows();
  StatusOr<float*> HalfLayer(const float** residual);
  Status JoinRanks();
  Status Repeat(const StepShape& shape);
  Status Capture(Recorded* recorded);
  void DropGraphs();
  Status Multiply(const DeviceMatrix& w, const cuda::GemmMatrix& x, cuda::GemmOutput y,
                  const cuda::GemmGroups& groups = {});
  // A row-parallel product, y = x w + residual: this rank's part of it.
  Status MultiplyPart(const DeviceMatrix& w, const cuda::GemmMatrix& x, const float* residual,
                      float* y);
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
  // With the other ranks of a context (device_context_attention.cc).
  struct ContextRows;
  Status AttendHeadsTogether(const cuda::KvPool& pool);
  Status AttendLatentsTogether(const DeviceLayer& layer, const cuda::KvPool& pool);
  Status AttendTogether(Form form, const ContextRows& rows, const cuda::KvPool& pool);
  Status AttendNodes(const parallel::LayerPages& keys, std::span<const parallel::NodeItem> items,
                     bool latent, bool hopper, ContextArrays* arrays);
  Status AttendNode(const cuda::KvPool& pool, const int32_t* table, const parallel::NodeItem& item,
                    bool latent, bool hopper, ContextArrays* arrays);
  Status DecodeNodes(const parallel::LayerPages& keys, std::span<const parallel::NodeItem> items,
                     ContextArrays* arrays);
  Status PutDecodePlan(const std::vector<int32_t>& keys, ContextArrays* arrays,
                       cuda::DecodeArgs* args);
  cuda::KvPool PoolOf(const parallel::LayerPages& keys, int64_t pages) const;
  int ContextProcessors() const;
  Status AttendExpandedNodes(const DeviceLatent& w, const parallel::LayerPages& keys,
                             std::span<const parallel::NodeItem> items, ContextArrays* arrays);
  Status Absorb(const DeviceLatent& w, int64_t rows);
  Status ValuesOf(const DeviceLatent& w, int64_t rows);
  Status RunDecode(int64_t index, const uint16_t* q, int64_t q_cols, uint16_t* out,
                   int64_t out_cols);
  Status RunPrompt(const PromptBatch& batch, const cuda::KvPool& pool, const uint16_t* q,
                   int64_t q_cols, uint16_t* out, int64_t out_cols, bool latent, bool hopper);
  Status LaunchPrompt(cuda::PrefillArgs args, bool latent, bool hopper);
  Status ExpandAndAttend(const DeviceLatent& w, const PromptBatch& batch, const cuda::KvPool& pool);
  StatusOr<cuda::KvPool> Expand(const DeviceLatent& w, const cuda::KvPool& pool,
                                const cuda::KvSlot* slots, int64_t keys);
  Status Mlp(const DeviceMlp& w, const uint16_t* x, const float* residual, float* y);
  Status Mixture(const DeviceMixture& w, const float* residual, float* y);
  Status Logits();
  StatusOr<float*> LogitsMemory();
  size_t LogitsBytes() const;  // of a row
  Status SendLogits(int64_t first, int64_t count);
  Status Draw();

  const ModelConfig config_;
  const ModelShare share_;
  const DeviceWeights weights_;
  const DeviceKernels kernels_;
  const cuda::DeviceInfo device_;
  const int first_dim_, second_dim_, kv_heads_;
  const int64_t segment_bytes_, page_bytes_;
  StepMoves moves_;
  DeviceStep step_;

  cuda::Stream stream_ = nullptr;
  cuda::Stream copies_ = nullptr;
  std::vector<cuda::Event> computed_, copied_;  // by layer
  cuda::Event sampled_ = nullptr;
  std::map<StepShape, Recorded> graphs_;
  Executor::Tick tick_;
  bool repeated_ = false;  // the last step was a graph: its rows are there when its logits are

  cuda::Buffer pool_;
  int32_t pages_ = 0;
  std::vector<cuda::KvMaps> maps_;  // by layer, for Decode

  DeviceScratch x_{&moves_}, normed_{&moves_}, qkv_{&moves_}, q_low_{&moves_},
      q_low_normed_{&moves_}, q_{&moves_}, absorbed_{&moves_}, latent_out_{&moves_},
      attended_{&moves_}, gate_up_{&moves_}, activated_{&moves_}, logits_{&moves_}, out_x_{&moves_},
      node_out_{&moves_}, node_lse2_{&moves_};
  DeviceScratch gate_logits_{&moves_}, expert_ids_{&moves_}, expert_weights_{&moves_},
      expert_counts_{&moves_}, expert_begins_{&moves_}, expert_rows_{&moves_},
      expert_places_{&moves_}, expert_scratch_{&moves_}, expert_x_{&moves_}, expert_out_{&moves_};
  DeviceScratch sent_first_{&moves_}, sent_second_{&moves_};
  DeviceScratch part_{&moves_};  // [rows, hidden]: this rank's of a sum over ranks
  DeviceScratch next_{&moves_};  // [rows, hidden]: under way to the next stage
  DeviceRanks ranks_;
  LayerQueued queued_;
  TimeNs deadline_ns_ = INT64_MAX;
  std::optional<parallel::ExchangeId> sending_;
  DeviceScratch samples_{&moves_};
  PromptScratch prefill_scratch_{&moves_}, latents_{&moves_}, rotated_{&moves_}, expanded_{&moves_};
  SegmentPacker segments_{config_.layers, segment_bytes_};
  PinnedMemory host_rows_{&moves_};  // [layers][rows, first part], then [layers][rows, second part]
  PinnedMemory host_logits_{&moves_};
  PinnedMemory host_samples_{&moves_};  // [rows] tokens, then [rows, kSampledTopMax] alternatives
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_MODEL_H_
