#include "worker/device/device_model.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/decode.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/sample.h"
#include "worker/model/attention_block.h"

namespace reprise::worker {
namespace {

// A row's token and alternatives.
constexpr size_t kSampleBytes =
    sizeof(cuda::SampledToken) + static_cast<size_t>(kSampledTopMax) * sizeof(cuda::SampledTop);

// More shapes than a server meets in a while; then it begins again.
constexpr size_t kGraphsMax = 64;

int64_t SegmentBytes(const ModelConfig& c, bool fp8) {
  cuda::KvPool pool;
  pool.kv_heads = c.latent ? 1 : static_cast<int>(c.kv_heads);
  pool.first_dim = static_cast<int>(c.latent ? c.latent->kv_rank : c.head_dim);
  pool.second_dim = static_cast<int>(c.latent ? c.latent->rope_dim : c.head_dim);
  pool.fp8 = fp8;
  return pool.SegmentBytes();
}

int DecodeBlocks(const ModelConfig& c, bool fp8, const cuda::DeviceInfo& device) {
  return std::max(1, cuda::DecodeWorkers(DecodeShapeOf(c, fp8), device.processors));
}

}  // namespace

DeviceModel::DeviceModel(const ModelConfig& config, const ModelShare& share, DeviceWeights weights,
                         const DeviceKernels& kernels, const cuda::DeviceInfo& device)
    : config_(config),
      share_(share),
      weights_(std::move(weights)),
      kernels_(kernels),
      device_(device),
      first_dim_(static_cast<int>(config.latent ? config.latent->kv_rank : config.head_dim)),
      second_dim_(static_cast<int>(config.latent ? config.latent->rope_dim : config.head_dim)),
      kv_heads_(config.latent ? 1 : static_cast<int>(config.kv_heads)),
      segment_bytes_(SegmentBytes(config, kernels.fp8)),
      page_bytes_(segment_bytes_ * config.layers),
      step_(config_, kernels, DecodeBlocks(config, kernels.fp8, device), device.processors,
            &moves_) {}

DeviceModel::~DeviceModel() {
  DropGraphs();
  // What is under way reads and writes memory that goes now.
  if (stream_ != nullptr) {
    cuda::Synchronize(stream_);
    cuda::DestroyStream(stream_);
  }
  if (copies_ != nullptr) {
    cuda::Synchronize(copies_);
    cuda::DestroyStream(copies_);
  }
  for (auto* events : {&computed_, &copied_}) {
    for (const cuda::Event event : *events) cuda::DestroyEvent(event);
  }
  if (sampled_ != nullptr) cuda::DestroyEvent(sampled_);
}

Status DeviceModel::Open() {
  RETURN_IF_ERROR(DeviceStatus(cuda::MakeStream(&stream_, false), "making a stream"));
  RETURN_IF_ERROR(DeviceStatus(cuda::MakeStream(&copies_, true), "making a stream"));
  for (auto* events : {&computed_, &copied_}) {
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      cuda::Event event = nullptr;
      RETURN_IF_ERROR(DeviceStatus(cuda::MakeEvent(&event, false), "making an event"));
      events->push_back(event);
    }
  }
  return DeviceStatus(cuda::MakeEvent(&sampled_, false), "making an event");
}

Status DeviceModel::MakePool(int32_t pages) {
  pages_ = pages;
  RETURN_IF_ERROR(DeviceStatus(
      pool_.Reset(static_cast<size_t>(pages) * static_cast<size_t>(page_bytes_)), "the KV pool"));
  maps_.clear();
  if (!kernels_.decode || kernels_.fp8) return absl::OkStatus();
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    cuda::KvMaps maps;
    RETURN_IF_ERROR(DeviceStatus(cuda::MakeKvMaps(LayerPool(layer), &maps), "the KV pool's maps"));
    maps_.push_back(maps);
  }
  return absl::OkStatus();
}

cuda::KvPool DeviceModel::LayerPool(int64_t layer) const {
  cuda::KvPool pool;
  pool.layer_base = this->pool() + layer * segment_bytes_;
  pool.pages = pages_;
  pool.page_stride_bytes = page_bytes_;
  pool.kv_heads = kv_heads_;
  pool.first_dim = first_dim_;
  pool.second_dim = second_dim_;
  pool.fp8 = kernels_.fp8;
  return pool;
}

