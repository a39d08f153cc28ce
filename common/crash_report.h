// What a process that crashes leaves in its log: the signal and the stack of the thread it hit.
#ifndef REPRISE_COMMON_CRASH_REPORT_H_
#define REPRISE_COMMON_CRASH_REPORT_H_

namespace reprise {

// Once, at the start of main, with its argv[0]. The process ends by the same signal as without.
// Under a sanitizer, whose own report says more, it does nothing.
void InstallCrashReport(const char* program);

// After something has set the signals' actions back to their defaults. Without a report before, it
// does nothing.
void RestoreCrashReport();

}  // namespace reprise

#endif  // REPRISE_COMMON_CRASH_REPORT_H_
