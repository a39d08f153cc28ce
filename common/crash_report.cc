#include "common/crash_report.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "absl/debugging/symbolize.h"

namespace reprise {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
constexpr int kFramesMax = 64;

void Write(const char* text, int bytes) {
  const ssize_t ignored = write(STDERR_FILENO, text, static_cast<size_t>(bytes));
  static_cast<void>(ignored);
}

void WriteFrame(const void* pc) {
  // What returns here is the call before.
  const auto* const at = static_cast<const char*>(pc) - 1;
  char name[512];
  if (!absl::Symbolize(at, name, sizeof(name))) std::strcpy(name, "?");
  Dl_info where{};
  const char* file = "?";
  uintptr_t offset = reinterpret_cast<uintptr_t>(pc);
  if (dladdr(at, &where) != 0 && where.dli_fname != nullptr) {
    const char* const slash = std::strrchr(where.dli_fname, '/');
    file = slash != nullptr ? slash + 1 : where.dli_fname;
    offset -= reinterpret_cast<uintptr_t>(where.dli_fbase);
  }
  char line[1024];
  const int bytes = std::snprintf(line, sizeof(line), "    %s  (%s+0x%zx)\n", name, file,
                                  static_cast<size_t>(offset));
  Write(line, bytes);
}

// Not all of it may be called in a signal handler by the letter; a process that is lost anyway
// tries. The alarm ends what hangs.
void Report(int signal, siginfo_t* info, void*) {
  alarm(3);
  char line[128];
  const int bytes = std::snprintf(line, sizeof(line), "*** %s at address %p, thread %ld ***\n",
                                  sigabbrev_np(signal), info->si_addr, syscall(SYS_gettid));
  Write(line, bytes);
  void* frames[kFramesMax];
  const int count = backtrace(frames, kFramesMax);
  for (int i = 0; i < count; ++i) WriteFrame(frames[i]);
  raise(signal);  // its action is the default again
}

std::atomic<bool> installed{false};

void TakeSignals() {
  struct sigaction action {};
  action.sa_sigaction = &Report;
  action.sa_flags = static_cast<int>(SA_SIGINFO | SA_RESETHAND | SA_NODEFER);
  for (const int signal : kSignals) sigaction(signal, &action, nullptr);
}

}  // namespace

void InstallCrashReport(const char* program) {
#ifndef REPRISE_SANITIZER
  absl::InitializeSymbolizer(program);
  void* frame = nullptr;
  backtrace(&frame, 1);  // loads the unwinder, which must not happen in a handler
  installed = true;
  TakeSignals();
#else
  static_cast<void>(program);
#endif
}

void RestoreCrashReport() {
  if (installed) TakeSignals();
}

}  // namespace reprise
