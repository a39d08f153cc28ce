// The rows of a step ordered by expert on the device, for grouped matrix products, and the weighted
// sum of what the experts give. Deterministic: no order of threads or blocks shows. Device
// pointers, owned by the caller. Threads: any; work is queued on the stream.
//
// Invariants:
// 1. An expert's list holds the step's rows that go to it, ascending, and begins at a multiple of
//    `tile`; what lies behind it up to the next list, and behind the last one, is -1.
#ifndef REPRISE_KERNELS_CUDA_EXPERT_ROWS_H_
#define REPRISE_KERNELS_CUDA_EXPERT_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device/runtime.h"
#include "kernels/cuda/rows_view.h"

namespace reprise::cuda {

inline constexpr int kListedExpertsMax = 1024;

struct ExpertRowsArgs {
  const int32_t* ids = nullptr;  // [rows, per_row], distinct in a row; negative: nowhere
  int64_t rows = 0;
  int per_row = 0;
  int experts = 0;  // at most kListedExpertsMax
  int first = 0;    // id of the first of them; ids of others are nowhere
  int tile = 1;
  int32_t* counts = nullptr;    // [experts]
  int32_t* begins = nullptr;    // [experts + 1], of the lists; the last is the end of all
  int32_t* row_of = nullptr;    // [ExpertRowsMax]: the lists
  int32_t* place_of = nullptr;  // [rows, per_row]: where the row stands in the lists; -1: nowhere
  void* scratch = nullptr;      // ExpertRowsScratchBytes
};
// Below 2^31.
int64_t ExpertRowsMax(const ExpertRowsArgs& args);
size_t ExpertRowsScratchBytes(const ExpertRowsArgs& args);
int ListExpertRows(const ExpertRowsArgs& args, Stream stream);

// y row r = base row r + sum, where sum begins as 0 and takes fma(weight, x row place, sum) for the
// row's experts in turn: the CPU's bits (add_scaled for ascending experts).
struct SumExpertsArgs {
  ConstRows x;  // rows as the lists have them
  const int32_t* place_of = nullptr;
  const float* weights = nullptr;  // [rows, per_row]
  ConstRows base;                  // data null: none
  Rows y;                          // may be base, of the same type
  int64_t rows = 0;
  int64_t cols = 0;
  int per_row = 0;
};
int SumExperts(const SumExpertsArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_EXPERT_ROWS_H_
