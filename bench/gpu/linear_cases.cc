// The price of one fixed order of sums: every linear layer of two models at the row counts of
// decoding and of prompts, ours beside cuBLASLt, which may choose any order and any split by its
// heuristics; then what the difference is of a decode step.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bench/gpu/cublas_lt.h"
#include "bench/gpu/harness.h"
#include "kernels/cuda/gemm.h"

namespace reprise::bench::gpu {
namespace {

constexpr int64_t kContextTokens = 4096;
constexpr double kFlopsPerSecond = 790e12;  // what large products were seen to reach on this card
constexpr size_t kRotatedBytes = size_t{256} << 20;  // of weights: more than the caches hold
constexpr int kCopiesMax = 64;
constexpr int64_t kCompared = 1 << 15;  // elements of y

// n x k, `per_step` times in a step of the whole model.
struct Layer {
  const char* name;
  int64_t n;
  int64_t k;
  int per_step = 1;
  int64_t heads = 0;          // a matrix for each, over the same rows; 0: one
  int64_t experts = 0;        // a matrix for each, over the rows that chose it; 0: one
  bool outputs_only = false;  // of rows that give logits
};

struct Model {
  const char* name;
  std::vector<Layer> layers;
  int64_t experts_per_token;
  int64_t kv_bytes_per_token;
};

const Model& V2Lite() {
  static const auto* const model = new Model{"V2-Lite",
                                             {{"q", 3072, 2048, 27},
                                              {"kv a", 576, 2048, 27},
                                              {"q to latents", 512, 128, 27, 16},
                                              {"latents to v", 128, 512, 27, 16},
                                              {"o", 2048, 2048, 27},
                                              {"gate up", 21888, 2048, 1},
                                              {"down", 2048, 10944, 1},
                                              {"router", 64, 2048, 26},
                                              {"experts' gate up", 2816, 2048, 26, 0, 64},
                                              {"experts' down", 2048, 1408, 26, 0, 64},
                                              {"shared gate up", 5632, 2048, 26},
                                              {"shared down", 2048, 2816, 26},
                                              {"logits", 102400, 2048, 1, 0, 0, true}},
                                             6,
                                             27 * 576 * 2};
  return *model;
}

const Model& Llama8b() {
  static const auto* const model = new Model{"Llama-8B",
                                             {{"qkv", 6144, 4096, 32},
                                              {"o", 4096, 4096, 32},
                                              {"gate up", 28672, 4096, 32},
                                              {"down", 4096, 14336, 32},
                                              {"logits", 128256, 4096, 1, 0, 0, true}},
                                             0,
                                             32 * 2 * 1024 * 2};
  return *model;
}

// Enough to run every line on the emulator.
const Model& TinyModel() {
  static const auto* const model = new Model{
      "tiny", {{"one", 72, 64, 2}, {"heads", 16, 64, 2, 2}, {"experts", 24, 64, 2, 0, 4}}, 2, 1024};
  return *model;
}

// What `rows` tokens make of a layer. Experts that are chosen evenly have so many rows each.
LinearShape ShapeOf(const Model& model, const Layer& layer, int64_t rows) {
  if (layer.heads > 0) return {layer.heads, rows, layer.n, layer.k};
  if (layer.experts == 0) return {1, rows, layer.n, layer.k};
  const int64_t choices = rows * model.experts_per_token;
  const int64_t chosen = std::min(layer.experts, choices);
  return {chosen, (choices + chosen - 1) / chosen, layer.n, layer.k};
}

double WeightBytes(const LinearShape& s) { return 2 * static_cast<double>(s.batch * s.n * s.k); }

// Both on the same inputs; weights take turns, so that they come from memory as in a model.
class Pair {
 public:
  Pair(Harness& harness, const LinearShape& shape, bool grouped)
      : harness_(harness),
        shape_(shape),
        grouped_(grouped),
        x_(harness.RandomBf16(static_cast<size_t>(shape.batch * shape.m * shape.k), 1)),
        ours_(harness.Memory(OutBytes())),
        theirs_(harness.Memory(OutBytes())) {
    const auto weight_bytes = static_cast<size_t>(WeightBytes(shape));
    const size_t copies =
        harness.tiny() ? 2 : std::min<size_t>(kCopiesMax, 1 + kRotatedBytes / weight_bytes);
    weights_.resize(copies);
    for (size_t i = 0; i < copies; ++i) {
      memory_.push_back(harness.RandomBf16(weight_bytes / 2, 2 + i));
      harness.Check(cuda::MakeGemmWeights({memory_.back().as<uint16_t>(), shape.batch, shape.n,
                                           shape.k, shape.k, shape.n * shape.k},
                                          &weights_[i]),
                    "weights");
    }
    std::vector<int32_t> first_row;
    for (int64_t e = 0; e <= shape.batch; ++e)
      first_row.push_back(static_cast<int32_t>(e * shape.m));
    first_row_ = harness.Upload(first_row);
  }

