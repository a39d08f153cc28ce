// All finite logits of a row in the order of kernels' top_k (logit descending, id ascending), for
// nuclei too wide for a heap: a stable radix sort, linear in the vocabulary. Pure; any thread.
#ifndef REPRISE_WORKER_ENGINE_SORT_LOGITS_H_
#define REPRISE_WORKER_ENGINE_SORT_LOGITS_H_

#include <span>
#include <vector>

#include "kernels/ops.h"

namespace reprise::worker {

// NaN and -inf are left out; +0 and -0 are equal.
void SortLogits(std::span<const float> logits, std::vector<kernels::Candidate>* sorted);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_SORT_LOGITS_H_
