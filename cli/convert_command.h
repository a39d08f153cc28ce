// reprise convert: a model of another kind of attention out of a Llama folder.
#ifndef REPRISE_CLI_CONVERT_COMMAND_H_
#define REPRISE_CLI_CONVERT_COMMAND_H_

#include "cli/command.h"

namespace reprise::cli {

int RunConvert(const Args& args);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_CONVERT_COMMAND_H_
