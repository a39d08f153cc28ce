// Models a link of a given rate: tells when a payload handed over now would have crossed it. Owned
// by the serving side; one thread.
#ifndef REPRISE_KVSTORE_STREAM_PACER_H_
#define REPRISE_KVSTORE_STREAM_PACER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "common/clock.h"

namespace reprise::kv {

class Pacer {
 public:
  explicit Pacer(int64_t bytes_per_s) : bytes_per_s_(bytes_per_s) {}

  bool active() const { return bytes_per_s_ > 0; }
  // A timer that fires late must not slow the link down, so a payload handed over within this of
  // the link becoming free counts as handed over then.
  static constexpr TimeNs kSlackNs = kMillisecond;

  TimeNs Cross(TimeNs now_ns, size_t bytes) {
    const TimeNs start_ns = std::max(free_at_ns_, now_ns - kSlackNs);
    free_at_ns_ = start_ns + static_cast<TimeNs>(static_cast<double>(bytes) * 1e9 /
                                                 static_cast<double>(bytes_per_s_));
    return free_at_ns_;
  }

 private:
  const int64_t bytes_per_s_;
  TimeNs free_at_ns_ = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_PACER_H_