Status DeviceModel::MultiplyBy(const cuda::GemmWeights& w, const cuda::GemmMatrix& x,
                               const cuda::GemmOutput& y, const cuda::GemmGroups& groups) {
  const cuda::GemmArgs args = {&w, x, y, groups};
  return DeviceStatus(kernels_.gemm ? cuda::Gemm(args, stream_) : cuda::GemmSimple(args, stream_),
                      "a product");
}

Status DeviceModel::Multiply(const DeviceMatrix& w, const cuda::GemmMatrix& x, cuda::GemmOutput y,
                             const cuda::GemmGroups& groups) {
  y.bias = w.bias_data();
  if (y.row_stride == 0) y.row_stride = w.view.n;
  return MultiplyBy(w.view, x, y, groups);
}

Status DeviceModel::MultiplyPart(const DeviceMatrix& w, const cuda::GemmMatrix& x,
                                 const float* residual, float* y) {
  cuda::GemmOutput out = {.f32 = y, .row_stride = w.view.n, .residual = residual};
  // Added once.
  if (ranks_.tensor == nullptr || ranks_.tensor->rank() == 0) out.bias = w.bias_data();
  return MultiplyBy(w.view, x, out);
}

Status DeviceModel::Norm(const float* x, const cuda::Buffer& weight, int64_t rows) {
  ASSIGN_OR_RETURN(uint16_t* const y, normed_.Get<uint16_t>(rows * config_.hidden));
  return DeviceStatus(cuda::RmsNorm({.x = x,
                                     .weight = weight.as<float>(),
                                     .y = y,
                                     .rows = rows,
                                     .cols = config_.hidden,
                                     .x_stride = config_.hidden,
                                     .y_stride = config_.hidden,
                                     .eps = static_cast<float>(config_.rms_eps),
                                     .y_bf16 = true},
                                    stream_),
                      "a norm");
}

void DeviceModel::SetRanks(const DeviceRanks& ranks) {
  ranks_ = ranks;
  step_.SetContext(ranks.context);
  sending_.reset();  // that was with the ranks of before
}

Status DeviceModel::Forward(const StepWishes& wishes, const LayerQueued& queued,
                            TimeNs deadline_ns) {
  queued_ = queued;
  deadline_ns_ = deadline_ns;
  if (ranks_.context != nullptr) ranks_.context->SetDeadline(deadline_ns);
  RETURN_IF_ERROR(step_.Prepare(wishes, stream_));
  RETURN_IF_ERROR(segments_.Prepare(pool(), step_.whole_pages(), stream_));
  RETURN_IF_ERROR(ReserveStep());
  repeated_ = false;
  // What waits for other ranks is not captured.
  const bool alone =
      ranks_.tensor == nullptr && ranks_.pipeline == nullptr && ranks_.context == nullptr;
  const StepShape shape = alone ? step_.shape() : StepShape{};
  RETURN_IF_ERROR(shape.rows > 0 ? Repeat(shape) : QueueStep());
  if (step_.sampled()) {
    for (const int64_t output : step_.samples().on_host()) RETURN_IF_ERROR(SendLogits(output, 1));
  }
  return DeviceStatus(cuda::Record(sampled_, stream_), "the step");
}

// Memory whose size follows from the step and not from its shape alone.
Status DeviceModel::ReserveStep() {
  const int64_t row_bytes = first_row_bytes() + second_row_bytes();
  RETURN_IF_ERROR(
      host_rows_.Reserve(static_cast<size_t>(config_.layers * step_.sent_rows() * row_bytes)));
  if (!step_.sampled() || !step_.samples().on_host().empty()) {
    RETURN_IF_ERROR(
        host_logits_.Reserve(static_cast<size_t>(step_.output_rows_computed()) * LogitsBytes()));
  }
  if (step_.sampled()) {
    RETURN_IF_ERROR(host_samples_.Reserve(step_.samples().rows().size() * kSampleBytes));
  }
  if (!kernels_.decode || step_.step_rows() == 0) return absl::OkStatus();
  const int64_t slots = step_.decode_slots();
  const auto floats =
      static_cast<int64_t>(cuda::DecodeNodeFloats(DecodeShapeOf(config_, kernels_.fp8)));
  RETURN_IF_ERROR(node_out_.Get<float>(slots * floats).status());
  return node_lse2_.Get<float>(slots * cuda::kDecodeGroupMax).status();
}

