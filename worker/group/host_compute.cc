#include "worker/group/host_compute.h"

#include "worker/parallel/context/stripes.h"

namespace reprise::worker {

Status HostCompute::AttachPool(uint8_t* base, int32_t) {
  model_->AttachPool(reinterpret_cast<std::byte*>(base));
  return absl::OkStatus();
}

Status HostCompute::SetLinks(const GroupLinks& links) {
  context_.reset();
  ModelRanks ranks{.tensor = links.tensor.get(), .pipeline = links.pipeline.get()};
  if (links.context != nullptr) {
    ASSIGN_OR_RETURN(const parallel::Stripes stripes,
                     parallel::Stripes::Make(static_cast<int>(links.split.context),
                                             static_cast<int64_t>(links.split.stripe_leaves)));
    context_.emplace(*links.context, model_->ops(), stripes, parallel::ContextRules{});
    ranks.context = &*context_;
  }
  model_->SetRanks(ranks);
  return absl::OkStatus();
}

}  // namespace reprise::worker
