#include "cli/failpoints.h"

#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

#include "absl/strings/ascii.h"
#include "common/failpoint.h"
#include "common/log.h"

namespace reprise::cli {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);  // the command line reads the environment
  return value == nullptr ? "" : value;
}

Status Arm(const std::string& orders) {
  RETURN_IF_ERROR(ArmFailpoints(orders));
  LogWarning("failpoints_armed", {{"orders", orders}});
  return absl::OkStatus();
}

void ArmFromFile(const std::string& path) {
  std::ifstream in(path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const Status status = Arm(std::string(absl::StripAsciiWhitespace(text)));
  if (!status.ok()) LogWarning("failpoints_refused", {{"orders", text}, {"status", status}});
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
}

}  // namespace

Status ArmFailpointsFromEnvironment() {
  if (const std::string orders = Environment("REPRISE_FAILPOINTS"); !orders.empty()) {
    RETURN_IF_ERROR(Arm(orders));
  }
  const std::string path = Environment("REPRISE_FAILPOINTS_FILE");
  if (path.empty()) return absl::OkStatus();
  LogWarning("failpoints_accepted_by_signal", {{"file", path}});
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  // The stopping signals too, which the role blocks next: this thread must not be the one they
  // meet.
  sigset_t blocked = set;
  sigaddset(&blocked, SIGINT);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  std::thread([path, set] {
    for (int received = 0; sigwait(&set, &received) == 0;) ArmFromFile(path);
  }).detach();
  return absl::OkStatus();
}

}  // namespace reprise::cli