Status DeviceModel::QueueStep() {
  RETURN_IF_ERROR(TakeRows());
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    RETURN_IF_ERROR(Layer(layer));
    if (tick_ && !moves_.capturing) tick_();
    if (queued_) RETURN_IF_ERROR(queued_(static_cast<uint32_t>(layer)));
  }
  if (!share_.last_stage) return GiveRows();
  RETURN_IF_ERROR(Logits());
  return step_.sampled() ? Draw() : SendLogits(0, step_.output_rows_computed());
}

// The embedding, or what the previous stage gives.
Status DeviceModel::TakeRows() {
  const int64_t rows = step_.rows();
  if (rows == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(float* const x, x_.Get<float>(rows * config_.hidden));
  if (share_.first_stage) {
    return DeviceStatus(
        cuda::Embed({.table = {weights_.embedding.memory.data(), config_.hidden, true},
                     .ids = step_.ids(),
                     .y = {x, config_.hidden, false},
                     .rows = rows,
                     .cols = config_.hidden},
                    stream_),
        "the embedding");
  }
  // The last step's kernels may still read what is there.
  RETURN_IF_ERROR(DeviceStatus(cuda::Synchronize(stream_), "the step before"));
  return ranks_.pipeline->Recv(
      ranks_.pipeline->rank() - 1,
      parallel::FloatBytes(std::span(x, static_cast<size_t>(rows * config_.hidden))), deadline_ns_);
}

Status DeviceModel::GiveRows() {
  RETURN_IF_ERROR(Settle(deadline_ns_));
  const int64_t rows = step_.rows();
  if (rows == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(float* const x, x_.Get<float>(rows * config_.hidden));
  ASSIGN_OR_RETURN(float* const next, next_.Get<float>(rows * config_.hidden));
  const int64_t row_bytes = config_.hidden * static_cast<int64_t>(sizeof(float));
  RETURN_IF_ERROR(DeviceStatus(cuda::CopyRows({.x = x,
                                               .x_stride_bytes = row_bytes,
                                               .y = next,
                                               .y_stride_bytes = row_bytes,
                                               .rows = rows,
                                               .row_bytes = row_bytes},
                                              stream_),
                               "rows for the next stage"));
  RETURN_IF_ERROR(DeviceStatus(cuda::Synchronize(stream_), "rows for the next stage"));
  ASSIGN_OR_RETURN(
      sending_, ranks_.pipeline->Start({.to = ranks_.pipeline->rank() + 1,
                                        .send = parallel::FloatBytes(std::span<const float>(
                                            next, static_cast<size_t>(rows * config_.hidden)))}));
  return absl::OkStatus();
}

Status DeviceModel::Settle(TimeNs deadline_ns) {
  if (!sending_) return absl::OkStatus();
  return ranks_.pipeline->Wait(*std::exchange(sending_, std::nullopt), deadline_ns);
}

// Where a half of a layer leaves what it adds to the residual stream, which then is `residual`: in
// place, or apart, as a part of what all ranks add.
StatusOr<float*> DeviceModel::HalfLayer(const float** residual) {
  const int64_t floats = step_.rows() * config_.hidden;
  ASSIGN_OR_RETURN(float* const x, x_.Get<float>(floats));
  *residual = ranks_.tensor == nullptr ? x : nullptr;
  if (ranks_.tensor == nullptr) return x;
  return part_.Get<float>(floats);
}

// Adds the ranks' parts to the residual stream.
Status DeviceModel::JoinRanks() {
  if (ranks_.tensor == nullptr) return absl::OkStatus();
  const int64_t rows = step_.rows();
  ASSIGN_OR_RETURN(float* const x, x_.Get<float>(rows * config_.hidden));
  ASSIGN_OR_RETURN(float* const part, part_.Get<float>(rows * config_.hidden));
  RETURN_IF_ERROR(DeviceStatus(cuda::Synchronize(stream_), "a half of a layer"));
  RETURN_IF_ERROR(ranks_.tensor->AllReduce(
      std::span(part, static_cast<size_t>(rows * config_.hidden)), deadline_ns_));
  return DeviceStatus(cuda::AddRows({.x = {part, config_.hidden, false},
                                     .residual = {x, config_.hidden, false},
                                     .y = {x, config_.hidden, false},
                                     .rows = rows,
                                     .cols = config_.hidden},
                                    stream_),
                      "the ranks' sum");
}

// The first step of a shape runs as any; memory has its size then, and the second is captured. What
// finds that memory has moved since begins again.
Status DeviceModel::Repeat(const StepShape& shape) {
  if (graphs_.size() >= kGraphsMax && !graphs_.contains(shape)) DropGraphs();
  Recorded& recorded = graphs_[shape];
  if (recorded.moves != moves_.count) {
    if (recorded.graph != nullptr) cuda::DestroyGraph(std::exchange(recorded.graph, nullptr));
    RETURN_IF_ERROR(QueueStep());
    recorded.moves = moves_.count;
    return absl::OkStatus();
  }
  if (recorded.graph == nullptr) RETURN_IF_ERROR(Capture(&recorded));
  RETURN_IF_ERROR(DeviceStatus(cuda::LaunchGraph(recorded.graph, stream_), "a step's graph"));
  repeated_ = true;
  return absl::OkStatus();
}

Status DeviceModel::Capture(Recorded* recorded) {
  RETURN_IF_ERROR(DeviceStatus(cuda::BeginCapture(stream_), "capturing a step"));
  moves_.capturing = true;
  Status status = QueueStep();
  moves_.capturing = false;
  status.Update(DeviceStatus(cuda::EndCapture(stream_, &recorded->graph), "capturing a step"));
  return status;
}

void DeviceModel::DropGraphs() {
  for (const auto& [shape, recorded] : graphs_) {
    if (recorded.graph != nullptr) cuda::DestroyGraph(recorded.graph);
  }
  graphs_.clear();
}

Status DeviceModel::Layer(int64_t index) {
  const DeviceLayer& layer = weights_.layers[static_cast<size_t>(index)];
  const cuda::KvPool pool = LayerPool(index);
  const int64_t rows = step_.rows();
  // A context rank without rows has keys that others see.
  if (rows == 0) {
    return layer.heads ? AttendHeads(index, pool) : AttendLatents(index, layer, pool);
  }
  ASSIGN_OR_RETURN(float* const x, x_.Get<float>(rows * config_.hidden));
  RETURN_IF_ERROR(Norm(x, layer.attention_norm, rows));
  RETURN_IF_ERROR(layer.heads ? ProjectHeads(layer, pool) : ProjectLatents(layer, pool));
  RETURN_IF_ERROR(SendRows(index));
  RETURN_IF_ERROR(layer.heads ? AttendHeads(index, pool) : AttendLatents(index, layer, pool));
  const int64_t attended_cols = config_.heads * config_.value_dim();
  ASSIGN_OR_RETURN(uint16_t* const attended, attended_.Get<uint16_t>(rows * attended_cols));
  const float* residual = nullptr;
  ASSIGN_OR_RETURN(float* const sum, HalfLayer(&residual));
  RETURN_IF_ERROR(MultiplyPart(layer.o, Rows(attended, rows, attended_cols), residual, sum));
  RETURN_IF_ERROR(JoinRanks());
  RETURN_IF_ERROR(Norm(x, layer.mlp_norm, rows));
  ASSIGN_OR_RETURN(uint16_t* const normed, normed_.Get<uint16_t>(rows * config_.hidden));
  RETURN_IF_ERROR(layer.mixture ? Mixture(*layer.mixture, residual, sum)
                                : Mlp(*layer.mlp, normed, residual, sum));
  return JoinRanks();
}

int64_t DeviceModel::first_row_bytes() const {
  return kernels_.fp8 ? kernels::kFp8RowBytes : int64_t{2} * kv_heads_ * first_dim_;
}
int64_t DeviceModel::second_row_bytes() const {
  return kernels_.fp8 ? 0 : int64_t{2} * kv_heads_ * second_dim_;
}

Status DeviceModel::ReadNewRows(int64_t layer, uint8_t* first, uint8_t* second) {
  const cuda::KvPool pool = LayerPool(layer);
  const int64_t rows = step_.sent_rows();
  if (kernels_.fp8) {
    return DeviceStatus(cuda::ReadFp8({pool, step_.sent_slots(), first, rows}, stream_),
                        "reading rows");
  }
  return DeviceStatus(cuda::ReadRows({.pool = pool,
                                      .slots = step_.sent_slots(),
                                      .first = {first, int64_t{kv_heads_} * first_dim_, true},
                                      .second = {second, int64_t{kv_heads_} * second_dim_, true},
                                      .rows = rows},
                                     stream_),
                      "reading rows");
}

// The layer's new rows on their way to the host, while the layer goes on.
Status DeviceModel::SendRows(int64_t layer) {
  const int64_t first = step_.sent_rows() * first_row_bytes();
  const int64_t second = step_.sent_rows() * second_row_bytes();
  // A place for each layer: the copies of one may still be under way when the next begins.
  ASSIGN_OR_RETURN(uint8_t * a, sent_first_.Get<uint8_t>(config_.layers * first));
  ASSIGN_OR_RETURN(uint8_t * b, sent_second_.Get<uint8_t>(config_.layers * second));
  a += layer * first;
  b += layer * second;
  RETURN_IF_ERROR(ReadNewRows(layer, a, b));
  // A graph is short, and all of it is awaited: its copies need no stream of their own.
  const cuda::Stream stream = moves_.capturing ? stream_ : copies_;
  if (!moves_.capturing) {
    const cuda::Event computed = computed_[static_cast<size_t>(layer)];
    RETURN_IF_ERROR(DeviceStatus(cuda::Record(computed, stream_), "reading rows"));
    RETURN_IF_ERROR(DeviceStatus(cuda::WaitFor(copies_, computed), "reading rows"));
  }
  RETURN_IF_ERROR(segments_.Send(layer, stream));
  auto* const host = host_rows_.as<uint8_t>();
  RETURN_IF_ERROR(DeviceStatus(
      cuda::CopyOut(host + layer * first, a, static_cast<size_t>(first), stream), "copying rows"));
  if (second > 0) {
    RETURN_IF_ERROR(DeviceStatus(cuda::CopyOut(host + config_.layers * first + layer * second, b,
                                               static_cast<size_t>(second), stream),
                                 "copying rows"));
  }
  if (moves_.capturing) return absl::OkStatus();
  return DeviceStatus(cuda::Record(copied_[static_cast<size_t>(layer)], copies_), "copying rows");
}

Status DeviceModel::AwaitRows(uint32_t layer, const uint8_t** first, const uint8_t** second) {
  RETURN_IF_ERROR(
      DeviceStatus(cuda::AwaitEvent(repeated_ ? sampled_ : copied_[layer]), "a layer of the step"));
  const int64_t first_bytes = step_.sent_rows() * first_row_bytes();
  const int64_t second_bytes = step_.sent_rows() * second_row_bytes();
  const auto* const host = host_rows_.as<uint8_t>();
  *first = host + layer * first_bytes;
  *second =
      second_bytes == 0 ? nullptr : host + config_.layers * first_bytes + layer * second_bytes;
  return absl::OkStatus();
}

Status DeviceModel::Logits() {
  const int64_t outputs = step_.output_rows_computed();
  if (outputs == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(float* const x, x_.Get<float>(step_.rows() * config_.hidden));
  ASSIGN_OR_RETURN(float* const out, out_x_.Get<float>(outputs * config_.hidden));
  const int64_t row_bytes = config_.hidden * static_cast<int64_t>(sizeof(float));
  RETURN_IF_ERROR(DeviceStatus(cuda::CopyRows({.x = x,
                                               .x_stride_bytes = row_bytes,
                                               .y = out,
                                               .y_stride_bytes = row_bytes,
                                               .from = step_.output_rows(),
                                               .rows = outputs,
                                               .row_bytes = row_bytes},
                                              stream_),
                               "taking outputs"));
  RETURN_IF_ERROR(Norm(out, weights_.final_norm, outputs));
  ASSIGN_OR_RETURN(uint16_t* const normed, normed_.Get<uint16_t>(outputs * config_.hidden));
  ASSIGN_OR_RETURN(float* const logits, LogitsMemory());
  return Multiply(weights_.head(), Rows(normed, outputs, config_.hidden), {.f32 = logits});
}

// [outputs, then copies for sampling; head rows].
StatusOr<float*> DeviceModel::LogitsMemory() {
  const int64_t copies =
      step_.sampled() ? static_cast<int64_t>(step_.samples().copied().size()) : 0;
  return logits_.Get<float>((step_.output_rows_computed() + copies) * weights_.head().view.n);
}

size_t DeviceModel::LogitsBytes() const {
  return static_cast<size_t>(weights_.head().view.n) * sizeof(float);
}

// Outputs [first, first + count) on their way to the host.
Status DeviceModel::SendLogits(int64_t first, int64_t count) {
  if (count == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const float* const logits, LogitsMemory());
  const int64_t begin = first * weights_.head().view.n;
  return DeviceStatus(cuda::CopyOut(host_logits_.as<float>() + begin, logits + begin,
                                    static_cast<size_t>(count) * LogitsBytes(), stream_),
                      "copying logits");
}

// Tokens, then alternatives, of all rows; and on their way to the host.
Status DeviceModel::Draw() {
  const SamplePlan& plan = step_.samples();
  ASSIGN_OR_RETURN(float* const logits, LogitsMemory());
  if (!plan.copied().empty()) {
    const auto row_bytes = static_cast<int64_t>(LogitsBytes());
    RETURN_IF_ERROR(DeviceStatus(
        cuda::CopyRows({.x = logits,
                        .x_stride_bytes = row_bytes,
                        .y = logits + step_.output_rows_computed() * weights_.head().view.n,
                        .y_stride_bytes = row_bytes,
                        .from = step_.copied_outputs(),
                        .rows = static_cast<int64_t>(plan.copied().size()),
                        .row_bytes = row_bytes},
                       stream_),
        "logits of branches"));
  }
  cuda::SampleArgs args;
  step_.FillSampling(&args);
  const size_t bytes = plan.rows().size() * kSampleBytes;
  ASSIGN_OR_RETURN(uint8_t* const results, samples_.Get<uint8_t>(static_cast<int64_t>(bytes)));
  args.logits = logits;
  args.stride = weights_.head().view.n;
  args.vocab = static_cast<int>(config_.vocab);
  args.tokens = reinterpret_cast<cuda::SampledToken*>(results);
  args.top = reinterpret_cast<cuda::SampledTop*>(args.tokens + args.rows);
  args.top_stride = kSampledTopMax;
  RETURN_IF_ERROR(DeviceStatus(cuda::Sample(args, stream_), "sampling"));
  return DeviceStatus(cuda::CopyOut(host_samples_.as<uint8_t>(), results, bytes, stream_),
                      "copying tokens");
}

Status DeviceModel::AwaitOutputs() { return DeviceStatus(cuda::AwaitEvent(sampled_), "the step"); }

std::span<const float> DeviceModel::logits(int64_t output) const {
  return {host_logits_.as<float>() + output * weights_.head().view.n,
          static_cast<size_t>(share_.vocab.size())};
}

std::optional<SampledToken> DeviceModel::drawn(size_t sample) const {
  const int64_t row = step_.samples().place(sample).row;
  if (row < 0) return std::nullopt;
  const auto* const tokens = host_samples_.as<cuda::SampledToken>();
  const auto* const tops =
      reinterpret_cast<const cuda::SampledTop*>(tokens + step_.samples().rows().size());
  SampledToken token;
  token.id = tokens[row].id;
  token.logprob = tokens[row].logprob;
  const int32_t wanted = step_.samples().rows()[static_cast<size_t>(row)].top;
  for (const cuda::SampledTop& top :
       std::span(tops + row * kSampledTopMax, static_cast<size_t>(std::max(wanted, 0)))) {
    if (top.id >= 0) token.top.emplace_back(top.id, top.logprob);
  }
  return token;
}

int64_t DeviceModel::ScratchBytes(const ModelConfig& c, const DeviceKernels& kernels, int64_t rows,
                                  int64_t keys) {
  const int64_t q = c.heads * c.head_dim;
  const int64_t kv =
      c.latent ? c.latent->kv_rank + c.latent->rope_dim : 2 * c.kv_heads * c.head_dim;
  int64_t row = 4 * (2 * c.hidden + q + kv) + 2 * (c.hidden + q + c.heads * c.value_dim());
  if (c.latent) row += 2 * c.heads * (2 * c.latent->kv_rank + c.latent->rope_dim);
  int64_t inner = 10 * c.intermediate;
  if (c.mixture) {
    inner = std::max(
        inner, c.mixture->per_token * (10 * c.mixture->intermediate + 2 * c.hidden + 4 * c.hidden));
  }
  row += inner + 2 * c.layers * kv + 4 * c.vocab / 16;
  int64_t bytes = rows * row;
  if (c.latent && kernels.prefill) {
    bytes += keys * 2 * (kv + c.heads * (c.head_dim + c.value_dim()));
  }
  return bytes;
}

}  // namespace reprise::worker
