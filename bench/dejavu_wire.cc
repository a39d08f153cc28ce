#include "bench/dejavu_wire.h"

#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace reprise::bench {
namespace {

constexpr int kStagesWaiting = 64;

Status LastError(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", strerror(errno)));
}

StatusOr<sockaddr_un> Address(const std::string& name) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  if (name.size() + 2 > sizeof address.sun_path) {
    return absl::InvalidArgumentError(absl::StrCat(
        "socket name of ", name.size(), " bytes, the limit is ", sizeof address.sun_path - 2));
  }
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  return address;
}

StatusOr<int> Socket() {
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  if (fd < 0) return LastError("socket");
  return fd;
}

}  // namespace

StatusOr<int> ListenForStages(const std::string& name) {
  ASSIGN_OR_RETURN(const sockaddr_un address, Address(name));
  ASSIGN_OR_RETURN(const int fd, Socket());
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      listen(fd, kStagesWaiting) == 0) {
    return fd;
  }
  const Status status = LastError("listening for stages");
  close(fd);
  return status;
}

StatusOr<int> ConnectToController(const std::string& name) {
  ASSIGN_OR_RETURN(const sockaddr_un address, Address(name));
  ASSIGN_OR_RETURN(const int fd, Socket());
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  const Status status = LastError("connecting to the controller");
  close(fd);
  return status;
}

bool RunOnTime() {
  sched_param param{};
  param.sched_priority = 1;
  return sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param) == 0;
}

Status SendMessage(int fd, const StageMessage& message) {
  const ssize_t sent = send(fd, &message, sizeof message, MSG_NOSIGNAL);
  return sent == sizeof message ? absl::OkStatus() : LastError("send");
}

StatusOr<std::optional<StageMessage>> ReceiveMessage(int fd) {
  StageMessage message;
  const ssize_t received = recv(fd, &message, sizeof message, MSG_TRUNC);
  if (received == 0 || (received < 0 && errno == ECONNRESET)) return std::nullopt;
  if (received < 0) return LastError("recv");
  if (received != sizeof message) {
    return absl::DataLossError(
        absl::StrCat("message of ", received, " bytes, expected ", sizeof message));
  }
  return message;
}

}  // namespace reprise::bench