  double OurSeconds() {
    return harness_.Time([&](int i) { return Ours(static_cast<size_t>(i)); });
  }

  // -1 where the library has no way to do it; `why` says so.
  double FreeSeconds(CublasLt& lt, std::string* why) {
    int status = lt.Choose(shape_);
    if (status == 0) {
      status = lt.Run(memory_[0].as<uint16_t>(), x_.as<uint16_t>(), theirs_.as<uint16_t>());
    }
    if (status != 0) {
      *why = "cublasLt: status " + std::to_string(status);
      return -1;
    }
    harness_.Check(Ours(0), "our product");
    ExpectTheSame();
    return harness_.Time([&](int i) {
      const uint16_t* const w = memory_[static_cast<size_t>(i) % memory_.size()].as<uint16_t>();
      return lt.Run(w, x_.as<uint16_t>(), theirs_.as<uint16_t>()) == 0 ? 0
                                                                       : cuda::kErrorLaunchFailure;
    });
  }

 private:
  size_t OutBytes() const { return static_cast<size_t>(shape_.batch * shape_.m * shape_.n) * 2; }

  int Ours(size_t turn) {
    cuda::GemmArgs args;
    args.weights = &weights_[turn % weights_.size()];
    args.x = {x_.as<uint16_t>(), shape_.batch, shape_.m, shape_.k, shape_.k, shape_.m * shape_.k};
    args.y = {
        .bf16 = ours_.as<uint16_t>(), .row_stride = shape_.n, .batch_stride = shape_.m * shape_.n};
    if (grouped_) {
      args.x = {x_.as<uint16_t>(), 1, shape_.batch * shape_.m, shape_.k, shape_.k, 0};
      args.groups = {first_row_.as<int32_t>()};
    }
    return cuda::Gemm(args, nullptr);
  }

  // Inputs are below 1, so partial sums are below k and each of k sums in f32 is off by k 2^-24 at
  // most; then either result is rounded to bf16, by 2^-9 of it.
  void ExpectTheSame() {
    const auto count =
        static_cast<size_t>(std::min<int64_t>(kCompared, shape_.batch * shape_.m * shape_.n));
    const std::vector<uint8_t> a = harness_.Download(ours_.data(), count * 2);
    const std::vector<uint8_t> b = harness_.Download(theirs_.data(), count * 2);
    const auto k = static_cast<double>(shape_.k);
    const auto value = [](const std::vector<uint8_t>& bytes, size_t i) {
      const uint32_t bits =
          static_cast<uint32_t>(bytes[2 * i]) << 16 | static_cast<uint32_t>(bytes[2 * i + 1]) << 24;
      float f;
      std::memcpy(&f, &bits, sizeof f);
      return static_cast<double>(f);
    };
    size_t apart = 0;
    for (size_t i = 0; i < count; ++i) {
      const double limit = 2 * k * k * 0x1p-24 + 0x1p-8 * std::abs(value(a, i)) + 0x1p-8;
      apart += !(std::abs(value(a, i) - value(b, i)) <= limit);
    }
    harness_.Expect(apart == 0, std::to_string(apart) + " elements of " + std::to_string(shape_.n) +
                                    " x " + std::to_string(shape_.k) +
                                    " are not cublasLt's within rounding");
  }

