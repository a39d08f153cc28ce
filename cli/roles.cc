#include "cli/roles.h"

#include <cstdio>

#include "cli/failpoints.h"
#include "common/bind_policy.h"
#include "common/log.h"

namespace reprise::cli {

int RunRole(FlagSet& flags, RoleFlags& common, const Args& args,
            const std::function<Status(const RoleControl&)>& run) {
  flags.Add("ready-file", &common.ready_file, "written with the addresses once the role serves");
  flags.AddChoice("log-level", &common.log_level, {"debug", "info", "warning", "error"},
                  "lines below it are dropped");
  flags.Add("test-only-plaintext-beyond-loopback", &common.plaintext_beyond_loopback,
            "for tests with network namespaces: listens on any address, unprotected");
  if (const auto exit = ParseFlags(flags, args, 0, nullptr)) return *exit;
  if (const auto level = ParseLogSeverity(common.log_level); level.ok()) SetLogLevel(*level);
  if (const Status armed = ArmFailpointsFromEnvironment(); !armed.ok()) return Fail("role", armed);
  static StopSignal stop;
  StopOnSignals(&stop);
  LogInfo("starting", {{"options", flags.Echo()}});
  if (common.plaintext_beyond_loopback) {
    AllowPlaintextBeyondLoopback();
    LogWarning("plaintext_beyond_loopback",
               {{"flag", "--test-only-plaintext-beyond-loopback"},
                {"meaning", "anybody who reaches this process's addresses may use it"}});
  }
  Status ready_status;
  const RoleControl control{.stop = &stop, .ready = [&](const RoleAddresses& addresses) {
                              if (common.ready_file.empty()) {
                                std::printf("gRPC %s%s%s, metrics http://%s/metrics\n",
                                            addresses.grpc.c_str(),
                                            addresses.kv.empty() ? "" : ", KV stream ",
                                            addresses.kv.c_str(), addresses.metrics.c_str());
                                std::fflush(stdout);
                                return;
                              }
                              ready_status = WriteReadyFile(common.ready_file, addresses);
                              if (!ready_status.ok()) stop.Stop();
                            }};
  Status status = run(control);
  if (status.ok()) status = ready_status;
  if (!status.ok() && !absl::IsCancelled(status)) {
    LogError("failed", {{"status", status}});
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}

}  // namespace reprise::cli
