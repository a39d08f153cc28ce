// The subcommands that talk to a gateway: generate, tokenize, detokenize, bench.
#ifndef REPRISE_CLI_CLIENT_COMMANDS_H_
#define REPRISE_CLI_CLIENT_COMMANDS_H_

#include "cli/command.h"

namespace reprise::cli {

int RunGenerate(const Args& args);
int RunTokenize(const Args& args);
int RunDetokenize(const Args& args);
int RunBench(const Args& args);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_CLIENT_COMMANDS_H_
