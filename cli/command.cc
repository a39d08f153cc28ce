#include "cli/command.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "common/json.h"

namespace reprise::cli {
namespace {

constexpr size_t kReadyFileBytesMax = 4096;

StatusOr<std::string> FindAddress(const std::string& state_dir, const char* role,
                                  const char* flag) {
  const auto ready = ReadReadyFile(absl::StrCat(state_dir, "/", role, ".ready"));
  if (!ready.ok()) {
    return absl::NotFoundError(absl::StrCat("no running cluster in ", state_dir,
                                            "; start one with `reprise up MODEL` or give --", flag,
                                            "=HOST:PORT"));
  }
  return ready->grpc;
}

}  // namespace

std::optional<int> ParseFlags(FlagSet& flags, const Args& args, size_t positional_max,
                              std::vector<std::string>* positional) {
  const auto rest = flags.Parse(args);
  if (flags.help_requested()) {
    std::fputs(flags.Help().c_str(), stdout);
    return 0;
  }
  if (!rest.ok()) {
    std::fprintf(stderr, "%s\n", std::string(rest.status().message()).c_str());
    return 2;
  }
  if (rest->size() > positional_max) {
    std::fprintf(stderr, "unexpected argument \"%s\" (see --help)\n",
                 (*rest)[positional_max].c_str());
    return 2;
  }
  if (positional != nullptr) *positional = *rest;
  return std::nullopt;
}

int Fail(absl::string_view command, const Status& status) {
  std::fprintf(stderr, "reprise %s: %s\n", std::string(command).c_str(),
               std::string(status.message()).c_str());
  return 1;
}

void StopOnSignals(StopSignal* signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([signal, set] {
    int received = 0;
    sigwait(&set, &received);
    signal->Stop();
  }).detach();
}

Status WriteReadyFile(const std::string& path, const RoleAddresses& addresses) {
  const std::string temporary = absl::StrCat(path, ".", getpid());
  {
    std::ofstream out(temporary, std::ios::trunc);
    out << JsonWriter()
               .Field("grpc", addresses.grpc)
               .Field("kv", addresses.kv)
               .Field("metrics", addresses.metrics)
               .Field("pid", int64_t{getpid()})
               .Take()
        << "\n";
    if (!out) return absl::UnavailableError(absl::StrCat("cannot write ", temporary));
  }
  std::error_code error;
  std::filesystem::rename(temporary, path, error);
  return error ? absl::UnavailableError(absl::StrCat(path, ": ", error.message()))
               : absl::OkStatus();
}

StatusOr<RoleAddresses> ReadReadyFile(const std::string& path) {
  std::ifstream in(path);
  if (!in) return absl::NotFoundError(absl::StrCat(path, " does not exist"));
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  JsonLimits limits;
  limits.bytes_max = kReadyFileBytesMax;
  ASSIGN_OR_RETURN(const JsonDocument doc, ParseJson(text, limits));
  RoleAddresses addresses;
  ASSIGN_OR_RETURN(addresses.grpc, GetString(doc, "grpc", ""));
  ASSIGN_OR_RETURN(addresses.kv, GetString(doc, "kv", ""));
  ASSIGN_OR_RETURN(addresses.metrics, GetString(doc, "metrics", ""));
  return addresses;
}

std::string DefaultStateDir() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");  // the command line reads the environment
  if (runtime != nullptr && *runtime != '\0') return absl::StrCat(runtime, "/reprise");
  return absl::StrCat("/tmp/reprise-", getuid());
}

StatusOr<std::string> FindGateway(const std::string& flag, const std::string& state_dir) {
  if (!flag.empty()) return flag;
  return FindAddress(state_dir, "gateway", "gateway");
}

StatusOr<std::string> FindCoordinator(const std::string& flag, const std::string& state_dir) {
  if (!flag.empty()) return flag;
  return FindAddress(state_dir, "coordinator", "coordinator");
}

}  // namespace reprise::cli
