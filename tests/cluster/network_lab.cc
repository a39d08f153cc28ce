#include "tests/cluster/network_lab.h"

#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/clock.h"
#include "common/role.h"

namespace reprise::harness {
namespace {

constexpr TimeNs kCommandTimeoutNs = 10 * kSecond;
constexpr char kOrders[] = "orders";
constexpr char kKvSwitch[] = "kvs";

// Words with spaces between.
Status RunCommand(const std::string& command) {
  SubprocessOptions options;
  options.argv = absl::StrSplit(command, ' ');
  options.out = SubprocessOutput::File("/dev/null");
  ASSIGN_OR_RETURN(const auto process, Subprocess::Spawn(options));
  const auto exit = process->Wait(kCommandTimeoutNs);
  if (exit.has_value() && exit->ok()) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("\"", command, "\" ended with ", exit ? exit->ToString() : "nothing"));
}

std::string NamespaceOf(pid_t pid) {
  std::error_code error;
  return std::filesystem::read_symlink(absl::StrCat("/proc/", pid, "/ns/net"), error).string();
}

std::string Switch(NetworkLab::Net net) {
  return net == NetworkLab::Net::kOrders ? kOrders : kKvSwitch;
}
std::string Device(NetworkLab::Net net) {
  return net == NetworkLab::Net::kOrders ? "orders0" : NetworkLab::kv_device();
}
std::string Host(NetworkLab::Net net, int number) {
  return absl::StrCat(net == NetworkLab::Net::kOrders ? "10.231.0." : "10.232.0.", number);
}
// The end of the cable at the switch.
std::string Port(NetworkLab::Net net, int number) {
  return absl::StrCat(net == NetworkLab::Net::kOrders ? "o" : "k", number);
}

}  // namespace

std::string NetworkLab::host() const { return Host(Net::kOrders, 1); }

StatusOr<std::unique_ptr<NetworkLab>> NetworkLab::Create() {
  for (const char* tool : {"/usr/sbin/ip", "/usr/bin/nsenter", "/usr/bin/unshare"}) {
    if (access(tool, X_OK) != 0) {
      return absl::UnavailableError(absl::StrCat("no network namespaces here: no ", tool));
    }
  }
  if (unshare(CLONE_NEWNET) != 0) {
    return absl::UnavailableError(
        absl::StrCat("no network namespaces here: unshare: ", strerror(errno)));
  }
  for (const std::string& command :
       {std::string("/usr/sbin/ip link set lo up"),
        // Else a switch takes the lowest address of its ports, another one with every node.
        absl::StrCat("/usr/sbin/ip link add ", kOrders, " address 02:00:00:00:00:01 type bridge"),
        absl::StrCat("/usr/sbin/ip addr add ", Host(Net::kOrders, 1), "/24 dev ", kOrders),
        absl::StrCat("/usr/sbin/ip link set ", kOrders, " up"),
        absl::StrCat("/usr/sbin/ip link add ", kKvSwitch, " type bridge"),
        absl::StrCat("/usr/sbin/ip link set ", kKvSwitch, " up")}) {
    RETURN_IF_ERROR(RunCommand(command));
  }
  return std::unique_ptr<NetworkLab>(new NetworkLab());
}

StatusOr<NetworkLab::Node> NetworkLab::AddNode(const std::string& name) {
  Place& place = places_[name];
  if (place.holder == nullptr) {
    place.number = static_cast<int>(places_.size()) + 1;
    SubprocessOptions options;
    options.argv = {"/usr/bin/unshare", "--net", "sleep", "infinity"};
    ASSIGN_OR_RETURN(place.holder, Subprocess::Spawn(options));
    StopSignal never;
    const TimeNs until = RealClock().NowNs() + kCommandTimeoutNs;
    while (NamespaceOf(place.holder->pid()) == NamespaceOf(gettid()) ||
           NamespaceOf(place.holder->pid()).empty()) {
      if (RealClock().NowNs() > until) {
        return absl::DeadlineExceededError(absl::StrCat("no namespace for ", name));
      }
      never.WaitFor(kMillisecond);
    }
    RETURN_IF_ERROR(Connect(place, Net::kOrders));
    RETURN_IF_ERROR(Connect(place, Net::kKv));
  }
  // UCX looks for network devices in /sys, which shows those of the namespace it was mounted in.
  return Node{{"/usr/bin/nsenter", absl::StrCat("--net=/proc/", place.holder->pid(), "/ns/net"),
               "/usr/bin/unshare", "--mount", "/bin/sh", "-c",
               "mount -t sysfs sysfs /sys && exec \"$@\"", "sh"},
              Host(Net::kOrders, place.number),
              Host(Net::kKv, place.number)};
}

Status NetworkLab::Connect(const Place& place, Net net) const {
  const std::string port = Port(net, place.number);
  const std::string device = Device(net);
  const pid_t pid = place.holder->pid();
  const std::string there = absl::StrCat("/usr/bin/nsenter --net=/proc/", pid, "/ns/net ");
  for (const std::string& command :
       {absl::StrCat("/usr/sbin/ip link add ", port, " type veth peer name ", device, " netns ",
                     pid),
        absl::StrCat("/usr/sbin/ip link set ", port, " master ", Switch(net), " up"),
        absl::StrCat(there, "/usr/sbin/ip link set lo up"),
        absl::StrCat(there, "/usr/sbin/ip addr add ", Host(net, place.number), "/24 dev ", device),
        absl::StrCat(there, "/usr/sbin/ip link set ", device, " up")}) {
    RETURN_IF_ERROR(RunCommand(command));
  }
  return absl::OkStatus();
}

Status NetworkLab::Cut(const std::string& name, Net net) {
  return RunCommand(
      absl::StrCat("/usr/sbin/ip link set ", Port(net, places_.at(name).number), " nomaster"));
}

Status NetworkLab::Heal(const std::string& name, Net net) {
  return RunCommand(absl::StrCat("/usr/sbin/ip link set ", Port(net, places_.at(name).number),
                                 " master ", Switch(net)));
}

}  // namespace reprise::harness
