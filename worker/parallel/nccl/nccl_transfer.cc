#include "worker/parallel/nccl/nccl_transfer.h"

namespace reprise::parallel {
namespace {

constexpr size_t kAlignment = 256;
size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Status NcclTransfer::Begin(std::span<const Outgoing> out, std::span<const Incoming> in) {
  const auto staged = [&](const auto& data) {
    return data.empty() || device_->OnDevice(data.data()) ? 0 : Aligned(data.size());
  };
  size_t bytes = 0;
  for (const Outgoing& one : out) bytes += staged(one.data);
  for (const Incoming& one : in) bytes += staged(one.data);
  ASSIGN_OR_RETURN(uint8_t * at, room_.Get(bytes));
  std::vector<NcclSend> sends;
  for (const Outgoing& one : out) {
    if (one.data.empty()) continue;
    const uint8_t* data = one.data.data();
    if (const size_t room = staged(one.data); room > 0) {
      RETURN_IF_ERROR(comm_->QueueCopy(data, at, one.data.size()));
      data = at;
      at += room;
    }
    sends.push_back({one.to, data, one.data.size()});
  }
  landings_.clear();
  std::vector<NcclReceive> receives;
  for (const Incoming& one : in) {
    if (one.data.empty()) continue;
    uint8_t* data = one.data.data();
    if (const size_t room = staged(one.data); room > 0) {
      landings_.push_back({at, one.data});
      data = at;
      at += room;
    }
    receives.push_back({one.from, data, one.data.size()});
  }
  if (sends.empty() && receives.empty()) return absl::OkStatus();
  phase_ = Phase::kMoving;
  return comm_->Exchange(sends, receives);
}

Status NcclTransfer::Poll() {
  if (phase_ == Phase::kNone) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool settled, comm_->Settled());
  if (!settled) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool idle, comm_->Idle());
  if (!idle) return absl::OkStatus();
  if (phase_ == Phase::kMoving && !landings_.empty()) {
    phase_ = Phase::kLanding;
    for (const Landing& landing : landings_) {
      RETURN_IF_ERROR(comm_->QueueCopy(landing.from, landing.to.data(), landing.to.size()));
    }
    return absl::OkStatus();
  }
  phase_ = Phase::kNone;
  return absl::OkStatus();
}

}  // namespace reprise::parallel
