// reprise drain: takes a node out of a cluster without losing what it does.
#ifndef REPRISE_CLI_DRAIN_H_
#define REPRISE_CLI_DRAIN_H_

#include "cli/command.h"

namespace reprise::cli {

int RunDrain(const Args& args);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_DRAIN_H_
