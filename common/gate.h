// A gate (after Seastar's): work enters while it is open, and Close refuses newcomers and waits
// until everyone inside has left. Owned by the object whose shutdown it guards. Any thread.
#ifndef REPRISE_COMMON_GATE_H_
#define REPRISE_COMMON_GATE_H_

#include <cstdint>
#include <optional>
#include <utility>

#include "common/mutex.h"

namespace reprise {

class Gate {
 public:
  // Being inside; leaves on destruction. The gate must outlive it.
  class [[nodiscard]] Holder {
   public:
    Holder(Holder&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Holder& operator=(Holder&& other) noexcept {
      if (this != &other) {
        Release();
        gate_ = std::exchange(other.gate_, nullptr);
      }
      return *this;
    }
    ~Holder() { Release(); }

   private:
    friend class Gate;
    explicit Holder(Gate* gate) : gate_(gate) {}
    void Release() {
      if (Gate* gate = std::exchange(gate_, nullptr)) gate->Leave();
    }
    Gate* gate_;
  };

  Gate() = default;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  // Somebody still inside would outlive what the gate guards, so destruction waits too.
  ~Gate() { Close(); }

  // Empty once closed.
  std::optional<Holder> Enter() {
    MutexLock lock(mu_);
    if (closed_) return std::nullopt;
    ++inside_;
    return Holder(this);
  }

  // Returns when nobody is inside. May be called again. Never from inside: it would wait for
  // itself.
  void Close() {
    MutexLock lock(mu_);
    closed_ = true;
    while (inside_ > 0) empty_.Wait(mu_);
  }

  bool closed() const {
    MutexLock lock(mu_);
    return closed_;
  }
  int64_t inside() const {
    MutexLock lock(mu_);
    return inside_;
  }

 private:
  void Leave() {
    // Notified under the lock: after it, a closer may already have destroyed the gate.
    MutexLock lock(mu_);
    if (--inside_ == 0) empty_.NotifyAll();
  }

  mutable Mutex mu_;
  CondVar empty_;
  bool closed_ GUARDED_BY(mu_) = false;
  int64_t inside_ GUARDED_BY(mu_) = 0;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_GATE_H_
