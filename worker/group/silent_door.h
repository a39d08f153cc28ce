// A process that accepts connections and never says a word: what a stuck rank looks like from
// outside. Owned by the test; one thread.
#ifndef REPRISE_WORKER_GROUP_SILENT_DOOR_H_
#define REPRISE_WORKER_GROUP_SILENT_DOOR_H_

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace reprise::worker {

class SilentDoor {
 public:
  SilentDoor() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(at);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&at), length), 0);
    EXPECT_EQ(listen(fd_, 8), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&at), &length), 0);
    port_ = ntohs(at.sin_port);
  }
  SilentDoor(const SilentDoor&) = delete;
  SilentDoor& operator=(const SilentDoor&) = delete;
  ~SilentDoor() {
    for (const int caller : callers_) close(caller);
    close(fd_);
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  // Returns when somebody has connected.
  void WaitForCaller() {
    const int caller = accept(fd_, nullptr, nullptr);
    EXPECT_GE(caller, 0);
    callers_.push_back(caller);
  }

 private:
  const int fd_;
  int port_ = 0;
  std::vector<int> callers_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_SILENT_DOOR_H_
