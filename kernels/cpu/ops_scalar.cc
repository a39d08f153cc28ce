#define REPRISE_KERNEL_ISA scalar

#include "kernels/cpu/v16_scalar.h"
// The templates over V need it defined first.
#include "kernels/cpu/table_inl.h"
#include "kernels/cpu/tables.h"

namespace reprise::kernels {

constinit const CpuOps kScalarOps = scalar::MakeTable(Isa::kScalar);

}  // namespace reprise::kernels
