#define REPRISE_KERNEL_ISA avx512

#include "kernels/cpu/v16_avx512.h"
// The templates over V need it defined first.
#include "kernels/cpu/table_inl.h"
#include "kernels/cpu/tables.h"

namespace reprise::kernels {

constinit const CpuOps kAvx512Ops = avx512::MakeTable(Isa::kAvx512);

}  // namespace reprise::kernels
