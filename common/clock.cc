#include "common/clock.h"

#include <time.h>

namespace reprise {
namespace {

template <clockid_t kId>
class SystemClock : public Clock {
 public:
  TimeNs NowNs() const override {
    timespec now;
    clock_gettime(kId, &now);
    return now.tv_sec * kSecond + now.tv_nsec;
  }
};

}  // namespace

Clock& RealClock() {
  // Never destroyed: used during exit.
  static auto& clock = *new SystemClock<CLOCK_MONOTONIC>;
  return clock;
}

Clock& ThreadCpuClock() {
  static auto& clock = *new SystemClock<CLOCK_THREAD_CPUTIME_ID>;
  return clock;
}

uint64_t WallClockMicroseconds() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>((now.tv_sec * kSecond + now.tv_nsec) / kMicrosecond);
}

}  // namespace reprise
