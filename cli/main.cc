// The reprise binary: one subcommand per role and per thing people do with a cluster.
#include <cstdio>
#include <string>

#include "cli/client_commands.h"
#include "cli/command.h"
#include "cli/convert_command.h"
#include "cli/drain.h"
#include "cli/model_commands.h"
#include "cli/plan_command.h"
#include "cli/roles.h"
#include "cli/status.h"
#include "cli/up.h"
#include "common/crash_report.h"
#include "common/process_tuning.h"

namespace reprise::cli {
namespace {

constexpr Command kCommands[] = {
    {"up", "serve a model from a whole cluster on this machine", RunUp},
    {"generate", "stream a completion to the terminal", RunGenerate},
    {"tokenize", "text to token ids", RunTokenize},
    {"detokenize", "token ids to text", RunDetokenize},
    {"status", "show every process of a cluster", RunStatus},
    {"drain", "take a node out of a cluster without losing what it does", RunDrain},
    {"bench", "load a gateway and measure it", RunBench},
    {"make-model", "write a model folder with random weights", RunMakeModel},
    {"plan", "compute KV memory, machines, split and swapping for a model", RunPlan},
    {"check", "look a model folder over", RunCheck},
    {"convert", "write a model with latent attention or fewer KV heads", RunConvert},
    {"coordinator", "run the coordinator role", RunCoordinatorCommand},
    {"gateway", "run the gateway role", RunGatewayCommand},
    {"worker", "run the worker role", RunWorkerCommand},
    {"rank", "run a further rank of a worker's group", RunRankCommand},
    {"kvstore", "run the KV store role", RunStoreCommand},
};

void PrintHelp(FILE* out) {
  std::fprintf(out, "usage: reprise COMMAND [flags]   (reprise COMMAND --help)\n\n");
  for (const Command& command : kCommands) {
    std::fprintf(out, "  %-12s %s\n", command.name, command.summary);
  }
}

int Main(int argc, char** argv) {
  if (argc < 2) {
    PrintHelp(stderr);
    return 2;
  }
  const std::string name = argv[1];
  if (name == "--help" || name == "-h" || name == "help") {
    PrintHelp(stdout);
    return 0;
  }
  if (name == "--version") {
    std::printf("reprise 0.1.0\n");
    return 0;
  }
  const Args args(argv + 2, argv + argc);
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run(args);
  }
  std::fprintf(stderr, "reprise: no command \"%s\"\n\n", name.c_str());
  PrintHelp(stderr);
  return 2;
}

}  // namespace
}  // namespace reprise::cli

int main(int argc, char** argv) {
  reprise::InstallCrashReport(argv[0]);
  reprise::TuneProcess();
  return reprise::cli::Main(argc, argv);
}
