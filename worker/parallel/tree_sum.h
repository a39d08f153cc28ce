// The one order in which terms are added: a binary tree over the halves of the smallest power of
// two that holds them, aligned at zero; what is absent is left out, not added as zero. Three terms
// are (t0 + t1) + t2. Stateless; any thread.
#ifndef REPRISE_WORKER_PARALLEL_TREE_SUM_H_
#define REPRISE_WORKER_PARALLEL_TREE_SUM_H_

#include <cstddef>
#include <span>
#include <vector>

#include "kernels/cpu/denormals.h"

namespace reprise::parallel {

// terms[t] [n]; the sum is in terms[0], the others are lost. Denormals are flushed, as the kernels'
// joins do.
inline void TreeSum(std::span<float* const> terms, size_t n) {
  const kernels::DenormalsOff denormals_off;
  for (size_t stride = 1; stride < terms.size(); stride *= 2) {
    for (size_t left = 0; left + stride < terms.size(); left += 2 * stride) {
      float* sum = terms[left];
      const float* right = terms[left + stride];
      for (size_t i = 0; i < n; ++i) sum[i] = sum[i] + right[i];
    }
  }
}

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_TREE_SUM_H_
