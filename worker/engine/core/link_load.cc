#include "worker/engine/core/link_load.h"

#include <algorithm>

namespace reprise::worker {
namespace {

// Less tells of the latency, more of the rate.
constexpr int64_t kLargeBytes = 256 << 10;
constexpr double kNew = 0.3;

}  // namespace

void LinkLoad::Advance(TimeNs now) {
  const double passed = open_.empty() ? 0 : SecondsFromNs(std::max<TimeNs>(0, now - at_ns_));
  at_ns_ = std::max(at_ns_, now);
  const double share = passed / static_cast<double>(std::max<size_t>(1, open_.size()));
  for (auto& [id, transfer] : open_) {
    transfer.service_s += share;
    transfer.left = std::max(0.0, transfer.left - share * rate_.per_s());
  }
}

void LinkLoad::Begin(uint64_t transfer, int64_t bytes, TimeNs now) {
  Advance(now);
  open_.emplace(transfer, Open{static_cast<double>(bytes), 0});
}

void LinkLoad::End(uint64_t transfer, int64_t arrived, TimeNs now) {
  Advance(now);
  const auto node = open_.extract(transfer);
  if (node.empty() || arrived <= 0) return;
  const double service = node.mapped().service_s;
  const double latency = SecondsFromNs(latency_ns_);
  if (arrived >= kLargeBytes) {
    rate_.Add(static_cast<double>(arrived),
              std::max(1e-9, service - std::min(service / 2, latency)));
    return;
  }
  const double beside = std::max(0.0, service - static_cast<double>(arrived) / rate_.per_s());
  latency_ns_ += static_cast<TimeNs>(kNew * (beside - latency) * static_cast<double>(kSecond));
}

int64_t LinkLoad::Backlog(TimeNs now) {
  Advance(now);
  double left = 0;
  for (const auto& [id, transfer] : open_) left += transfer.left;
  return static_cast<int64_t>(left);
}

int64_t LinkLoad::Contending(int64_t bytes, TimeNs now) {
  Advance(now);
  double before = 0;
  for (const auto& [id, transfer] : open_) {
    before += std::min(transfer.left, static_cast<double>(bytes));
  }
  return static_cast<int64_t>(before);
}

}  // namespace reprise::worker
