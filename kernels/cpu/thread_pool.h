// The compute threads, created once and owned by whoever owns the engine. ParallelFor cuts [0, n)
// into one contiguous range per thread, always the same way, so nothing about the split depends on
// timing.
//
// Threads: ParallelFor from one thread at a time, never from inside a task.
// Invariants:
// 1. Tasks run with denormals off, on the pool's threads and on the caller alike.
// 2. Waiting spins for at most about 20 us, then sleeps in the kernel: an idle pool uses no CPU.
#ifndef REPRISE_KERNELS_CPU_THREAD_POOL_H_
#define REPRISE_KERNELS_CPU_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace reprise::kernels {

class ThreadPool {
 public:
  // `threads` >= 1 counts the caller, who takes the first range.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls fn(i) once for every i in [0, n) and returns when all are done. fn must not throw.
  template <class F>
  void ParallelFor(int64_t n, F&& fn) {
    using Fn = std::remove_reference_t<F>;
    Run(
        n, [](void* f, int64_t i) { (*static_cast<Fn*>(f))(i); }, &fn);
  }

 private:
  using Task = void (*)(void*, int64_t);

  void Run(int64_t n, Task task, void* context);
  void RunShare(int thread) const;
  void WorkerLoop(int thread);

  const int threads_;
  // The job: written by the caller while no worker runs, published by job_'s increment.
  int64_t n_ = 0;
  Task task_ = nullptr;
  void* context_ = nullptr;
  bool stop_ = false;
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) std::atomic<uint32_t> running_{0};
  std::vector<std::thread> workers_;
};

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_CPU_THREAD_POOL_H_
