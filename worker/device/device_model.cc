#include "worker/device/device_model.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/decode.h"
#include "kernels/cuda/gemm.h"
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

int DecodeBlocks(const ModelConfig& c, const cuda::DeviceInfo& device) {
  return std::max(1, cuda::DecodeWorkers(DecodeShapeOf(c), device.processors));
}

}  // namespace

DeviceModel::DeviceModel(const ModelConfig& config, DeviceWeights weights,
                         const DeviceKernels& kernels, const cuda::DeviceInfo& device)
    : config_(config),
      weights_(std::move(weights)),
      kernels_(kernels),
      device_(device),
      first_dim_(static_cast<int>(config.latent ? config.latent->kv_rank : config.head_dim)),
      second_dim_(static_cast<int>(config.latent ? config.latent->rope_dim : config.head_dim)),
      kv_heads_(config.latent ? 1 : static_cast<int>(config.kv_heads)),
      segment_bytes_(int64_t{2} * kv_heads_ * cuda::kPageRows * (first_dim_ + second_dim_)),
      page_bytes_(segment_bytes_ * config.layers),
      step_(config_, kernels, DecodeBlocks(config, device), device.processors, &moves_) {}

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
  if (!kernels_.decode) return absl::OkStatus();
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

Status DeviceModel::Forward(const StepWishes& wishes) {
  RETURN_IF_ERROR(step_.Prepare(wishes, stream_));
  RETURN_IF_ERROR(segments_.Prepare(pool(), step_.whole_pages(), stream_));
  RETURN_IF_ERROR(ReserveStep());
  repeated_ = false;
  const StepShape shape = step_.shape();
  RETURN_IF_ERROR(shape.rows > 0 ? Repeat(shape) : QueueStep());
  if (step_.sampled()) {
    for (const int64_t output : step_.samples().on_host()) RETURN_IF_ERROR(SendLogits(output, 1));
  }
  return DeviceStatus(cuda::Record(sampled_, stream_), "the step");
}

// Memory whose size follows from the step and not from its shape alone.
Status DeviceModel::ReserveStep() {
  const int64_t rows = step_.sent_rows();
  const int64_t cols = int64_t{kv_heads_} * (first_dim_ + second_dim_);
  RETURN_IF_ERROR(host_rows_.Reserve(static_cast<size_t>(config_.layers * rows * cols) * 2));
  if (!step_.sampled() || !step_.samples().on_host().empty()) {
    RETURN_IF_ERROR(
        host_logits_.Reserve(static_cast<size_t>(step_.output_rows_computed()) * LogitsBytes()));
  }
  if (step_.sampled()) {
    RETURN_IF_ERROR(host_samples_.Reserve(step_.samples().rows().size() * kSampleBytes));
  }
  if (!kernels_.decode || step_.step_rows() == 0) return absl::OkStatus();
  const int64_t slots = step_.decode_slots();
  const auto floats = static_cast<int64_t>(cuda::DecodeNodeFloats(DecodeShapeOf(config_)));
  RETURN_IF_ERROR(node_out_.Get<float>(slots * floats).status());
  return node_lse2_.Get<float>(slots * cuda::kDecodeGroupMax).status();
}

