// A thread of control on a stack of its own, switched by hand. Owned by the emulator, which resumes
// fibers one at a time from one operating-system thread; a fiber that is destroyed half-way loses
// its stack without destructors being run.
#ifndef REPRISE_KERNELS_CUDA_EMULATOR_FIBER_H_
#define REPRISE_KERNELS_CUDA_EMULATOR_FIBER_H_

#include <cstddef>
#include <memory>
#include <vector>

namespace reprise::cuda::emulator {

class Fiber {
 public:
  static constexpr size_t kStackBytes = size_t{256} << 10;

  // `entry` runs at the first Resume and must not throw; its argument outlives the fiber.
  Fiber(void (*entry)(void*), void* argument);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  bool started() const;
  bool ended() const;
  // From outside: runs the fiber until it suspends itself or ends.
  void Resume();
  // From inside the fiber.
  void Suspend();

 private:
  struct Context;
  static std::vector<std::unique_ptr<Context>>& Idle();
  std::unique_ptr<Context> context_;
};

}  // namespace reprise::cuda::emulator

#endif  // REPRISE_KERNELS_CUDA_EMULATOR_FIBER_H_
