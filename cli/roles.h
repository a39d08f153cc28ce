// The subcommands that run one role each: coordinator, gateway, worker, rank,
// kvstore.
#ifndef REPRISE_CLI_ROLES_H_
#define REPRISE_CLI_ROLES_H_

#include <functional>

#include "cli/command.h"

namespace reprise::cli {

// What every role takes besides its own options.
struct RoleFlags {
  std::string ready_file;
  std::string log_level = "info";
  bool plaintext_beyond_loopback = false;  // tests only
};

// Declares the common flags, parses, echoes the options into the log and runs `run` until SIGINT or
// SIGTERM.
int RunRole(FlagSet& flags, RoleFlags& common, const Args& args,
            const std::function<Status(const RoleControl&)>& run);

int RunCoordinatorCommand(const Args& args);
int RunGatewayCommand(const Args& args);
int RunStoreCommand(const Args& args);
int RunWorkerCommand(const Args& args);
int RunRankCommand(const Args& args);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_ROLES_H_
