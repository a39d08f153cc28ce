// The three tables that dispatch.cc chooses from, one translation unit each.
#ifndef REPRISE_KERNELS_CPU_TABLES_H_
#define REPRISE_KERNELS_CPU_TABLES_H_

#include "kernels/ops.h"

namespace reprise::kernels {

extern const CpuOps kScalarOps;
extern const CpuOps kAvx2Ops;
extern const CpuOps kAvx512Ops;

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_CPU_TABLES_H_
