// Two transports in one process, over posix+CMA and over TCP alone: what the stream relies on UCX
// for. Death of a peer is tested between processes, in kvstore/stream.
#include "kvstore/transport/ucx_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/crash_report.h"
#include "common/mutex.h"

namespace reprise::kv {
namespace {

constexpr TimeNs kPatience = 10 * kSecond;

// Records what happens and lets the test wait for it.
class Recorder : public TransportHandler {
 public:
  void OnAccepted(EndpointId) override {
    MutexLock lock(mu_);
    ++accepted_;
    changed_.NotifyAll();
  }
  void OnMessage(EndpointId sender, std::span<const uint8_t> message) override {
    if (answer_with_ != nullptr) std::exchange(answer_with_, nullptr)->Send(sender, "welcome");
    MutexLock lock(mu_);
    messages_.emplace_back(message.begin(), message.end());
    changed_.NotifyAll();
  }
  Sink OnBulk(EndpointId, const BulkHeader& header, size_t bytes) override {
    MutexLock lock(mu_);
    headers_.push_back(header);
    if (refuse_) return {};
    received_.assign(bytes, 0);
    return {received_.data(), [this](const Status& status) { Finish("received", status); }};
  }
  void OnFailed(EndpointId, const Status& status) override { Finish("failed", status); }
  TimeNs OnWake(TimeNs) override { return INT64_MAX; }

  void Finish(const std::string& what, const Status& status) {
    MutexLock lock(mu_);
    outcomes_[what] = status;
    changed_.NotifyAll();
  }
  void Refuse() {
    MutexLock lock(mu_);
    refuse_ = true;
  }
  template <typename Predicate>
  bool Await(Predicate&& predicate) {
    const TimeNs deadline_ns = RealClock().NowNs() + kPatience;
    MutexLock lock(mu_);
    while (!predicate()) {
      const TimeNs left_ns = deadline_ns - RealClock().NowNs();
      if (left_ns <= 0) return false;
      changed_.WaitFor(mu_, std::chrono::nanoseconds(left_ns));
    }
    return true;
  }
  bool AwaitMessages(size_t n) NO_THREAD_SAFETY_ANALYSIS {
    return Await([&]() NO_THREAD_SAFETY_ANALYSIS { return messages_.size() >= n; });
  }
  bool AwaitAccepted(size_t n) NO_THREAD_SAFETY_ANALYSIS {
    return Await([&]() NO_THREAD_SAFETY_ANALYSIS { return accepted_ >= n; });
  }
  Status AwaitOutcome(const std::string& what) NO_THREAD_SAFETY_ANALYSIS {
    const bool came = Await([&]() NO_THREAD_SAFETY_ANALYSIS { return outcomes_.contains(what); });
    return came ? outcomes_[what] : absl::DeadlineExceededError(what + " never came");
  }

  Mutex mu_;
  CondVar changed_;
  std::vector<std::string> messages_ GUARDED_BY(mu_);
  std::vector<BulkHeader> headers_ GUARDED_BY(mu_);
  std::map<std::string, Status> outcomes_ GUARDED_BY(mu_);
  bool refuse_ GUARDED_BY(mu_) = false;
  size_t accepted_ GUARDED_BY(mu_) = 0;
  Transport* answer_with_ = nullptr;  // set before Start: answers the first message
  std::vector<uint8_t> received_;     // written by the transport between OnBulk and its completion
};

class UcxTransportTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    for (auto& transport : transports_) {
      auto made = CreateUcxTransport({.shared_memory = GetParam()});
      ASSERT_TRUE(made.ok()) << made.status();
      transport = std::move(*made);
    }
    recorders_[1].answer_with_ = transports_[1].get();
    for (int i = 0; i < 2; ++i) transports_[i]->Start(&recorders_[i]);
    OnLoop([this] {
      auto endpoint = transports_[0]->Connect("127.0.0.1", transports_[1]->port());
      ASSERT_TRUE(endpoint.ok()) << endpoint.status();
      endpoint_ = *endpoint;
      transports_[0]->Send(endpoint_, "h");
    });
  }
  void TearDown() override {
    for (auto& transport : transports_) {
      if (transport) transport->Stop([] { return true; });
    }
  }
  void OnLoop(std::function<void()> function) {
    Recorder done;
    transports_[0]->Post([&] {
      function();
      done.Finish("ran", absl::OkStatus());
    });
    ASSERT_TRUE(done.AwaitOutcome("ran").ok());
  }
  void SendBulk(std::span<const uint8_t> payload, const std::string& outcome) {
    OnLoop([&] {
      BulkHeader header;
      header.fill(7);
      transports_[0]->SendBulk(endpoint_, header, payload, [this, outcome](const Status& status) {
        recorders_[0].Finish(outcome, status);
      });
    });
  }

