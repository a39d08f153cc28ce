// Runs the program's tests and ends with "N passed, M failed, K skipped".
#include <gtest/gtest.h>

int main() {
  int passed = 0;
  int failed = 0;
  int skipped = 0;
  for (const ::testing::Registered& test : ::testing::Tests()) {
    ::testing::Now() = {};
    {
      const std::unique_ptr<::testing::Test> instance = test.make();
      instance->SetUp();
      const ::testing::Outcome before = ::testing::Now();
      if (!before.failed && !before.skipped) instance->TestBody();
      instance->TearDown();
    }
    const ::testing::Outcome outcome = ::testing::Now();
    ++(outcome.failed ? failed : outcome.skipped ? skipped : passed);
    std::cout << (outcome.failed    ? "FAILED  "
                  : outcome.skipped ? "skipped "
                                    : "passed  ")
              << test.name << std::endl;
  }
  std::cout << passed << " passed, " << failed << " failed, " << skipped << " skipped\n";
  return failed == 0 ? 0 : 1;
}
