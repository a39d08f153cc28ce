#include <cpuid.h>

#include <bit>

#include "kernels/cpu/attention_layout.h"
#include "kernels/cpu/tables.h"
#include "kernels/ops.h"

namespace reprise::kernels {
namespace {

bool HasF16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace

bool Supported(Isa isa) {
  // The compiler's run-time check covers the CPU and the register state the operating system saves.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return avx2;
    case Isa::kAvx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bf16");
  }
  return false;
}

Isa BestIsa() {
  if (Supported(Isa::kAvx512)) return Isa::kAvx512;
  return Supported(Isa::kAvx2) ? Isa::kAvx2 : Isa::kScalar;
}

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

const CpuOps& Select(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return kAvx2Ops;
    case Isa::kAvx512:
      return kAvx512Ops;
    case Isa::kScalar:
      break;
  }
  return kScalarOps;
}

int64_t AttentionScratchBytes(int64_t threads, const PagedKv& kv, int64_t max_position) {
  const auto leaves = static_cast<uint64_t>((max_position + kLeafTokens - 1) / kLeafTokens);
  const TileDims dims(kv);
  const int64_t cut = threads > 1 ? CutBytes(threads, dims) : 0;
  return cut + threads * TileMemory::Bytes(dims, std::bit_width(leaves) + 1);
}

}  // namespace reprise::kernels
