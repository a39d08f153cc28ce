#include "worker/parallel/peer_channel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/limits.h"

namespace reprise::parallel {
namespace {

bool Large(uint64_t bytes) { return bytes > limits::kGroupInlineBytesMax; }

}  // namespace

void PeerChannel::Break(const Status& cause) {
  if (!std::exchange(broken_, true)) out_->Broken(cause);
}

// ---- Sending. ----

void PeerChannel::PostSend(const CallTag& tag, std::span<const uint8_t> data, BatchId batch) {
  unsent_.push_back({next_send_++, tag, data, batch});
  CheckLeft();
  Pump();
}

void PeerChannel::Pump() {
  while (!broken_ && !unsent_.empty() &&
         unsent_.front().sequence <= peer_consumed_ + limits::kGroupWindow) {
    const Sending sending = unsent_.front();
    unsent_.pop_front();
    wire::Data data{sending.sequence, sending.tag, sending.data.size(), {}};
    if (!Large(data.bytes)) data.payload.assign(sending.data.begin(), sending.data.end());
    out_->Emit(peer_, std::move(data));
    if (!Large(sending.data.size())) {
      out_->Finished(sending.batch);
      continue;
    }
    large_[sending.sequence] = sending;
    const auto ready = early_ready_.extract(sending.sequence);
    if (!ready.empty()) BeginBulk(sending, ready.mapped());
  }
}

void PeerChannel::BeginBulk(const Sending& sending, const wire::Ready& ready) {
  if (ready.tag == sending.tag && ready.bytes == sending.data.size()) {
    out_->EmitBulk(peer_, sending.sequence, sending.data);
  } else {
    Break(Disagreement(self_, sending.tag, sending.data.size(), peer_, ready.tag, ready.bytes));
  }
}

void PeerChannel::OnReady(const wire::Ready& ready) {
  if (broken_) return;
  const auto found = large_.find(ready.sequence);
  if (found != large_.end()) return BeginBulk(found->second, ready);
  const uint64_t announced = unsent_.empty() ? next_send_ : unsent_.front().sequence;
  if (ready.sequence < announced) return;  // what was sent is small: the receiver says so
  if (early_ready_.size() >= 2 * limits::kGroupWindow) {
    return Break(absl::InvalidArgumentError(
        absl::StrCat("rank ", peer_, " is ready for more than ", 2 * limits::kGroupWindow,
                     " messages that rank ", self_, " has not sent")));
  }
  early_ready_[ready.sequence] = ready;
}

void PeerChannel::OnConsumed(uint64_t sequence) {
  if (broken_) return;
  if (sequence >= next_send_ || sequence < peer_consumed_) {
    return Break(absl::InvalidArgumentError(
        absl::StrCat("rank ", peer_, " has taken message ", sequence, " of ", next_send_ - 1)));
  }
  peer_consumed_ = sequence;
  Pump();
}

void PeerChannel::OnBulkSent(uint64_t sequence) {
  const auto sent = large_.extract(sequence);
  if (!broken_ && !sent.empty()) out_->Finished(sent.mapped().batch);
}

// ---- Receiving. ----

void PeerChannel::PostReceive(const CallTag& tag, std::span<uint8_t> data, BatchId batch) {
  awaited_.push_back({next_receive_++, tag, data, batch});
  TellReady();
  Match();
  CheckLeft();
}

void PeerChannel::TellReady() {
  // Data of a sequence beyond the window cannot have come, so its receive is still awaited.
  while (!broken_ && readied_ + 1 < next_receive_ &&
         readied_ + 1 < next_arrival_ + limits::kGroupWindow) {
    ++readied_;
    if (awaited_.empty() || readied_ < awaited_.front().sequence) continue;
    const Receiving& receiving = awaited_[readied_ - awaited_.front().sequence];
    if (Large(receiving.data.size())) {
      out_->Emit(peer_, wire::Ready{receiving.sequence, receiving.tag, receiving.data.size()});
    }
  }
}

void PeerChannel::OnData(wire::Data data) {
  if (broken_) return;
  if (data.sequence != next_arrival_ || arrived_.size() >= limits::kGroupWindow) {
    return Break(absl::InvalidArgumentError(
        absl::StrCat("rank ", peer_, " sent message ", data.sequence, ", expected ", next_arrival_,
                     "; ", arrived_.size(), " wait, the limit is ", limits::kGroupWindow)));
  }
  TellReady();
  ++next_arrival_;
  arrived_.push_back(std::move(data));
  TellReady();
  Match();
}

void PeerChannel::Match() {
  while (!broken_ && !arrived_.empty() && !awaited_.empty()) {
    const wire::Data data = std::move(arrived_.front());
    const Receiving receiving = awaited_.front();
    arrived_.pop_front();
    awaited_.pop_front();
    if (data.tag != receiving.tag || data.bytes != receiving.data.size()) {
      return Break(
          Disagreement(peer_, data.tag, data.bytes, self_, receiving.tag, receiving.data.size()));
    }
    ++consumed_;
    if (Large(data.bytes)) {
      incoming_[data.sequence] = receiving;
      continue;
    }
    if (data.bytes > 0) std::memcpy(receiving.data.data(), data.payload.data(), data.bytes);
    out_->Finished(receiving.batch);
  }
  TellConsumed();
}

void PeerChannel::TellConsumed() {
  if (broken_ || consumed_ - told_ < limits::kGroupWindow / 2) return;
  told_ = consumed_;
  out_->Emit(peer_, wire::Consumed{consumed_});
}

uint8_t* PeerChannel::OnBulk(uint64_t sequence, size_t bytes) {
  const auto found = incoming_.find(sequence);
  if (broken_ || found == incoming_.end() || found->second.data.size() != bytes ||
      std::exchange(found->second.landing, true)) {
    return nullptr;
  }
  return found->second.data.data();
}

void PeerChannel::OnBulkReceived(uint64_t sequence) {
  const auto received = incoming_.extract(sequence);
  if (!broken_ && !received.empty()) out_->Finished(received.mapped().batch);
}

// ---- The peer's end. ----

void PeerChannel::OnBye() {
  peer_left_ = true;
  CheckLeft();
}

void PeerChannel::CheckLeft() {
  if (!peer_left_) return;
  if (awaited_.empty() && unsent_.empty() && large_.empty() && incoming_.empty()) return;
  Break(absl::UnavailableError(absl::StrCat("rank ", peer_, " has left")));
}

bool PeerChannel::WaitsIn(BatchId batch) const {
  const auto one = [batch](const auto& message) { return message.batch == batch; };
  const auto of_map = [batch](const auto& entry) { return entry.second.batch == batch; };
  return std::any_of(unsent_.begin(), unsent_.end(), one) ||
         std::any_of(awaited_.begin(), awaited_.end(), one) ||
         std::any_of(large_.begin(), large_.end(), of_map) ||
         std::any_of(incoming_.begin(), incoming_.end(), of_map);
}

}  // namespace reprise::parallel
