// Decoding: latents at 16 and 128 heads, grouped heads; all keys from memory, pages in random
// order. And rows that begin with the same keys.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <string>

#include "bench/gpu/harness.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/cuda/numerics.h"

namespace reprise::bench::gpu {
namespace {

struct Dims {
  bool latent;
  int first;
  int second;
  int q_heads;
  int kv_heads;
  bool fp8 = false;  // rows of kernels/fp8_row.h
  int key_dim() const { return latent ? first + second : first; }
  int value_dim() const { return latent ? first : second; }
  int64_t token_bytes() const {
    return fp8 ? kernels::kFp8RowBytes : int64_t{2} * kv_heads * (first + second);
  }
};

// A batch in device memory, decoded again and again. The first `shared_keys` of all rows, whole
// leaves, are the same pages.
class Batch {
 public:
  Batch(Harness& harness, const Dims& dims, const std::vector<int32_t>& keys,
        int32_t shared_keys = 0)
      : harness_(harness), dims_(dims), keys_(keys), shared_keys_(shared_keys) {
    const int32_t most = *std::max_element(keys.begin(), keys.end());
    pages_each_ = (most + cuda::kPageRows - 1) / cuda::kPageRows;
    int64_t pages = shared_keys / cuda::kPageRows;
    for (const int32_t k : keys) pages += (k - shared_keys + cuda::kPageRows - 1) / cuda::kPageRows;
    std::vector<int32_t> order(static_cast<size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
    std::vector<int32_t> table(keys.size() * static_cast<size_t>(pages_each_), 0);
    size_t next = 0;
    for (size_t r = 0; r < keys.size(); ++r) {
      for (int32_t i = 0; i * cuda::kPageRows < keys[r]; ++i) {
        const bool shared = r > 0 && i * cuda::kPageRows < shared_keys;
        table[r * static_cast<size_t>(pages_each_) + static_cast<size_t>(i)] =
            shared ? table[static_cast<size_t>(i)] : order[next++];
      }
    }
    q_ = harness.RandomBf16(keys.size() * QRow(), 4);
    table_ = harness.Upload(table);
    device_keys_ = harness.Upload(keys);
    out_ = harness.Memory(OutBytes());
    lse_ = harness.Memory(keys.size() * static_cast<size_t>(dims.q_heads) * 4);
    cuda::KvPool layer;
    layer.pages = pages;
    layer.page_stride_bytes = cuda::kPageRows * dims.token_bytes();
    layer.kv_heads = dims.kv_heads;
    layer.first_dim = dims.first;
    layer.second_dim = dims.second;
    layer.fp8 = dims.fp8;
    FillPool(&layer);
    args_.latent = dims.latent;
    args_.first_dim = dims.first;
    args_.second_dim = dims.second;
    args_.q_heads = dims.q_heads;
    args_.kv_heads = dims.kv_heads;
    args_.q = q_.as<uint16_t>();
    args_.q_row_stride = static_cast<int64_t>(QRow());
    args_.page_table = table_.as<int32_t>();
    args_.page_table_stride = pages_each_;
    args_.keys = device_keys_.as<int32_t>();
    args_.scale = 0.07F;
    args_.out = out_.as<uint16_t>();
    args_.out_row_stride = dims.q_heads * dims.value_dim();
    args_.lse = lse_.as<float>();
    Plan(cuda::DecodeWorkers(args_, harness.processors()));
  }

  // Shared keys are read once for as many rows as fit, or for each.
  void Plan(int workers, bool together = false) {
    cuda::DecodeShares shares;
    if (together) {
      shares = {{{{}, shared_keys_ / cuda::kStepLeaf}}, cuda::DecodeSharingOf(args_)};
      shares.groups[0].rows.resize(keys_.size());
      std::iota(shares.groups[0].rows.begin(), shares.groups[0].rows.end(), 0);
    }
    const cuda::DecodePlan plan = cuda::PlanDecode(keys_, dims_.kv_heads, workers, shares);
    parts_.clear();
    const auto keep = [&](cuda::Buffer memory) {
      parts_.push_back(std::move(memory));
      return parts_.back().data();
    };
    auto& view = args_.plan;
    view.runs = static_cast<const cuda::DecodeRun*>(keep(harness_.Upload(plan.runs)));
    view.run_begin = static_cast<const int32_t*>(keep(harness_.Upload(plan.run_begin)));
    view.workers = workers;
    view.joins = static_cast<const cuda::DecodeJoin*>(keep(harness_.Upload(plan.joins)));
    view.join_count = static_cast<int>(plan.joins.size());
    view.nodes = static_cast<const int32_t*>(keep(harness_.Upload(plan.nodes)));
    view.merges = static_cast<const cuda::DecodeMerge*>(keep(harness_.Upload(plan.merges)));
    view.round_begin = static_cast<const int32_t*>(keep(harness_.Upload(plan.round_begin)));
    view.nodes_max = plan.nodes_max;
    view.shared = !plan.rows.empty();
    view.rows = static_cast<const int32_t*>(keep(harness_.Upload(plan.rows)));
    const auto slots = static_cast<size_t>(plan.slots);
    view.node_out =
        static_cast<float*>(keep(harness_.Memory(slots * cuda::DecodeNodeFloats(args_) * 4)));
    view.node_lse2 = static_cast<float*>(keep(harness_.Memory(slots * cuda::kDecodeGroupMax * 4)));
  }

  int workers() const { return args_.plan.workers; }
  double Seconds() {
    return harness_.Time([this](int) { return cuda::Decode(args_, nullptr); });
  }
  std::vector<uint8_t> Result() {
    harness_.Check(cuda::Fill(out_.data(), 0xFF, OutBytes(), nullptr), "fill");
    harness_.Check(cuda::Decode(args_, nullptr), "decode");
    return harness_.Download(out_.data(), OutBytes());
  }
  // Shared keys count once.
  double Bytes() const {
    int64_t keys = shared_keys_;
    for (const int32_t k : keys_) keys += k - shared_keys_;
    return static_cast<double>(keys * dims_.token_bytes()) +
           static_cast<double>(keys_.size() * QRow() * 2 + OutBytes());
  }
  double Operations() const {
    double keys = 0;
    for (const int32_t k : keys_) keys += k;
    return 2 * keys * dims_.q_heads * (dims_.key_dim() + dims_.value_dim());
  }

 private:
  void FillPool(cuda::KvPool* layer) {
    const auto bytes = static_cast<size_t>(layer->pages * layer->page_stride_bytes);
    if (!dims_.fp8) {
      pool_ = harness_.RandomBf16(bytes / 2, 3);
      layer->layer_base = pool_.data();
      harness_.Check(cuda::MakeKvMaps(*layer, &args_.maps), "tensor map");
      return;
    }
    pool_ = harness_.Memory(bytes);
    layer->layer_base = pool_.data();
    args_.fp8 = true;
    args_.fp8_rows = pool_.data();
    args_.fp8_page_stride_bytes = layer->page_stride_bytes;
    // The same latents again and again: their values change no time.
    constexpr int64_t kPagesAtOnce = 64;
    const int64_t rows = std::min(kPagesAtOnce, layer->pages) * cuda::kPageRows;
    const cuda::Buffer latents = harness_.RandomBf16(static_cast<size_t>(rows * dims_.first), 3);
    const cuda::Buffer rotated = harness_.RandomBf16(static_cast<size_t>(rows * dims_.second), 5);
    std::vector<cuda::KvSlot> slots(static_cast<size_t>(rows));
    for (int32_t r = 0; r < rows; ++r) {
      slots[static_cast<size_t>(r)] = {r / cuda::kPageRows, r % cuda::kPageRows};
    }
    const cuda::Buffer device_slots = harness_.Upload(slots);
    for (int64_t page = 0; page < layer->pages; page += kPagesAtOnce) {
      cuda::KvPool part = *layer;
      part.layer_base = pool_.as<uint8_t>() + page * layer->page_stride_bytes;
      const int64_t count = std::min(rows, (layer->pages - page) * cuda::kPageRows);
      harness_.Check(
          cuda::StoreRows({.first = {{latents.data(), dims_.first, true}, 0, 1, dims_.first},
                           .second = {{rotated.data(), dims_.second, true}, 0, 1, dims_.second},
                           .pool = part,
                           .slots = device_slots.as<cuda::KvSlot>(),
                           .rows = count},
                          nullptr),
          "storing rows");
    }
    harness_.Check(cuda::Synchronize(nullptr), "storing rows");
  }
  size_t QRow() const {
    return static_cast<size_t>(dims_.q_heads) * static_cast<size_t>(dims_.key_dim());
  }
  size_t OutBytes() const {
    return keys_.size() * static_cast<size_t>(dims_.q_heads * dims_.value_dim()) * 2;
  }

  Harness& harness_;
  const Dims dims_;
  const std::vector<int32_t> keys_;
  const int32_t shared_keys_;
  int32_t pages_each_ = 0;
  cuda::Buffer pool_, q_, table_, device_keys_, out_, lse_;
  std::vector<cuda::Buffer> parts_;
  cuda::DecodeArgs args_;
};

std::vector<int32_t> Equal(size_t batch, int32_t keys) { return std::vector<int32_t>(batch, keys); }

// Lengths as a server has them: normally distributed, half as wide as long.
std::vector<int32_t> Varied(size_t batch, int32_t mean) {
  std::mt19937 random(5);
  std::normal_distribution<double> length(mean, mean / 2.0);
  std::vector<int32_t> keys(batch);
  for (int32_t& k : keys) k = std::max<int32_t>(1, static_cast<int32_t>(length(random)));
  return keys;
}

enum class Asked : uint8_t { kBandwidth, kLatency, kRate };

struct Case {
  const char* name;
  Dims dims;
  size_t batch;
  int32_t keys;
  bool varied;
  double least;  // TB/s, microseconds or TFLOP/s, as is asked
  double aim;
  Asked asked;
  const char* peer;
};

// Seconds.
double Measure(Harness& harness, const Case& c) {
  const size_t batch = harness.tiny() ? std::min<size_t>(c.batch, 2) : c.batch;
  const int32_t keys = harness.tiny() ? 400 : c.keys;
  Batch data(harness, c.dims, c.varied ? Varied(batch, keys) : Equal(batch, keys));
  const std::vector<uint8_t> first = data.Result();
  harness.Expect(data.Result() == first, std::string(c.name) + ": the same bits again");
  const double seconds = data.Seconds();
  data.Plan(7);
  harness.Expect(data.Result() == first, std::string(c.name) + ": the same bits by another plan");
  const double floor = data.Bytes() / harness.CopyBytesPerSecond();
  const std::string shape = "batch " + std::to_string(batch) + (c.varied ? " around " : " at ") +
                            std::to_string(keys) + ", " + std::to_string(c.dims.q_heads) + "/" +
                            std::to_string(c.dims.kv_heads);
  if (c.asked == Asked::kRate) {
    harness.Add({c.name, shape, data.Operations() / seconds / 1e12, "TFLOP/s", false, 790, c.least,
                 c.aim, c.peer});
  } else if (c.asked == Asked::kLatency) {
    harness.Add({c.name, shape, seconds * 1e6, "us", true, floor * 1e6, c.least, c.aim, c.peer});
  } else {
    harness.Add({c.name, shape, data.Bytes() / seconds / 1e12, "TB/s", false,
                 harness.CopyBytesPerSecond() / 1e12, c.least, c.aim, c.peer});
  }
  return seconds;
}

// Rows that begin with the same keys, read once for as many of them as a product has columns for;
// and what they cost when each reads its own, which finds them in the second-level cache.
void ComparePrefixes(Harness& harness) {
  const Dims dims = {false, 128, 128, 32, 8};
  const size_t batch = harness.tiny() ? 9 : 64;
  const int32_t keys = harness.tiny() ? 300 : 8192;
  const int32_t shared = harness.tiny() ? 256 : 7168;
  Batch data(harness, dims, Equal(batch, keys), shared);
  const int workers = data.workers();
  const std::vector<uint8_t> want = data.Result();
  const double apart = data.Seconds();
  data.Plan(workers, true);
  harness.Expect(data.Result() == want, "gqa shared decode: the bits of rows apart");
  const double together = data.Seconds();
  const double floor = data.Bytes() / harness.CopyBytesPerSecond();
  const std::string shape = "batch " + std::to_string(batch) + " at " + std::to_string(keys) +
                            ", " + std::to_string(shared) + " shared, " +
                            std::to_string(dims.q_heads) + "/" + std::to_string(dims.kv_heads);
  harness.Add({"gqa shared decode", shape, together * 1e6, "us", true, floor * 1e6, 0, 150, ""});
  harness.Add({"gqa apart decode", shape, apart * 1e6, "us", true, floor * 1e6, 0, 0, ""});
}

// How many tokens a second over fp8 rows for one over bf16 rows.
void CompareRows(Harness& harness) {
  const Dims bf16 = {true, 512, 64, 16, 1};
  const Dims fp8 = {true, 512, 64, 16, 1, true};
  const Case wide = {"mla decode", bf16, 128, 32768, false, 3.4, 3.9, Asked::kBandwidth, ""};
  const Case narrow = {"mla fp8 decode", fp8, 128, 32768, false, 2.8, 3.6, Asked::kBandwidth, ""};
  const double ratio = Measure(harness, wide) / Measure(harness, narrow);
  harness.Add({"mla fp8/bf16", "tokens, batch 128 at 32768", ratio, "x", false,
               static_cast<double>(bf16.token_bytes()) / static_cast<double>(fp8.token_bytes()),
               1.4, 1.7, ""});
}

}  // namespace

void DecodeCases(Harness& harness) {
  const Dims lite = {true, 512, 64, 16, 1};
  const Dims full = {true, 512, 64, 128, 1};
  const Dims grouped = {false, 128, 128, 32, 8};
  const Case cases[] = {
      {"mla decode", lite, 128, 8192, false, 3.4, 3.9, Asked::kBandwidth, ""},
      {"mla decode", lite, 128, 8192, true, 0, 0, Asked::kBandwidth, ""},
      {"mla decode", lite, 1, 32768, false, 20, 16, Asked::kLatency, ""},
      {"mla decode", lite, 1, 4096, false, 12, 8, Asked::kLatency, ""},
      {"mla decode", full, 128, 4096, false, 450, 560, Asked::kRate, ""},
      {"mla decode", full, 128, 8192, false, 450, 560, Asked::kRate, ""},
      {"mla decode", full, 128, 32768, false, 450, 560, Asked::kRate, ""},
      {"gqa decode", grouped, 64, 8192, false, 3.6, 4.0, Asked::kBandwidth, "gqa_decode"},
      {"gqa decode", grouped, 1, 8192, false, 0, 0, Asked::kLatency, "gqa_decode_1"},
  };
  for (const Case& c : cases) Measure(harness, c);
  ComparePrefixes(harness);
  CompareRows(harness);
}

}  // namespace reprise::bench::gpu
