// Lets a test arm failpoints of a role's process: from REPRISE_FAILPOINTS at the start, and, on
// SIGUSR1, from the file that REPRISE_FAILPOINTS_FILE names. Main thread, before others start.
//
// Invariants:
// 1. Without one of the two variables nothing is armed and SIGUSR1 keeps its default action.
// 2. A line of the log at WARNING says what was armed.
// 3. The file is removed once its orders are armed or refused: that is the sender's answer.
#ifndef REPRISE_CLI_FAILPOINTS_H_
#define REPRISE_CLI_FAILPOINTS_H_

#include "common/status.h"

namespace reprise::cli {

// INVALID_ARGUMENT or NOT_FOUND when REPRISE_FAILPOINTS is not understood.
Status ArmFailpointsFromEnvironment();

}  // namespace reprise::cli

#endif  // REPRISE_CLI_FAILPOINTS_H_
