#include "kvstore/transport/port_sockets.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace reprise::kv {
namespace {

class Listener {
 public:
  Listener() {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const address = reinterpret_cast<sockaddr*>(&address_);
    socklen_t bytes = sizeof(address_);
    EXPECT_EQ(bind(socket_, address, bytes), 0);
    EXPECT_EQ(getsockname(socket_, address, &bytes), 0);
    EXPECT_EQ(listen(socket_, 4), 0);
  }
  ~Listener() { close(socket_); }
  int port() const { return ntohs(address_.sin_port); }
  int Accept() const { return accept(socket_, nullptr, nullptr); }
  // -1: refused.
  int Dial() const {
    const int dialed = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(dialed, reinterpret_cast<const sockaddr*>(&address_), sizeof(address_)) == 0) {
      return dialed;
    }
    close(dialed);
    return -1;
  }

 private:
  const int socket_ = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address_{};
};

TEST(PortSockets, ShutsWhatIsOnThePortAndNothingElse) {
  const Listener here;
  const Listener there;
  const int dialed_here = here.Dial();
  const int taken_here = here.Accept();
  const int dialed_there = there.Dial();
  const int taken_there = there.Accept();
  EXPECT_EQ(ShutPort(here.port()), 2);
  char byte = 0;
  EXPECT_EQ(recv(dialed_here, &byte, 1, 0), 0);
  EXPECT_EQ(send(taken_there, "x", 1, 0), 1);
  EXPECT_EQ(recv(dialed_there, &byte, 1, 0), 1);
  EXPECT_EQ(ShutPort(here.port()), 2) << "until their owner has closed them";
  close(taken_here);
  EXPECT_EQ(ShutPort(here.port()), 1);
  for (const int socket : {dialed_here, dialed_there, taken_there}) close(socket);
}

TEST(PortSockets, WhoListenedTakesNobodyIn) {
  const Listener here;
  const Listener there;
  const int dialed = here.Dial();
  const int taken = here.Accept();
  EXPECT_EQ(ShutListeners(here.port()), 1);
  EXPECT_EQ(here.Dial(), -1);
  EXPECT_EQ(send(taken, "x", 1, 0), 1);
  const int elsewhere = there.Dial();
  EXPECT_GE(elsewhere, 0);
  for (const int socket : {dialed, taken, elsewhere}) close(socket);
}

}  // namespace
}  // namespace reprise::kv
