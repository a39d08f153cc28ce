// Two processes over the real NCCL, on one card, each with a NCCL_HOSTID of its own, since NCCL
// refuses two ranks of a host on a card. The control link is UCX. Skips where there is no card.
#include "worker/parallel/nccl/real_nccl.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "common/clock.h"
#include "worker/parallel/nccl/nccl_communicator.h"
#include "worker/parallel/ucx_group.h"

namespace reprise::parallel {
namespace {

constexpr int kRanks = 2;
constexpr int kNoCard = 77;
TimeNs Later() { return RealClock().NowNs() + 60 * kSecond; }

using RankCall = std::function<Status(Communicator&, NcclDevice&)>;

// In a process of its own: says its port, hears all ports, makes the communicator and the call.
Status RunRank(int rank, int socket, NcclDevice& device, const RankCall& call) {
  ASSIGN_OR_RETURN(const auto host, MakeUcxGroupHost({}));
  const int port = host->port();
  int ports[kRanks];
  if (write(socket, &port, sizeof port) != sizeof port ||
      read(socket, ports, sizeof ports) != sizeof ports) {
    return absl::InternalError("the parent has gone");
  }
  GroupSpec spec{.group = 1, .epoch = 1, .rank = rank, .addresses = {}};
  for (const int one : ports) spec.addresses.push_back({"127.0.0.1", one});
  ASSIGN_OR_RETURN(auto link, host->JoinLink(spec, Later()));
  ASSIGN_OR_RETURN(const auto communicator,
                   MakeNcclCommunicator(&device, std::move(link), Later()));
  return call(*communicator, device);
}

int RankMain(int rank, int socket, const RankCall& call) {
  setenv("NCCL_HOSTID", std::to_string(rank + 1).c_str(), 1);
  auto device = OpenNcclDevice(0);
  if (!device.ok()) {
    std::fprintf(stderr, "rank %d: %s\n", rank, device.status().ToString().c_str());
    return kNoCard;
  }
  const Status status = RunRank(rank, socket, **device, call);
  if (!status.ok()) std::fprintf(stderr, "rank %d: %s\n", rank, status.ToString().c_str());
  return status.ok() ? 0 : 1;
}

// The exit codes, by rank. CUDA does not survive a fork, so this process never uses it.
std::vector<int> RunRanks(const RankCall& call) {
  int sockets[kRanks];
  pid_t children[kRanks];
  for (int r = 0; r < kRanks; ++r) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    children[r] = fork();
    if (children[r] == 0) {
      close(ends[0]);
      _exit(RankMain(r, ends[1], call));
    }
    close(ends[1]);
    sockets[r] = ends[0];
  }
  int ports[kRanks];
  bool all = true;
  for (int r = 0; r < kRanks; ++r) {
    all = read(sockets[r], &ports[r], sizeof ports[r]) == sizeof ports[r] && all;
  }
  std::vector<int> codes;
  for (int r = 0; r < kRanks; ++r) {
    if (all) EXPECT_EQ(write(sockets[r], ports, sizeof ports), ssize_t{sizeof ports});
    close(sockets[r]);
  }
  for (const pid_t child : children) {
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  }
  return codes;
}

#define SKIP_WITHOUT_CARD(codes) \
  if ((codes)[0] == kNoCard) GTEST_SKIP() << "no CUDA device on this machine: NCCL was not run"

Status Expect(bool holds, const char* what) {
  return holds ? absl::OkStatus() : absl::InternalError(absl::StrCat(what, " is wrong"));
}

// 0x1p-149 is a denormal, flushed in a sum.
float TermOf(size_t i, int rank) {
  return i % 3 == 0 ? 0x1p-149F : static_cast<float>(i) * 0.1F + static_cast<float>(rank);
}

TEST(RealNccl, SumsHaveTheBitsOfTheTreeOnTheHostAndOnTheDevice) {
  const auto codes = RunRanks([](Communicator& c, NcclDevice& device) -> Status {
    constexpr size_t kElements = 1'000'003;
    std::vector<float> host(kElements), expected(kElements), back(kElements);
    for (size_t i = 0; i < kElements; ++i) {
      host[i] = TermOf(i, c.rank());
      expected[i] = i % 3 == 0 ? 0.0F : TermOf(i, 0) + TermOf(i, 1);
    }
    ASSIGN_OR_RETURN(void* const memory, device.Allocate(kElements * sizeof(float)));
    RETURN_IF_ERROR(device.Copy(host.data(), memory, kElements * sizeof(float)));
    RETURN_IF_ERROR(c.AllReduce(host, Later()));
    RETURN_IF_ERROR(Expect(host == expected, "the sum on the host"));
    RETURN_IF_ERROR(c.AllReduce({static_cast<float*>(memory), kElements}, Later()));
    RETURN_IF_ERROR(device.Copy(memory, back.data(), kElements * sizeof(float)));
    device.Free(memory);
    return Expect(back == expected, "the sum on the device");
  });
  SKIP_WITHOUT_CARD(codes);
  EXPECT_EQ(codes, std::vector<int>(kRanks, 0));
}

TEST(RealNccl, BothSidesMaySendBeforeTheyReceive) {
  const auto codes = RunRanks([](Communicator& c, NcclDevice&) -> Status {
    const std::vector<uint8_t> mine(3'000'000, static_cast<uint8_t>(c.rank()));
    std::vector<uint8_t> theirs(mine.size());
    const int peer = 1 - c.rank();
    ASSIGN_OR_RETURN(const ExchangeId sent, c.Start({.to = peer, .send = mine}));
    ASSIGN_OR_RETURN(const ExchangeId got, c.Start({.from = peer, .receive = theirs}));
    RETURN_IF_ERROR(c.Wait(got, Later()));
    RETURN_IF_ERROR(c.Wait(sent, Later()));
    return Expect(theirs == std::vector<uint8_t>(mine.size(), static_cast<uint8_t>(peer)),
                  "what the other sent");
  });
  SKIP_WITHOUT_CARD(codes);
  EXPECT_EQ(codes, std::vector<int>(kRanks, 0));
}

TEST(RealNccl, ADeadRankEndsTheOthersCall) {
  const auto codes = RunRanks([](Communicator& c, NcclDevice&) -> Status {
    std::vector<float> data(1'000'000, 1.0F);
    RETURN_IF_ERROR(c.AllReduce(data, Later()));
    if (c.rank() == 1) _exit(0);
    const Status status = c.AllReduce(data, Later());
    return Expect(status.code() == absl::StatusCode::kUnavailable, "what a death looks like");
  });
  SKIP_WITHOUT_CARD(codes);
  EXPECT_EQ(codes, std::vector<int>(kRanks, 0));
}

}  // namespace
}  // namespace reprise::parallel
