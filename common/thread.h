// A named thread that is joined when its owner goes, so no thread outlives what it uses. Stopping
// is the owner's business (close a queue, a gate, a flag) before destruction.
#ifndef REPRISE_COMMON_THREAD_H_
#define REPRISE_COMMON_THREAD_H_

#include <pthread.h>

#include <string>
#include <thread>
#include <utility>

#include "absl/strings/string_view.h"

namespace reprise {

class Thread {
 public:
  Thread() = default;
  // The kernel keeps the first 15 bytes of `name`.
  template <typename Function>
  Thread(absl::string_view name, Function&& function)
      : thread_([name = std::string(name.substr(0, 15)),
                 function = std::forward<Function>(function)]() mutable {
          pthread_setname_np(pthread_self(), name.c_str());
          function();
        }) {}
  Thread(Thread&&) noexcept = default;
  Thread& operator=(Thread&& other) noexcept {
    if (this != &other) {
      Join();
      thread_ = std::move(other.thread_);
    }
    return *this;
  }
  ~Thread() { Join(); }

  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  bool joinable() const { return thread_.joinable(); }

 private:
  std::thread thread_;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_THREAD_H_
