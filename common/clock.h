// Monotonic time as one integer type, read through an interface so that deadlines can be tested
// without waiting. Owned by whoever creates it; RealClock lives as long as the process. Any thread.
#ifndef REPRISE_COMMON_CLOCK_H_
#define REPRISE_COMMON_CLOCK_H_

#include <atomic>
#include <cstdint>

namespace reprise {

// Nanoseconds. As an instant: since an arbitrary point, comparable within one process only.
using TimeNs = int64_t;

inline constexpr TimeNs kMicrosecond = 1'000;
inline constexpr TimeNs kMillisecond = 1'000 * kMicrosecond;
inline constexpr TimeNs kSecond = 1'000 * kMillisecond;
inline constexpr TimeNs kMinute = 60 * kSecond;

constexpr double MsFromNs(TimeNs ns) { return static_cast<double>(ns) / kMillisecond; }
constexpr double SecondsFromNs(TimeNs ns) { return static_cast<double>(ns) / kSecond; }
// Saturates, so a deadline computed from an absurd number stays an absurdly late deadline.
constexpr TimeNs NsFromMs(int64_t ms) {
  if (ms > INT64_MAX / kMillisecond) return INT64_MAX;
  if (ms < INT64_MIN / kMillisecond) return INT64_MIN;
  return ms * kMillisecond;
}

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimeNs NowNs() const = 0;
};

// CLOCK_MONOTONIC.
Clock& RealClock();
// Processor time of the calling thread, for differences on one thread: what others run meanwhile
// does not count.
Clock& ThreadCpuClock();

// Since 1970: for numbers that must be higher in a later process.
uint64_t WallClockMicroseconds();

// Moves only when told.
class ManualClock : public Clock {
 public:
  explicit ManualClock(TimeNs now = 0) : now_(now) {}
  TimeNs NowNs() const override { return now_.load(std::memory_order_acquire); }
  void Advance(TimeNs by) { now_.fetch_add(by, std::memory_order_acq_rel); }
  void Set(TimeNs now) { now_.store(now, std::memory_order_release); }

 private:
  std::atomic<TimeNs> now_;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_CLOCK_H_
