// The subcommand `reprise status`.
#ifndef REPRISE_CLI_STATUS_H_
#define REPRISE_CLI_STATUS_H_

#include "cli/command.h"

namespace reprise::cli {

int RunStatus(const Args& args);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_STATUS_H_
