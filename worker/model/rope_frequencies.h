// The inverse frequencies of rotary position embedding for a configuration, with its scaling. Made
// of additions, multiplications and divisions alone, so every machine gets the same bits. Pure.
#ifndef REPRISE_WORKER_MODEL_ROPE_FREQUENCIES_H_
#define REPRISE_WORKER_MODEL_ROPE_FREQUENCIES_H_

#include <vector>

#include "worker/model/model_config.h"

namespace reprise::worker {

// theta^(-2 i / dims) for i in [0, dims / 2), dims = rotary_dim / rope_heads, scaled as
// rope_scaling says (Hugging Face's modeling_rope_utils.py, "linear" and "llama3"), the whole
// repeated rope_heads times. Relative error below 1e-13.
std::vector<double> RopeInverseFrequencies(const ModelConfig& config);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_ROPE_FREQUENCIES_H_