  Recorder recorders_[2];
  std::unique_ptr<Transport> transports_[2];
  EndpointId endpoint_ = 0;
};

TEST_P(UcxTransportTest, DeliversMessagesOfEverySizeInOrder) {
  // 93 to 140 bytes fail in UCX's short path when they travel as a user header.
  const std::vector<size_t> sizes = {1, 20, 92, 93, 100, 101, 140, 8'200, 70'000, 1'000'000};
  OnLoop([&] {
    for (const size_t n : std::span(sizes).subspan(1))
      transports_[0]->Send(endpoint_, std::string(n, static_cast<char>(n)));
  });
  recorders_[1].AwaitMessages(sizes.size());
  MutexLock lock(recorders_[1].mu_);
  std::vector<size_t> received;
  for (const std::string& message : recorders_[1].messages_) {
    received.push_back(message.size());
    EXPECT_EQ(message, std::string(message.size(), message[0]));
  }
  EXPECT_THAT(received, testing::ElementsAreArray(sizes));
}

TEST_P(UcxTransportTest, DeliversPayloadsOfEverySize) {
  for (const size_t n : {size_t{1}, size_t{20}, size_t{93}, size_t{140}, size_t{8'200},
                         size_t{300'000}, size_t{5} << 20}) {
    std::vector<uint8_t> payload(n);
    for (size_t i = 0; i < n; ++i) payload[i] = static_cast<uint8_t>(i * 31 + n);
    SendBulk(payload, absl::StrCat("sent ", n));
    EXPECT_TRUE(recorders_[0].AwaitOutcome(absl::StrCat("sent ", n)).ok());
    EXPECT_TRUE(recorders_[1].AwaitOutcome("received").ok());
    EXPECT_EQ(recorders_[1].received_, payload) << n << " bytes";
    MutexLock lock(recorders_[1].mu_);
    EXPECT_EQ(recorders_[1].headers_.back()[31], 7);
    recorders_[1].outcomes_.clear();
  }
}

TEST_P(UcxTransportTest, ReceiverRefusesAPayload) {
  recorders_[1].Refuse();
  const std::vector<uint8_t> payload(1 << 20, 1);
  SendBulk(payload, "sent");
  EXPECT_EQ(recorders_[0].AwaitOutcome("sent").code(), absl::StatusCode::kAborted);
}

TEST_P(UcxTransportTest, ReportsLanesThatSeeTheirPeerDie) {
  ASSERT_TRUE(recorders_[0].AwaitMessages(1));
  OnLoop([&] {
    const auto lanes = transports_[0]->DescribeLanes(endpoint_);
    ASSERT_TRUE(lanes.ok());
    const bool posix = lanes->find("posix") != std::string::npos;
    const bool cma = lanes->find("cma") != std::string::npos;
    EXPECT_EQ(posix && cma, GetParam()) << *lanes;
    EXPECT_NE(lanes->find("tcp"), std::string::npos) << *lanes;
    EXPECT_EQ(lanes->find("keepalive") != std::string::npos, GetParam()) << *lanes;
  });
}

TEST_P(UcxTransportTest, ACloseIsSeenByThePeerAndCompletesWhatIsPosted) {
  ASSERT_TRUE(recorders_[0].AwaitMessages(1));
  const std::vector<uint8_t> payload(1 << 20, 1);
  SendBulk(payload, "sent");
  OnLoop([&] { transports_[0]->Close(endpoint_); });
  recorders_[0].AwaitOutcome("sent").IgnoreError();
  EXPECT_EQ(recorders_[1].AwaitOutcome("failed").code(), absl::StatusCode::kUnavailable);
}

TEST_P(UcxTransportTest, AnUnreachablePeerFailsFast) {
  OnLoop([&] {
    auto endpoint = transports_[0]->Connect("127.0.0.1", 1);
    if (endpoint.ok()) {
      transports_[0]->Send(*endpoint, "hello");
    } else {
      recorders_[0].Finish("failed", endpoint.status());
    }
  });
  EXPECT_EQ(recorders_[0].AwaitOutcome("failed").code(), absl::StatusCode::kUnavailable);
}

TEST_P(UcxTransportTest, RefusesAHostThatIsNotNumeric) {
  OnLoop([&] {
    EXPECT_EQ(transports_[0]->Connect("localhost", 1).status().code(),
              absl::StatusCode::kInvalidArgument);
  });
}

TEST_P(UcxTransportTest, RegistersMemory) {
  std::vector<uint8_t> memory(1 << 20);
  EXPECT_TRUE(transports_[0]->Register(memory.data(), memory.size()).ok());
}

TEST_P(UcxTransportTest, WhoConnectsWhileItStopsFindsNothingFreed) {
  // With those of the fixture fewer than UCX is made to destroy workers for (ucx_context.cc).
  constexpr size_t kPeers = 4;
  std::array<Recorder, kPeers> heard;
  std::array<std::unique_ptr<Transport>, kPeers> peers;
  for (size_t i = 0; i < kPeers; ++i) {
    auto made = CreateUcxTransport({.shared_memory = GetParam(), .listen = false});
    ASSERT_TRUE(made.ok()) << made.status();
    peers[i] = *std::move(made);
    peers[i]->Start(&heard[i]);
  }
  for (size_t round = 0; round < 9; ++round) {
    auto stopped = CreateUcxTransport({.shared_memory = GetParam()});
    ASSERT_TRUE(stopped.ok()) << stopped.status();
    Recorder recorder;
    (*stopped)->Start(&recorder);
    for (const auto& peer : peers) {
      peer->Post([peer = peer.get(), port = (*stopped)->port()] {
        static_cast<void>(peer->Connect("127.0.0.1", port));
      });
    }
    // Some are there, the others on their way.
    ASSERT_TRUE(recorder.AwaitAccepted(round % (kPeers + 1)));
    (*stopped)->Stop([] { return true; });
  }
  for (const auto& peer : peers) peer->Stop([] { return true; });
}

// Somebody who connects and never says who it is.
TEST_P(UcxTransportTest, WhoConnectsAndIsSilentDoesNotKeepItFromStopping) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(transports_[1]->port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int silent = socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_EQ(connect(silent, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  transports_[1]->Stop([] { return true; });
  const timeval patience = {.tv_sec = 10, .tv_usec = 0};
  setsockopt(silent, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  char byte = 0;
  const ssize_t read = recv(silent, &byte, 1, 0);
  EXPECT_TRUE(read == 0 || errno == ECONNRESET) << read << ", " << errno;
  close(silent);
}

TEST(UcxTransport, LeavesTheCrashReportInPlace) {
#ifdef REPRISE_SANITIZER
  GTEST_SKIP() << "a sanitizer reports crashes itself";
#endif
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        InstallCrashReport("/proc/self/exe");
        const auto transport = CreateUcxTransport({});
        raise(SIGSEGV);
      },
      testing::KilledBySignal(SIGSEGV), "SEGV at address");
}

INSTANTIATE_TEST_SUITE_P(Transports, UcxTransportTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "SharedMemory" : "Tcp"; });

}  // namespace
}  // namespace reprise::kv
