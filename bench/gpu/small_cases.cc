// What stands around attention and linear layers: rows, the pool's rows, routing, sampling,
// packing. Most are held to the bandwidth of a copy; the others are latencies of a step.
#include <cstring>
#include <string>

#include "bench/gpu/harness.h"
#include "kernels/cuda/expert_rows.h"
#include "kernels/cuda/kv_rows.h"
#include "kernels/cuda/merge_parts.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/route.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/sample.h"

namespace reprise::bench::gpu {
namespace {

using cuda::Buffer;

std::string Times(int64_t a, int64_t b) { return std::to_string(a) + " x " + std::to_string(b); }

// `bytes` are those that must be read and written.
void AddBandwidth(Harness& h, const char* kernel, const std::string& shape, double bytes,
                  const std::function<int(int)>& launch, double least = 0, double aim = 0) {
  const double copy = h.CopyBytesPerSecond() / 1e12;
  h.Add({.kernel = kernel,
         .shape = shape,
         .value = bytes / h.Time(launch) / 1e12,
         .unit = "TB/s",
         .floor = copy,
         .least = h.tiny() ? 0 : least * copy,
         .aim = h.tiny() ? 0 : aim * copy});
}
void AddLatency(Harness& h, const char* kernel, const std::string& shape,
                const std::function<int(int)>& launch) {
  h.Add({.kernel = kernel,
         .shape = shape,
         .value = h.Time(launch) * 1e6,
         .unit = "us",
         .less_is_better = true});
}

void RowCases(Harness& h) {
  const int64_t rows = h.tiny() ? 3 : 8192;
  const int64_t cols = h.tiny() ? 72 : 8192;
  const auto count = static_cast<size_t>(rows * cols);
  // Pairs of bf16 as f32: finite, of all sizes.
  const Buffer x = h.RandomBf16(2 * count, 1);
  const Buffer up = h.RandomBf16(2 * count, 2);
  const Buffer y = h.Memory(4 * count);
  const auto bytes = static_cast<double>(count);
  AddBandwidth(h, "add", Times(rows, cols) + " f32", 12 * bytes, [&](int) {
    return cuda::AddRows({.x = {x.data(), cols},
                          .residual = {up.data(), cols},
                          .y = {y.data(), cols},
                          .rows = rows,
                          .cols = cols},
                         nullptr);
  });
  AddBandwidth(h, "swiglu", Times(rows, cols) + " f32 to bf16", 10 * bytes, [&](int) {
    return cuda::Swiglu({.gate = {x.data(), cols},
                         .up = {up.data(), cols},
                         .y = {y.data(), cols, true},
                         .rows = rows,
                         .cols = cols},
                        nullptr);
  });
}

// A step of Llama 3 8B's heads, with head norms.
void PoolCases(Harness& h) {
  const int64_t rows = h.tiny() ? 5 : 8192;
  const int kv_heads = h.tiny() ? 1 : 8;
  const int q_heads = 4 * kv_heads;
  const int dim = 128;
  const int64_t stride = int64_t{q_heads + 2 * kv_heads} * dim;
  const Buffer qkv = h.RandomBf16(static_cast<size_t>(2 * rows * stride), 3);
  const Buffer out = h.Memory(static_cast<size_t>(2 * rows * q_heads * dim));
  const Buffer angles = h.RandomBf16(static_cast<size_t>(2 * rows * dim), 4);
  const Buffer norm = h.RandomBf16(2 * dim, 5);
  cuda::KvPool pool = {nullptr, (rows + cuda::kPageRows - 1) / cuda::kPageRows, 0, kv_heads, dim,
                       dim};
  pool.page_stride_bytes = pool.SegmentBytes();
  const Buffer memory = h.Memory(static_cast<size_t>(pool.pages * pool.page_stride_bytes));
  pool.layer_base = memory.data();
  std::vector<cuda::KvSlot> slots;
  for (int64_t r = 0; r < rows; ++r) {
    slots.push_back(
        {static_cast<int32_t>(r / cuda::kPageRows), static_cast<int32_t>(r % cuda::kPageRows)});
  }
  const Buffer device_slots = h.Upload(slots);
  const auto heads = [&](int first, int count, bool normed) {
    return cuda::HeadRows{{qkv.as<float>() + first * dim, stride}, dim,   count, dim,
                          normed ? norm.as<float>() : nullptr,     normed};
  };
  for (const int64_t step : {rows, h.tiny() ? int64_t{1} : int64_t{16}}) {
    const auto launch = [&](int) {
      return cuda::StoreRows(
          {.queries = {{heads(0, q_heads, true), out.data(), int64_t{q_heads} * dim, dim}, {}},
           .first = heads(q_heads, kv_heads, true),
           .second = heads(q_heads + kv_heads, kv_heads, false),
           .pool = pool,
           .slots = device_slots.as<cuda::KvSlot>(),
           .cos = angles.as<float>(),
           .sin = angles.as<float>() + rows * dim / 2,
           .half = dim / 2,
           .eps = 1e-6F,
           .rows = step},
          nullptr);
    };
    const std::string shape = Times(step, stride) + ", normed";
    if (step == rows) {
      AddBandwidth(h, "store rows", shape, 6 * static_cast<double>(rows * stride), launch);
    } else {
      AddLatency(h, "store rows", shape, launch);
    }
  }
}

// 1 GiB in segments of 256 KiB; each is read several times, long after the second-level cache has
// lost it.
void PackCases(Harness& h) {
  const int64_t bytes = h.tiny() ? 4096 : int64_t{256} << 10;
  const int64_t sources = h.tiny() ? 2 : 1024;
  const int64_t count = 4 * sources;
  const Buffer from = h.RandomBf16(static_cast<size_t>(sources * bytes / 2), 6);
  const Buffer to = h.Memory(static_cast<size_t>(count * bytes));
  const Buffer sums = h.Memory(static_cast<size_t>(count) * 4);
  const Buffer ok = h.Memory(static_cast<size_t>(count) * 4);
  std::vector<cuda::SegmentCopy> segments;
  for (int64_t i = 0; i < count; ++i) {
    // Pages are taken in no order.
    segments.push_back({from.as<uint8_t>() + i * 37 % sources * bytes, to.as<uint8_t>() + i * bytes,
                        static_cast<uint32_t>(i), 0});
  }
  cuda::SegmentsArgs args = {nullptr, count, bytes, sums.as<uint32_t>(), ok.as<uint32_t>()};
  const Buffer list = h.Upload(segments);
  args.segments = list.as<cuda::SegmentCopy>();
  const std::string shape = Times(count, bytes) + " bytes";
  const auto all = static_cast<double>(count * bytes);
  AddBandwidth(
      h, "pack", shape, 2 * all, [&](int) { return cuda::PackSegments(args, nullptr); }, 0.8, 0.9);
  const std::vector<uint8_t> found = h.Download(sums.data(), static_cast<size_t>(count) * 4);
  for (size_t i = 0; i < segments.size(); ++i) {
    std::memcpy(&segments[i].checksum, found.data() + 4 * i, 4);
  }
  const Buffer expected = h.Upload(segments);
  args.segments = expected.as<cuda::SegmentCopy>();
  AddBandwidth(
      h, "unpack", shape, 3 * all, [&](int) { return cuda::UnpackSegments(args, nullptr); }, 0.8,
      0.9);
  const std::vector<uint8_t> right = h.Download(ok.data(), static_cast<size_t>(count) * 4);
  for (int64_t i = 0; i < count; ++i) h.Expect(right[static_cast<size_t>(4 * i)] == 1, "unpack");
}

// DeepSeek-V3's routing.
void ExpertCases(Harness& h) {
  const int64_t rows = h.tiny() ? 9 : 8192;
  const int64_t hidden = h.tiny() ? 64 : 7168;
  const int per_row = 8;
  const int experts = h.tiny() ? 32 : 256;
  const auto ids_count = static_cast<size_t>(rows * per_row);
  const Buffer logits = h.RandomBf16(static_cast<size_t>(2 * rows * experts), 7);
  const Buffer ids = h.Memory(4 * ids_count);
  const Buffer weights = h.Memory(4 * ids_count);
  const auto route = [&](int64_t step) {
    return cuda::Route({.logits = logits.as<float>(),
                        .logits_stride = experts,
                        .rows = step,
                        .experts = experts,
                        .sigmoid = true,
                        .groups = 8,
                        .groups_kept = 4,
                        .per_row = per_row,
                        .normalize = true,
                        .ids = ids.as<int32_t>(),
                        .weights = weights.as<float>()},
                       nullptr);
  };
  cuda::ExpertRowsArgs lists = {
      .ids = ids.as<int32_t>(), .rows = rows, .per_row = per_row, .experts = experts, .tile = 1};
  const Buffer counts = h.Memory(4 * static_cast<size_t>(experts));
  const Buffer begins = h.Memory(4 * static_cast<size_t>(experts + 1));
  const Buffer row_of = h.Memory(4 * static_cast<size_t>(cuda::ExpertRowsMax(lists)));
  const Buffer place_of = h.Memory(4 * ids_count);
  const Buffer scratch = h.Memory(cuda::ExpertRowsScratchBytes(lists));
  lists.counts = counts.as<int32_t>();
  lists.begins = begins.as<int32_t>();
  lists.row_of = row_of.as<int32_t>();
  lists.place_of = place_of.as<int32_t>();
  lists.scratch = scratch.data();
  for (const int64_t step : {h.tiny() ? int64_t{4} : int64_t{64}, rows}) {
    const std::string shape = Times(step, experts) + ", 8 of 4 groups";
    AddLatency(h, "route", shape, [&](int) { return route(step); });
    cuda::ExpertRowsArgs args = lists;
    args.rows = step;
    AddLatency(h, "expert rows", shape, [&](int) { return cuda::ListExpertRows(args, nullptr); });
  }
  const Buffer outputs = h.RandomBf16(ids_count * static_cast<size_t>(hidden), 8);
  const Buffer y = h.Memory(4 * static_cast<size_t>(rows * hidden));
  AddBandwidth(h, "expert sum", Times(rows, hidden) + " of 8, bf16",
               static_cast<double>(rows * hidden) * (2 * per_row + 4), [&](int) {
                 return cuda::SumExperts({.x = {outputs.data(), hidden, true},
                                          .place_of = place_of.as<int32_t>(),
                                          .weights = weights.as<float>(),
                                          .y = {y.data(), hidden},
                                          .rows = rows,
                                          .cols = hidden,
                                          .per_row = per_row},
                                         nullptr);
               });
}

void MergeCases(Harness& h) {
  const int64_t rows = h.tiny() ? 2 : 2048;
  const int heads = 32;
  const int dim = h.tiny() ? 16 : 128;
  const int count = 8;
  const auto outs = static_cast<size_t>(rows * heads * dim);
  const Buffer parts = h.RandomBf16(2 * outs * count, 9);
  const Buffer lses = h.RandomBf16(2 * static_cast<size_t>(rows * heads) * count, 10);
  const Buffer out = h.Memory(2 * outs);
  cuda::MergePartsArgs args;
  args.count = count;
  for (int i = 0; i < count; ++i) {
    args.parts[i] = {parts.as<float>() + static_cast<size_t>(i) * outs,
                     lses.as<float>() + static_cast<int64_t>(i) * rows * heads};
  }
  args.tree = true;
  args.rows = rows;
  args.heads = heads;
  args.dim = dim;
  args.out_stride = int64_t{heads} * dim;
  args.lse_stride = heads;
  args.out = {out.data(), args.out_stride, true};
  AddBandwidth(h, "merge parts", "8 of " + Times(rows, int64_t{heads} * dim),
               static_cast<double>(outs) * (4 * count + 2),
               [&](int) { return cuda::MergeParts(args, nullptr); });
}

void SampleCases(Harness& h) {
  const int vocab = h.tiny() ? 1000 : 128'256;
  const int64_t rows = h.tiny() ? 2 : 64;
  const Buffer logits = h.RandomBf16(static_cast<size_t>(2 * rows * vocab), 11);
  const Buffer tokens = h.Memory(static_cast<size_t>(rows) * sizeof(cuda::SampledToken));
  struct Case {
    const char* name;
    cuda::SampleRow row;
  };
  const Case cases[] = {{"greedy", {.temperature = 0, .logprob = 0}},
                        {"greedy, logprob", {.temperature = 0}},
                        {"temperature", {.temperature = 0.7F, .logprob = 0}},
                        {"top-k 50", {.top_k = 50, .logprob = 0}},
                        // Of logits that are as likely anywhere in [-1, 1).
                        {"top-p of some 70", {.temperature = 5e-4F, .top_p = 0.9F, .logprob = 0}},
                        {"top-p of 7,000", {.temperature = 0.05F, .top_p = 0.9F, .logprob = 0}}};
  for (const Case& c : cases) {
    const Buffer params = h.Upload(std::vector<cuda::SampleRow>(static_cast<size_t>(rows), c.row));
    AddLatency(h, "sample", Times(rows, vocab) + ", " + c.name, [&](int) {
      return cuda::Sample({.logits = logits.as<float>(),
                           .stride = vocab,
                           .rows = rows,
                           .vocab = vocab,
                           .params = params.as<cuda::SampleRow>(),
                           .tokens = tokens.as<cuda::SampledToken>()},
                          nullptr);
    });
  }
}

}  // namespace

void SmallCases(Harness& harness) {
  RowCases(harness);
  PoolCases(harness);
  PackCases(harness);
  ExpertCases(harness);
  MergeCases(harness);
  SampleCases(harness);
}

}  // namespace reprise::bench::gpu
