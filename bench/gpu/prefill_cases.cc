// Prompt attention: one long causal prompt, grouped heads of 128 and DeepSeek's expanded heads of
// 192 and 128.
#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "bench/gpu/harness.h"
#include "kernels/cuda/prefill.h"

namespace reprise::bench::gpu {
namespace {

struct Case {
  int key_dim;
  int value_dim;
  int q_heads;
  int kv_heads;
  const char* peer;
};

void Measure(Harness& harness, const Case& c) {
  const int32_t tokens = harness.tiny() ? 200 : 8192;
  const int32_t pages = (tokens + cuda::kPageRows - 1) / cuda::kPageRows;
  cuda::KvPool pool;
  pool.pages = pages;
  pool.kv_heads = c.kv_heads;
  pool.first_dim = c.key_dim;
  pool.second_dim = c.value_dim;
  pool.page_stride_bytes = pool.SegmentBytes();
  const cuda::Buffer memory =
      harness.RandomBf16(static_cast<size_t>(pages * pool.SegmentBytes() / 2), 1);
  pool.layer_base = memory.data();
  const auto rows = static_cast<size_t>(tokens);
  const cuda::Buffer q = harness.RandomBf16(rows * static_cast<size_t>(c.q_heads * c.key_dim), 2);
  const size_t out_bytes = rows * static_cast<size_t>(c.q_heads * c.value_dim) * 2;
  const cuda::Buffer out = harness.Memory(out_bytes);
  const cuda::Buffer lse = harness.Memory(rows * static_cast<size_t>(c.q_heads) * 4);
  std::vector<int32_t> table(static_cast<size_t>(pages));
  std::iota(table.rbegin(), table.rend(), 0);
  const cuda::Buffer device_table = harness.Upload(table);

  // In runs of so many rows, as chunks of a prompt would be.
  const auto attend = [&](int32_t chunk) {
    std::vector<cuda::PrefillRun> runs;
    for (int32_t first = 0; first < tokens; first += chunk) {
      cuda::PrefillRun run;
      run.first_row = first;
      run.rows = std::min(chunk, tokens - first);
      run.first_position = first;
      run.key_rows = first + run.rows;
      runs.push_back(run);
    }
    cuda::PrefillPlan plan;
    harness.Check(cuda::PlanPrefill(runs, &plan), "plan");
    const cuda::Buffer device_runs = harness.Upload(runs);
    const cuda::Buffer tiles = harness.Upload(plan.tiles);
    const int64_t scratch_bytes =
        cuda::PrefillScratchBytes(plan, c.value_dim, harness.processors());
    const cuda::Buffer scratch =
        harness.Memory(static_cast<size_t>(std::max<int64_t>(scratch_bytes, 256)));
    cuda::PrefillArgs args;
    args.pool = pool;
    args.q = q.data();
    args.out = out.data();
    args.lse = lse.as<float>();
    args.q_rows = tokens;
    args.q_stride = c.q_heads * c.key_dim;
    args.out_stride = c.q_heads * c.value_dim;
    args.q_heads = c.q_heads;
    args.scale = 0.08F;
    args.out_bf16 = true;
    args.runs = device_runs.as<cuda::PrefillRun>();
    args.run_count = static_cast<int64_t>(runs.size());
    args.tiles = tiles.as<cuda::PrefillTile>();
    args.tile_count = static_cast<int64_t>(plan.tiles.size());
    args.leaves_max = plan.leaves_max;
    args.rows_max = plan.rows_max;
    args.page_tables = device_table.as<int32_t>();
    args.processors = harness.processors();
    args.scratch = scratch.data();
    args.scratch_bytes = scratch_bytes;
    harness.Check(cuda::Fill(out.data(), 0xFF, out_bytes, nullptr), "fill");
    const double seconds = harness.Time([&](int) { return cuda::Prefill(args, nullptr); });
    return std::pair(seconds, harness.Download(out.data(), out_bytes));
  };

  const auto [seconds, whole] = attend(tokens);
  const std::string name =
      "prefill " + std::to_string(c.key_dim) + "/" + std::to_string(c.value_dim);
  harness.Expect(attend(tokens).second == whole, name + ": the same bits again");
  harness.Expect(attend(harness.tiny() ? 77 : 1000).second == whole,
                 name + ": the same bits in chunks");
  const double operations = static_cast<double>(c.q_heads) * static_cast<double>(tokens) *
                            static_cast<double>(tokens) *
                            static_cast<double>(c.key_dim + c.value_dim);
  harness.Add({.kernel = "prefill",
               .shape = std::to_string(c.key_dim) + "/" + std::to_string(c.value_dim) + ", " +
                        std::to_string(c.q_heads) + "/" + std::to_string(c.kv_heads) + " heads, " +
                        std::to_string(tokens) + " causal",
               .value = operations / seconds / 1e12,
               .unit = "TFLOP/s",
               .floor = 790,
               .least = 450,
               .aim = 550,
               .peer = c.peer});
}

}  // namespace

void PrefillCases(Harness& harness) {
  Measure(harness, {128, 128, harness.tiny() ? 2 : 32, harness.tiny() ? 1 : 8, "prefill_128"});
  Measure(harness, {192, 128, harness.tiny() ? 1 : 16, harness.tiny() ? 1 : 16, "prefill_192"});
}

}  // namespace reprise::bench::gpu
