#include "kernels/cpu/thread_pool.h"

#include <immintrin.h>

#include <chrono>

#include "kernels/cpu/denormals.h"

namespace reprise::kernels {
namespace {

constexpr std::chrono::microseconds kSpin(20);

// Returns once value differs from `old`.
void WaitWhile(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads < 1 ? 1 : threads) {
  workers_.reserve(static_cast<size_t>(threads_ - 1));
  for (int t = 1; t < threads_; ++t) workers_.emplace_back([this, t] { WorkerLoop(t); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunShare(int thread) const {
  const int64_t end = n_ * (thread + 1) / threads_;
  for (int64_t i = n_ * thread / threads_; i < end; ++i) task_(context_, i);
}

void ThreadPool::Run(int64_t n, Task task, void* context) {
  DenormalsOff denormals_off;
  if (threads_ == 1 || n <= 1) {
    for (int64_t i = 0; i < n; ++i) task(context, i);
    return;
  }
  n_ = n;
  task_ = task;
  context_ = context;
  running_.store(static_cast<uint32_t>(threads_ - 1), std::memory_order_relaxed);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  RunShare(0);
  for (uint32_t left = running_.load(std::memory_order_acquire); left != 0;
       left = running_.load(std::memory_order_acquire)) {
    WaitWhile(running_, left);
  }
}

void ThreadPool::WorkerLoop(int thread) {
  DenormalsOff denormals_off;
  for (uint32_t seen = 0;; ++seen) {
    WaitWhile(job_, seen);
    if (stop_) return;
    RunShare(thread);
    // The last one wakes the caller, who may have gone to sleep at any earlier count.
    running_.fetch_sub(1, std::memory_order_acq_rel);
    running_.notify_one();
  }
}

}  // namespace reprise::kernels
