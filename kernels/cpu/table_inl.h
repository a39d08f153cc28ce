// The table of one instruction set's operations.
#ifndef REPRISE_KERNELS_CPU_TABLE_INL_H_
#define REPRISE_KERNELS_CPU_TABLE_INL_H_

#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/linear_inl.h"
#include "kernels/cpu/rows_inl.h"
#include "kernels/cpu/sampling_inl.h"

namespace reprise::kernels::REPRISE_KERNEL_ISA {

static constexpr CpuOps MakeTable(Isa isa) {
  return {isa,
          Linear,
          RmsNorm,
          RopeApply,
          WriteKv,
          ReadKv,
          Attention,
          MergePartials,
          Swiglu,
          Embed,
          Convert,
          Argmax,
          RowSoftmaxStats,
          TopK,
          ApplyTemperature,
          ApplyPenalties,
          SoftmaxSorted};
}

}  // namespace reprise::kernels::REPRISE_KERNEL_ISA

#endif  // REPRISE_KERNELS_CPU_TABLE_INL_H_
