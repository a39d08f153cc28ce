// What every subcommand of the reprise binary shares: the entry signature, flag parsing with
// --help, signals, and the file a role writes when it is ready. Used from the main thread.
#ifndef REPRISE_CLI_COMMAND_H_
#define REPRISE_CLI_COMMAND_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/flags.h"
#include "common/role.h"
#include "common/status.h"

namespace reprise::cli {

using Args = std::vector<std::string>;

struct Command {
  const char* name;
  const char* summary;
  // Returns the process's exit status.
  int (*run)(const Args& args);
};

// Parses; on --help prints it, on error prints it to stderr. Engaged: the exit status to return
// now. `positional` receives the other arguments; at most `positional_max` are allowed.
std::optional<int> ParseFlags(FlagSet& flags, const Args& args, size_t positional_max,
                              std::vector<std::string>* positional);

// Prints "reprise COMMAND: message" and returns the exit status for it.
int Fail(absl::string_view command, const Status& status);

// Blocks SIGINT and SIGTERM in this thread and those started later, and stops `signal` when one
// comes. Lives until the end of the process.
void StopOnSignals(StopSignal* signal);

// A role that is ready writes its addresses here, atomically, as one JSON object.
Status WriteReadyFile(const std::string& path, const RoleAddresses& addresses);
StatusOr<RoleAddresses> ReadReadyFile(const std::string& path);

// Where a cluster of this user keeps its addresses and logs unless told otherwise.
std::string DefaultStateDir();

// The gateway's address: `flag` when given, else what the running `reprise up` wrote.
StatusOr<std::string> FindGateway(const std::string& flag, const std::string& state_dir);
StatusOr<std::string> FindCoordinator(const std::string& flag, const std::string& state_dir);

}  // namespace reprise::cli

#endif  // REPRISE_CLI_COMMAND_H_
