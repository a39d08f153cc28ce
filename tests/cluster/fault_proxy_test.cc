// The fault proxy between a client and an echo server of this process.
#include "tests/cluster/fault_proxy.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>

namespace reprise::harness {
namespace {

TEST(HeldBytes, WaitsForItsDelayAndKeepsOrder) {
  HeldBytes held;
  const Fault fault{.delay_ns = 10};
  held.Add("ab", 0, fault.delay_ns);
  held.Add("cd", 5, fault.delay_ns);
  EXPECT_EQ(held.Due(9, fault), "");
  EXPECT_EQ(held.NextNs(fault), 10);
  EXPECT_EQ(held.Due(10, fault), "ab");
  held.Written(1);
  EXPECT_EQ(held.Due(10, fault), "b");
  held.Written(1);
  EXPECT_EQ(held.Due(10, fault), "");
  EXPECT_EQ(held.Due(15, fault), "cd");
  EXPECT_EQ(held.size(), 2u);
}

TEST(HeldBytes, ThrottledToItsRate) {
  HeldBytes held;
  const Fault fault{.bytes_per_s = 1000};
  held.Add(std::string(100, 'x'), 0, 0);
  TimeNs now = 0;
  while (held.size() > 0) {
    now = held.NextNs(fault);
    const std::string bytes = held.Due(now, fault);
    ASSERT_FALSE(bytes.empty());
    held.Written(bytes.size());
  }
  EXPECT_GE(now, 95 * kMillisecond);  // the last 5 bytes go 95 ms after the first
  EXPECT_LE(now, 100 * kMillisecond);
}

TEST(HeldBytes, ABlackHoleGivesNothingUntilHealed) {
  HeldBytes held;
  held.Add("ab", 0, 0);
  EXPECT_EQ(held.Due(1, {.black_hole = true}), "");
  EXPECT_EQ(held.NextNs({.black_hole = true}), INT64_MAX);
  EXPECT_EQ(held.Due(1, {}), "ab");
}

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// A client's socket and the server's, joined through the proxy.
class Joined : public testing::Test {
 protected:
  void SetUp() override {
    auto proxy = FaultProxy::Start();
    ASSERT_TRUE(proxy.ok()) << proxy.status();
    proxy_ = *std::move(proxy);
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = Loopback(0);
    socklen_t length = sizeof address;
    ASSERT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), length), 0);
    ASSERT_EQ(listen(listener_, 1), 0);
    ASSERT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length), 0);
    ASSERT_TRUE(proxy_->SetTarget(absl::StrCat("127.0.0.1:", ntohs(address.sin_port))).ok());
    const auto at = ParseHostPort(proxy_->address());
    ASSERT_TRUE(at.ok());
    client_ = socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in door = Loopback(at->port);
    ASSERT_EQ(connect(client_, reinterpret_cast<const sockaddr*>(&door), sizeof door), 0);
    server_ = accept(listener_, nullptr, nullptr);
    ASSERT_GE(server_, 0);
  }
  void TearDown() override {
    for (const int fd : {client_, server_, listener_}) close(fd);
  }
  static void Send(int fd, const std::string& bytes) {
    ASSERT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }
  // Blocks until all came, the stream ended (what came so far) or broke ("broken").
  static std::string Receive(int fd, size_t bytes) {
    std::string got;
    char buffer[4096];
    while (got.size() < bytes) {
      const ssize_t n = recv(fd, buffer, std::min(sizeof buffer, bytes - got.size()), 0);
      if (n < 0) return "broken";
      if (n == 0) break;
      got.append(buffer, static_cast<size_t>(n));
    }
    return got;
  }

  std::unique_ptr<FaultProxy> proxy_;
  int listener_ = -1;
  int client_ = -1;
  int server_ = -1;
};

TEST_F(Joined, PassesBytesBothWaysAndTheEnd) {
  const std::string large(3 << 20, 'x');
  Thread sender("sender", [&] { Send(client_, large); });
  EXPECT_EQ(Receive(server_, large.size()), large);
  sender.Join();
  Send(server_, "answer");
  EXPECT_EQ(Receive(client_, 6), "answer");
  EXPECT_EQ(proxy_->bytes(Direction::kToServer), static_cast<int64_t>(large.size()));
  shutdown(client_, SHUT_WR);
  EXPECT_EQ(Receive(server_, 1), "");
}

TEST_F(Joined, ABlackHoleOfOneDirectionLeavesTheOtherAlone) {
  proxy_->Set(Direction::kToServer, {.black_hole = true});
  Send(client_, "lost?");
  Send(server_, "heard");
  EXPECT_EQ(Receive(client_, 5), "heard");
  char byte;
  EXPECT_EQ(recv(server_, &byte, 1, MSG_DONTWAIT), -1);
  proxy_->Set(Direction::kToServer, {});
  EXPECT_EQ(Receive(server_, 5), "lost?");
}

TEST_F(Joined, ResetBreaksBothSides) {
  proxy_->Reset();
  EXPECT_EQ(Receive(client_, 1), "broken");
  EXPECT_EQ(Receive(server_, 1), "broken");
  EXPECT_EQ(proxy_->connections(), 0);
}

TEST_F(Joined, HalfCloseEndsOneDirectionOnly) {
  proxy_->HalfClose(Direction::kToServer);
  EXPECT_EQ(Receive(server_, 1), "");
  Send(server_, "still");
  EXPECT_EQ(Receive(client_, 5), "still");
}

}  // namespace
}  // namespace reprise::harness
