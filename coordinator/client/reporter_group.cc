#include "coordinator/client/reporter_group.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/limits.h"

namespace reprise {

StatusOr<std::vector<std::string>> ParseCoordinators(const std::string& list) {
  std::vector<std::string> coordinators = absl::StrSplit(list, ',');
  if (coordinators.size() > limits::kCoordinatorsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        coordinators.size(), " coordinators are named, the limit is ", limits::kCoordinatorsMax));
  }
  for (size_t i = 0; i < coordinators.size(); ++i) {
    const auto before = coordinators.begin() + static_cast<ptrdiff_t>(i);
    if (coordinators[i].empty() || std::find(coordinators.begin(), before, *before) != before) {
      return absl::InvalidArgumentError(
          absl::StrCat("coordinators \"", list, "\" name an empty or repeated address"));
    }
  }
  return coordinators;
}

ReporterGroup::ReporterGroup(ReporterGroupOptions options, ReporterGroupHandlers handlers,
                             LeaderEpoch& epoch)
    : handlers_(std::move(handlers)), epoch_(epoch) {
  // Answers may come before the last reporter is made; they need none but epochs and the order.
  MutexLock lock(order_mu_);
  reporters_.reserve(options.coordinators.size());
  for (size_t i = 0; i < options.coordinators.size(); ++i) {
    ReporterOptions one;
    one.coordinator = options.coordinators[i];
    one.node = options.node;
    one.interval_ms = options.interval_ms;
    one.call_timeout_ms = options.call_timeout_ms;
    one.fenced = handlers_.fenced;
    one.leader_epoch = &epoch;
    reporters_.push_back(std::make_unique<Reporter>(
        std::move(one), [this, i](v1::ReportRequest* request) { handlers_.fill(i, request); },
        [this, i](const v1::ReportResponse& response) { OnAnswered(i, response); }));
  }
}

ReporterGroup::~ReporterGroup() { Stop(); }

void ReporterGroup::Wake() {
  for (const auto& reporter : reporters_) reporter->Wake();
}

void ReporterGroup::Wake(size_t index) { reporters_[index]->Wake(); }

void ReporterGroup::Stop() {
  for (const auto& reporter : reporters_) reporter->Stop();
}

bool ReporterGroup::connected() const { return reporters_[leader()]->connected(); }

void ReporterGroup::OnAnswered(size_t index, const v1::ReportResponse& response) {
  const bool again = handlers_.answered(index, response);
  MutexLock lock(order_mu_);
  if (again) reporters_[index]->Wake();
  if (response.standby()) {
    epoch_.Raise(response.leader_epoch());
    return;
  }
  if (!epoch_.Take(response.leader_epoch())) return;
  const size_t before = leader_.exchange(index, std::memory_order_acq_rel);
  if (std::exchange(heard_leader_, true) && before != index) {
    // What this one sent when it led before may have been overtaken by another's word.
    reporters_[index]->ForgetVersions();
    reporters_[index]->Wake();
  }
  if (handlers_.ordered) handlers_.ordered(index, response);
}

}  // namespace reprise
