// ucontext makes the first entry; after it _setjmp and _longjmp switch, which make no system call.
#undef _FORTIFY_SOURCE  // its longjmp refuses to leave a stack for another
#include "kernels/cuda/emulator/fiber.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define REPRISE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define REPRISE_ASAN 1
#endif
#endif
#if defined(REPRISE_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

namespace reprise::cuda::emulator {

// A stack with a loop on it that runs one fiber after the other: a grid makes thousands, and making
// a context anew costs two system calls each time.
struct Fiber::Context {
  Context() {
    stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) abort();
  }
  ~Context() { munmap(stack, kStackBytes); }

  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
  void* stack = nullptr;
  bool looping = false;  // there is something on the stack
  ucontext_t start;
  jmp_buf inside;
  jmp_buf outside;
  bool started = false;
  bool ended = false;
#if defined(REPRISE_ASAN)
  void* fake_inside = nullptr;
  void* fake_outside = nullptr;
  const void* outside_bottom = nullptr;
  size_t outside_bytes = 0;
#endif

  void EnterFiber() {
#if defined(REPRISE_ASAN)
    __sanitizer_start_switch_fiber(&fake_outside, stack, kStackBytes);
#endif
  }
  void EnteredFiber() {
#if defined(REPRISE_ASAN)
    __sanitizer_finish_switch_fiber(fake_inside, &outside_bottom, &outside_bytes);
#endif
  }
  void LeaveFiber() {
#if defined(REPRISE_ASAN)
    __sanitizer_start_switch_fiber(&fake_inside, outside_bottom, outside_bytes);
#endif
  }
  void LeftFiber() {
#if defined(REPRISE_ASAN)
    __sanitizer_finish_switch_fiber(fake_outside, nullptr, nullptr);
#endif
  }

  // makecontext passes ints, so the pointer comes in two.
  static void Run(unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Context*>((static_cast<uintptr_t>(high) << 32) | low);
    self->EnteredFiber();
    for (;;) {
      self->entry(self->argument);
      self->ended = true;
      if (_setjmp(self->inside) == 0) {
        self->LeaveFiber();
        _longjmp(self->outside, 1);
      }
      self->EnteredFiber();
    }
  }
};

// Contexts whose fibers have ended.
std::vector<std::unique_ptr<Fiber::Context>>& Fiber::Idle() {
  thread_local std::vector<std::unique_ptr<Context>> idle;
  return idle;
}

Fiber::Fiber(void (*entry)(void*), void* argument) {
  auto& idle = Idle();
  if (idle.empty()) {
    context_ = std::make_unique<Context>();
  } else {
    context_ = std::move(idle.back());
    idle.pop_back();
  }
  context_->entry = entry;
  context_->argument = argument;
  context_->started = context_->ended = false;
}

Fiber::~Fiber() {
  // One that never ran, or has ended, can run another; what is half-way cannot.
  if (context_->ended || !context_->started) Idle().push_back(std::move(context_));
}

bool Fiber::started() const { return context_->started; }
bool Fiber::ended() const { return context_->ended; }

void Fiber::Resume() {
  Context& c = *context_;
  if (_setjmp(c.outside) == 0) {
    c.EnterFiber();
    c.started = true;
    if (c.looping) _longjmp(c.inside, 1);
    c.looping = true;
    getcontext(&c.start);
    c.start.uc_stack.ss_sp = c.stack;
    c.start.uc_stack.ss_size = kStackBytes;
    c.start.uc_link = nullptr;
    const auto self = reinterpret_cast<uintptr_t>(&c);
    makecontext(&c.start, reinterpret_cast<void (*)()>(&Context::Run), 2,
                static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
    setcontext(&c.start);
  }
  c.LeftFiber();
}

void Fiber::Suspend() {
  Context& c = *context_;
  if (_setjmp(c.inside) == 0) {
    c.LeaveFiber();
    _longjmp(c.outside, 1);
  }
  c.EnteredFiber();
}

}  // namespace reprise::cuda::emulator
