// The subcommand `reprise up`.
#ifndef REPRISE_CLI_UP_H_
#define REPRISE_CLI_UP_H_

#include "cli/command.h"

namespace reprise::cli {

int RunUp(const Args& args);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_UP_H_
