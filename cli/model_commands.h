// The subcommands about model folders: make-model, check.
#ifndef REPRISE_CLI_MODEL_COMMANDS_H_
#define REPRISE_CLI_MODEL_COMMANDS_H_

#include "cli/command.h"

namespace reprise::cli {

int RunMakeModel(const Args& args);
int RunCheck(const Args& args);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_MODEL_COMMANDS_H_