Status DeviceModel::QueueStep() {
  const int64_t rows = step_.rows();
  ASSIGN_OR_RETURN(float* const x, x_.Get<float>(rows * config_.hidden));
  RETURN_IF_ERROR(
      DeviceStatus(cuda::Embed({.table = {weights_.embedding.memory.data(), config_.hidden, true},
                                .ids = step_.ids(),
                                .y = {x, config_.hidden, false},
                                .rows = rows,
                                .cols = config_.hidden},
                               stream_),
                   "the embedding"));
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    RETURN_IF_ERROR(Layer(layer));
    if (tick_ && !moves_.capturing) tick_();
  }
  RETURN_IF_ERROR(Logits());
  return step_.sampled() ? Draw() : SendLogits(0, step_.output_rows_computed());
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
  ASSIGN_OR_RETURN(float* const x, x_.Get<float>(rows * config_.hidden));
  RETURN_IF_ERROR(Norm(x, layer.attention_norm, rows));
  RETURN_IF_ERROR(layer.heads ? ProjectHeads(layer, pool) : ProjectLatents(layer, pool));
  RETURN_IF_ERROR(SendRows(index));
  RETURN_IF_ERROR(layer.heads ? AttendHeads(index, pool) : AttendLatents(index, layer, pool));
  const int64_t attended_cols = config_.heads * config_.value_dim();
  ASSIGN_OR_RETURN(uint16_t* const attended, attended_.Get<uint16_t>(rows * attended_cols));
  RETURN_IF_ERROR(
      Multiply(layer.o, Rows(attended, rows, attended_cols), {.f32 = x, .residual = x}));
  RETURN_IF_ERROR(Norm(x, layer.mlp_norm, rows));
  if (layer.mixture) return Mixture(*layer.mixture);
  ASSIGN_OR_RETURN(uint16_t* const normed, normed_.Get<uint16_t>(rows * config_.hidden));
  return Mlp(*layer.mlp, normed, rows, x);
}

// The layer's new rows on their way to the host, while the layer goes on.
Status DeviceModel::SendRows(int64_t layer) {
  const int64_t rows = step_.sent_rows();
  const int64_t first = int64_t{kv_heads_} * first_dim_;
  const int64_t second = int64_t{kv_heads_} * second_dim_;
  // A place for each layer: the copies of one may still be under way when the next begins.
  ASSIGN_OR_RETURN(uint16_t * a, sent_first_.Get<uint16_t>(config_.layers * rows * first));
  ASSIGN_OR_RETURN(uint16_t * b, sent_second_.Get<uint16_t>(config_.layers * rows * second));
  a += layer * rows * first;
  b += layer * rows * second;
  RETURN_IF_ERROR(DeviceStatus(cuda::ReadRows({.pool = LayerPool(layer),
                                               .slots = step_.sent_slots(),
                                               .first = {a, first, true},
                                               .second = {b, second, true},
                                               .rows = rows},
                                              stream_),
                               "reading rows"));
  // A graph is short, and all of it is awaited: its copies need no stream of their own.
  const cuda::Stream stream = moves_.capturing ? stream_ : copies_;
  if (!moves_.capturing) {
    const cuda::Event computed = computed_[static_cast<size_t>(layer)];
    RETURN_IF_ERROR(DeviceStatus(cuda::Record(computed, stream_), "reading rows"));
    RETURN_IF_ERROR(DeviceStatus(cuda::WaitFor(copies_, computed), "reading rows"));
  }
  RETURN_IF_ERROR(segments_.Send(layer, stream));
  auto* const host = host_rows_.as<uint16_t>();
  RETURN_IF_ERROR(DeviceStatus(
      cuda::CopyOut(host + layer * rows * first, a, static_cast<size_t>(rows * first) * 2, stream),
      "copying rows"));
  RETURN_IF_ERROR(
      DeviceStatus(cuda::CopyOut(host + config_.layers * rows * first + layer * rows * second, b,
                                 static_cast<size_t>(rows * second) * 2, stream),
                   "copying rows"));
  if (moves_.capturing) return absl::OkStatus();
  return DeviceStatus(cuda::Record(copied_[static_cast<size_t>(layer)], copies_), "copying rows");
}

Status DeviceModel::AwaitRows(uint32_t layer, const uint16_t** first, const uint16_t** second) {
  RETURN_IF_ERROR(
      DeviceStatus(cuda::AwaitEvent(repeated_ ? sampled_ : copied_[layer]), "a layer of the step"));
  const int64_t rows = step_.sent_rows();
  const int64_t first_cols = int64_t{kv_heads_} * first_dim_;
  const int64_t second_cols = int64_t{kv_heads_} * second_dim_;
  const auto* const host = host_rows_.as<uint16_t>();
  *first = host + layer * rows * first_cols;
  *second = host + config_.layers * rows * first_cols + layer * rows * second_cols;
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
          static_cast<size_t>(config_.vocab)};
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
