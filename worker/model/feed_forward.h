// The second half of a layer, after its norm: an MLP, or a mixture of experts. Owned by the
// Transformer; one thread.
//
// A row's result depends on the row alone: its experts are added with ascending ids, whatever the
// batch, and nothing is dropped for capacity.
#ifndef REPRISE_WORKER_MODEL_FEED_FORWARD_H_
#define REPRISE_WORKER_MODEL_FEED_FORWARD_H_

#include <cstdint>
#include <vector>

#include "worker/model/model_config.h"
#include "worker/model/step.h"
#include "worker/model/weights.h"

namespace reprise::worker {

class FeedForward {
 public:
  explicit FeedForward(const ModelConfig& config) : config_(config) {}

  // Makes room for steps of `rows` rows.
  void Reserve(StepContext& step, const LayerWeights& layer, int64_t rows);
  // x += f(normed); both [step.rows, hidden].
  void Add(StepContext& step, const LayerWeights& layer, kernels::F32 normed, kernels::F32 x);

 private:
  // y = mlp(x) (+ residual); residual may be y.
  void Mlp(StepContext& step, const MlpWeights& w, kernels::F32 x, kernels::ConstF32 residual,
           kernels::F32 y);
  void AddMixture(StepContext& step, const MixtureWeights& w, kernels::F32 normed, kernels::F32 x);
  void RouteRows(StepContext& step, const MixtureWeights& w, kernels::F32 normed);
  // An expert of this rank, of the rows it was chosen by: out [its rows, hidden].
  void RunExpert(StepContext& step, const MixtureWeights& w, int64_t expert, kernels::F32 normed,
                 kernels::F32 out);
  // The same of all experts, each on its rank: by expert, then row [rows per_token, hidden].
  kernels::F32 RunExpertsOnRanks(StepContext& step, const MixtureWeights& w, kernels::F32 normed);

  const ModelConfig config_;
  RowBuffer gate_up_;  // [rows, 2 * intermediate]
  // Of a mixture.
  RowBuffer logits_;                           // [rows, experts]
  RowBuffer sum_;                              // [rows, hidden], what the experts gave so far
  RowBuffer taken_, out_;                      // [rows of an expert, hidden]: its input and output
  RowBuffer own_out_, all_out_;                // of experts on ranks
  std::vector<int64_t> first_row_;             // of an expert's in all_out_, and their end
  std::vector<int32_t> ids_;                   // [rows, per_token]
  std::vector<float> weights_;                 // [rows, per_token]
  std::vector<std::vector<int32_t>> rows_of_;  // by expert
  std::vector<std::vector<float>> weights_of_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_FEED_FORWARD_H_
