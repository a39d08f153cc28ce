#include "gateway/server/link_watch.h"

namespace reprise::gateway {

void LinkWatch::Begin(TimeNs now) {
  watching_ = true;
  heard_ = moved_ = ticked_ = now;
}

void LinkWatch::OnMessage(uint64_t progress, bool busy, bool heartbeat, TimeNs now) {
  has_heartbeat_ = has_heartbeat_ || heartbeat;
  heard_ = now;
  if (!heartbeat) return;
  if (!busy || !busy_ || progress != progress_) moved_ = now;
  progress_ = progress;
  busy_ = busy;
}

LinkWatch::Verdict LinkWatch::OnTick(TimeNs now) {
  if (!watching_) return Verdict::kFine;
  const TimeNs late = now - ticked_ - kTickNs;
  ticked_ = now;
  if (late > kLateNs) {
    heard_ += late;
    moved_ += late;
  }
  if (now - heard_ >= kSilenceNs + (has_heartbeat_ ? 0 : kConnectNs)) return Verdict::kSilent;
  return busy_ && now - moved_ >= kStuckNs ? Verdict::kStuck : Verdict::kFine;
}

}  // namespace reprise::gateway
