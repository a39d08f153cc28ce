// A wake-up for threads that wait in poll or epoll. Signals coalesce until drained. Owned by the
// waiting loop; Signal on any thread.
#ifndef REPRISE_COMMON_EVENT_FD_H_
#define REPRISE_COMMON_EVENT_FD_H_

#include "common/status.h"

namespace reprise {

class EventFd {
 public:
  static StatusOr<EventFd> Create();
  EventFd(EventFd&& other) noexcept;
  EventFd& operator=(EventFd&& other) noexcept;
  ~EventFd();

  void Signal();
  // True when signalled since the last drain.
  bool Drain();
  int fd() const { return fd_; }  // readable while signalled

 private:
  explicit EventFd(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_EVENT_FD_H_
