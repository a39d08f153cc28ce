// reprise plan: what a model's KV takes, how many machines it needs, whether DejaVu's split of
// prompts and tokens pays, and whether microbatches can swap. Pure arithmetic; contacts nobody.
#ifndef REPRISE_CLI_PLAN_COMMAND_H_
#define REPRISE_CLI_PLAN_COMMAND_H_

#include "cli/command.h"

namespace reprise::cli {

int RunPlan(const Args& args);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_PLAN_COMMAND_H_
