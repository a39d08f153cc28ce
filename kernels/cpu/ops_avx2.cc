#define REPRISE_KERNEL_ISA avx2

#include "kernels/cpu/v16_avx2.h"
// The templates over V need it defined first.
#include "kernels/cpu/table_inl.h"
#include "kernels/cpu/tables.h"

namespace reprise::kernels {

constinit const CpuOps kAvx2Ops = avx2::MakeTable(Isa::kAvx2);

}  // namespace reprise::kernels