  Harness& harness_;
  const LinearShape shape_;
  const bool grouped_;
  const cuda::Buffer x_;
  const cuda::Buffer ours_;
  const cuda::Buffer theirs_;
  std::vector<cuda::Buffer> memory_;
  std::vector<cuda::GemmWeights> weights_;
  cuda::Buffer first_row_;
};

std::string Text(const char* format, double a, double b = 0) {
  char text[96];
  std::snprintf(text, sizeof text, format, a, b);
  return text;
}

// A step's seconds in linear layers; `free` is -1 when not all of them are known.
struct StepSeconds {
  double ours = 0;
  double free = 0;
};

void AddLayer(Harness& harness, const Model& model, const Layer& layer, int64_t rows, CublasLt* lt,
              const std::string& absent, StepSeconds* step) {
  const LinearShape shape = ShapeOf(model, layer, rows);
  Pair pair(harness, shape, layer.experts > 0);
  const double ours = pair.OurSeconds();
  std::string why = absent;
  const double free = lt == nullptr ? -1 : pair.FreeSeconds(*lt, &why);
  const double flops = WeightBytes(shape) * static_cast<double>(shape.m);
  const double floor =
      std::max(WeightBytes(shape) / harness.CopyBytesPerSecond(), flops / kFlopsPerSecond);
  harness.Add(
      {.kernel = "linear",
       .shape = std::string(model.name) + " " + layer.name + ", " + std::to_string(rows) + " rows",
       .value = ours * 1e6,
       .unit = "us",
       .less_is_better = true,
       .floor = floor * 1e6,
       .note =
           free < 0 ? why : Text("cublasLt %.4g us, %.3g of its speed", free * 1e6, free / ours)});
  step->ours += ours * layer.per_step;
  step->free = free < 0 || step->free < 0 ? -1 : step->free + free * layer.per_step;
}

// What a step would be without the order, and how much longer ours is.
void AddPrice(Harness& harness, const Model& model, int64_t rows, const StepSeconds& step) {
  if (step.free < 0) return;
  const double kv = static_cast<double>(rows * kContextTokens * model.kv_bytes_per_token) /
                    harness.CopyBytesPerSecond();
  harness.Add({.kernel = "price",
               .shape = std::string(model.name) + " step, " + std::to_string(rows) + " rows, 4k",
               .value = 100 * (step.ours - step.free) / (step.free + kv),
               .unit = "%",
               .less_is_better = true,
               .note = Text("linear layers %.4g ms, cublasLt's", step.ours * 1e3) +
                       Text(" %.4g ms, KV at the copy's rate %.4g ms", step.free * 1e3, kv * 1e3)});
}

}  // namespace

void LinearCases(Harness& harness) {
  std::string absent = "no cublasLt: ";
  std::unique_ptr<CublasLt> lt;
  if (harness.device().emulated) {
    absent = "cublasLt is not asked on the emulator";
  } else {
    std::string why;
    lt = CublasLt::Open(harness.cublas_lt(), &why);
    absent += why;
  }
  std::printf(
      "linear layers beside %s\n",
      lt == nullptr ? absent.c_str() : ("cublasLt " + std::to_string(lt->version())).c_str());
  const std::vector<const Model*> models = harness.tiny()
                                               ? std::vector<const Model*>{&TinyModel()}
                                               : std::vector<const Model*>{&V2Lite(), &Llama8b()};
  const std::vector<int64_t> row_counts =
      harness.tiny() ? std::vector<int64_t>{1, 8} : std::vector<int64_t>{1, 8, 64, 128, 512, 4096};
  for (const Model* model : models) {
    for (const int64_t rows : row_counts) {
      const bool decoding = rows <= 128;
      StepSeconds step;
      for (const Layer& layer : model->layers) {
        if (decoding || !layer.outputs_only) {
          AddLayer(harness, *model, layer, rows, lt.get(), absent, &step);
        }
      }
      if (decoding) AddPrice(harness, *model, rows, step);
    }
  }
}

}  // namespace reprise::bench::gpu
