#include "common/crash_report.h"

#include <gtest/gtest.h>
#include <signal.h>

namespace reprise {
namespace {

[[gnu::noinline]] void CrashHere() { raise(SIGSEGV); }

TEST(CrashReport, NamesTheSignalAndTheStack) {
#ifdef REPRISE_SANITIZER
  GTEST_SKIP() << "a sanitizer reports crashes itself";
#endif
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        InstallCrashReport("/proc/self/exe");
        CrashHere();
      },
      testing::KilledBySignal(SIGSEGV), "\\*\\*\\* SEGV at address(.|\n)*CrashHere");
}

}  // namespace
}  // namespace reprise
