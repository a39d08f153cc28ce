// The second half of a layer on a device: an MLP, or a mixture of experts.
#include "kernels/cuda/expert_rows.h"
#include "kernels/cuda/route.h"
#include "kernels/cuda/rows.h"
#include "worker/device/device_model.h"

namespace reprise::worker {

// y = residual + the MLP of x, or this rank's part of that.
Status DeviceModel::Mlp(const DeviceMlp& w, const uint16_t* x, const float* residual, float* y) {
  const int64_t rows = step_.rows();
  const int64_t both = w.gate_up.view.n;
  ASSIGN_OR_RETURN(float* const gate_up, gate_up_.Get<float>(rows * both));
  ASSIGN_OR_RETURN(uint16_t* const activated, activated_.Get<uint16_t>(rows * (both / 2)));
  RETURN_IF_ERROR(Multiply(w.gate_up, Rows(x, rows, config_.hidden), {.f32 = gate_up}));
  RETURN_IF_ERROR(DeviceStatus(cuda::Swiglu({.gate = {gate_up, both, false},
                                             .up = {gate_up + both / 2, both, false},
                                             .y = {activated, both / 2, true},
                                             .rows = rows,
                                             .cols = both / 2},
                                            stream_),
                               "swiglu"));
  return MultiplyPart(w.down, Rows(activated, rows, both / 2), residual, y);
}

// Rows are sorted by expert, so that each expert's matrices are read once, and every row adds its
// experts with ascending ids. A rank that has some of the experts adds those.
Status DeviceModel::Mixture(const DeviceMixture& w, const float* residual, float* y) {
  const ExpertMixture& m = *config_.mixture;
  const int64_t rows = step_.rows();
  const int64_t hidden = config_.hidden;
  const int64_t choices = rows * m.per_token;
  ASSIGN_OR_RETURN(uint16_t* const normed, normed_.Get<uint16_t>(rows * hidden));
  const int64_t logits_stride = w.gate.view.n;
  ASSIGN_OR_RETURN(float* const logits, gate_logits_.Get<float>(rows * logits_stride));
  ASSIGN_OR_RETURN(int32_t* const ids, expert_ids_.Get<int32_t>(choices));
  ASSIGN_OR_RETURN(float* const weights, expert_weights_.Get<float>(choices));
  RETURN_IF_ERROR(Multiply(w.gate, Rows(normed, rows, hidden), {.f32 = logits}));
  RETURN_IF_ERROR(DeviceStatus(cuda::Route({.logits = logits,
                                            .logits_stride = logits_stride,
                                            .rows = rows,
                                            .experts = static_cast<int>(m.experts),
                                            .sigmoid = m.sigmoid,
                                            .bias = w.bias.as<float>(),
                                            .groups = static_cast<int>(m.groups),
                                            .groups_kept = static_cast<int>(m.groups_kept),
                                            .per_row = static_cast<int>(m.per_token),
                                            .normalize = m.normalize,
                                            .scale = static_cast<float>(m.scale),
                                            .ids = ids,
                                            .weights = weights},
                                           stream_),
                               "routing"));
  cuda::ExpertRowsArgs lists;
  lists.ids = ids;
  lists.rows = rows;
  lists.per_row = static_cast<int>(m.per_token);
  lists.experts = static_cast<int>(w.own.size());
  lists.first = static_cast<int>(w.own.begin);
  ASSIGN_OR_RETURN(lists.counts, expert_counts_.Get<int32_t>(w.own.size()));
  ASSIGN_OR_RETURN(lists.begins, expert_begins_.Get<int32_t>(w.own.size() + 1));
  ASSIGN_OR_RETURN(lists.row_of, expert_rows_.Get<int32_t>(ExpertRowsMax(lists)));
  ASSIGN_OR_RETURN(lists.place_of, expert_places_.Get<int32_t>(choices));
  ASSIGN_OR_RETURN(lists.scratch, expert_scratch_.Get<uint8_t>(
                                      static_cast<int64_t>(ExpertRowsScratchBytes(lists))));
  RETURN_IF_ERROR(DeviceStatus(cuda::ListExpertRows(lists, stream_), "listing experts' rows"));

  ASSIGN_OR_RETURN(uint16_t* const taken, expert_x_.Get<uint16_t>(choices * hidden));
  RETURN_IF_ERROR(DeviceStatus(cuda::CopyRows({.x = normed,
                                               .x_stride_bytes = hidden * 2,
                                               .y = taken,
                                               .y_stride_bytes = hidden * 2,
                                               .from = lists.row_of,
                                               .rows = choices,
                                               .row_bytes = hidden * 2},
                                              stream_),
                               "taking experts' rows"));
  const cuda::GemmGroups groups = {lists.begins};
  const int64_t both = w.gate_up.view.n;
  ASSIGN_OR_RETURN(float* const gate_up, gate_up_.Get<float>(choices * both));
  ASSIGN_OR_RETURN(uint16_t* const activated, activated_.Get<uint16_t>(choices * (both / 2)));
  ASSIGN_OR_RETURN(float* const out, expert_out_.Get<float>(choices * hidden));
  RETURN_IF_ERROR(Multiply(w.gate_up, Rows(taken, choices, hidden), {.f32 = gate_up}, groups));
  RETURN_IF_ERROR(DeviceStatus(cuda::Swiglu({.gate = {gate_up, both, false},
                                             .up = {gate_up + both / 2, both, false},
                                             .y = {activated, both / 2, true},
                                             .rows = choices,
                                             .cols = both / 2},
                                            stream_),
                               "swiglu"));
  RETURN_IF_ERROR(Multiply(w.down, Rows(activated, choices, both / 2), {.f32 = out}, groups));
  if (w.shared) {
    RETURN_IF_ERROR(Mlp(*w.shared, normed, residual, y));
    residual = y;
  }
  return DeviceStatus(cuda::SumExperts({.x = {out, hidden, false},
                                        .place_of = lists.place_of,
                                        .weights = weights,
                                        .base = {residual, hidden, false},
                                        .y = {y, hidden, false},
                                        .rows = rows,
                                        .cols = hidden,
                                        .per_row = static_cast<int>(m.per_token)},
                                       stream_),
                      "summing experts");
}

}  // namespace reprise::worker
