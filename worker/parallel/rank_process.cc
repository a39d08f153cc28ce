// A process of a group for group_process_test: joins epochs and reduces when told on a socket, and
// answers each command with a line. Commands: "join EPOCH RANK SIZE PORT..." and "reduce N
// TIMEOUT_MS TIMES" (TIMES 0: until it fails).
//
// Answers: the port first; then "ok CHECKSUM" or "error CODE TEXT"; "reduce" says "reducing" once
// its first round is through.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

#include "common/crc32c.h"
#include "kvstore/transport/ucx_transport.h"
#include "worker/parallel/group_host.h"

namespace reprise::parallel {
namespace {

constexpr TimeNs kJoinPatience = 30 * kSecond;

std::string Line(const Status& status) {
  std::string text(status.message());
  for (char& c : text) c = c == '\n' ? ' ' : c;
  return absl::StrCat("error ", static_cast<int>(status.code()), " ", text);
}

class Rank {
 public:
  Rank(std::unique_ptr<GroupHost> host, int answers) : host_(std::move(host)), answers_(answers) {}
  void Say(const std::string& line) { dprintf(answers_, "%s\n", line.c_str()); }

  void Obey(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    const auto answer = command == "join" ? Join(words) : Reduce(words);
    Say(answer.ok() ? absl::StrCat("ok ", *answer) : Line(answer.status()));
  }

 private:
  StatusOr<uint32_t> Join(std::istringstream& words) {
    GroupSpec spec{.group = 1, .epoch = 0, .rank = 0, .addresses = {}};
    size_t size = 0;
    words >> spec.epoch >> spec.rank >> size;
    for (size_t i = 0; i < size; ++i) {
      spec.addresses.push_back({"127.0.0.1", 0});
      words >> spec.addresses.back().port;
    }
    communicator_.reset();
    ASSIGN_OR_RETURN(communicator_, host_->Join(spec, RealClock().NowNs() + kJoinPatience));
    return 0;
  }

  StatusOr<uint32_t> Reduce(std::istringstream& words) {
    size_t n = 0;
    int64_t timeout_ms = 0, times = 0;
    words >> n >> timeout_ms >> times;
    std::vector<float> data;
    for (int64_t round = 0; times == 0 || round < times; ++round) {
      data.assign(n, 0.1F * static_cast<float>(communicator_->rank() + 1));
      const Status status =
          communicator_->AllReduce(data, RealClock().NowNs() + NsFromMs(timeout_ms));
      if (!status.ok()) {
        std::fill(data.begin(), data.end(), -7.0F);  // a late write would be seen at the next ok
        return status;
      }
      if (round == 0) Say("reducing");
    }
    return Crc32c(data.data(), data.size() * sizeof(float));
  }

  const std::unique_ptr<GroupHost> host_;
  const int answers_;
  std::unique_ptr<Communicator> communicator_;
};

int Run(char** argv) {
  auto transport = kv::CreateUcxTransport({.shared_memory = std::string(argv[1]) == "shm"});
  if (!transport.ok()) {
    std::fprintf(stderr, "%s\n", transport.status().ToString().c_str());
    return 1;
  }
  const int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "%s", argv[2]);
  if (connect(socket_fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return 1;
  auto host = std::make_unique<GroupHost>(std::move(*transport));
  const int port = host->port();
  Rank rank(std::move(host), socket_fd);
  rank.Say(std::to_string(port));
  std::string line;
  for (char c = 0; read(socket_fd, &c, 1) == 1;) {
    if (c != '\n') {
      line += c;
      continue;
    }
    rank.Obey(line);
    line.clear();
  }
  return 0;
}

}  // namespace
}  // namespace reprise::parallel

int main(int argc, char** argv) { return argc == 3 ? reprise::parallel::Run(argv) : 2; }
