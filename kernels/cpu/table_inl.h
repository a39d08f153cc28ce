// The table of one instruction set's operations.
#ifndef REPRISE_KERNELS_CPU_TABLE_INL_H_
#define REPRISE_KERNELS_CPU_TABLE_INL_H_

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/experts_inl.h"
#include "kernels/cpu/linear_inl.h"
#include "kernels/cpu/rows_inl.h"
#include "kernels/cpu/sampling_inl.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

static constexpr CpuOps MakeTable(Isa isa) {
  return {.isa = isa,
          .linear = Linear,
          .add = AddRows,
          .rms_norm = RmsNorm,
          .rope_apply = RopeApply,
          .write_kv = WriteKv,
          .read_kv = ReadKv,
          .attention = Attention,
          .merge_partials = MergePartials,
          .swiglu = Swiglu,
          .route = Route,
          .add_scaled = AddScaled,
          .embed = Embed,
          .convert = Convert,
          .argmax = Argmax,
          .softmax_stats = RowSoftmaxStats,
          .top_k = TopK,
          .apply_temperature = ApplyTemperature,
          .apply_penalties = ApplyPenalties,
          .softmax_sorted = SoftmaxSorted};
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_TABLE_INL_H_
