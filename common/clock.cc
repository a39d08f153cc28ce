#include "common/clock.h"

#include <time.h>

namespace reprise {
namespace {

class MonotonicClock : public Clock {
 public:
  TimeNs NowNs() const override {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * kSecond + now.tv_nsec;
  }
};

}  // namespace

Clock& RealClock() {
  static MonotonicClock& clock = *new MonotonicClock;  // never destroyed: used during exit
  return clock;
}

}  // namespace reprise
