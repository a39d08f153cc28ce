// Judges one stream to a worker by what comes over it: silence, or a step that makes no progress.
// Pure: time is passed in. Owned by its link; one thread at a time.
//
// Invariants:
// 1. A worker is judged only while it has requests of ours; until its first heartbeat it has the
//    time of a connection more.
// 2. A judge that was not running cannot know who was silent: when OnTick comes late, every
//    deadline moves by the lateness.
// 3. Busy is not stuck: a worker whose progress counter moves is never failed.
#ifndef REPRISE_GATEWAY_SERVER_LINK_WATCH_H_
#define REPRISE_GATEWAY_SERVER_LINK_WATCH_H_

#include <cstdint>

#include "common/clock.h"
#include "common/limits.h"
#include "common/status.h"

namespace reprise::gateway {

class LinkWatch {
 public:
  static constexpr TimeNs kTickNs = 50 * kMillisecond;
  static constexpr TimeNs kLateNs = 50 * kMillisecond;  // lateness below this is not compensated
  static constexpr TimeNs kSilenceNs = limits::kServeSilenceMs * kMillisecond;
  static constexpr TimeNs kConnectNs = limits::kConnectMs * kMillisecond;
  static constexpr TimeNs kStuckNs = limits::kServeStuckMs * kMillisecond;

  enum class Verdict { kFine, kSilent, kStuck };

  // The worker has requests of ours from now on; OnTick is due every kTickNs.
  void Begin(TimeNs now);
  // It has none: nothing is due.
  void End() { watching_ = false; }
  void OnMessage(uint64_t progress, bool busy, bool heartbeat, TimeNs now);
  Verdict OnTick(TimeNs now);

 private:
  bool watching_ = false;
  bool has_heartbeat_ = false;
  uint64_t progress_ = 0;
  bool busy_ = false;
  TimeNs heard_ = 0;
  TimeNs moved_ = 0;  // last moment it was idle or its progress moved
  TimeNs ticked_ = 0;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_LINK_WATCH_H_
