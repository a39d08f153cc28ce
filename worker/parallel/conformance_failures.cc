// Failures: whatever goes wrong ends every rank's calls, names itself, and touches no memory after.
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "worker/parallel/conformance.h"

namespace reprise::parallel {
namespace {

constexpr TimeNs kPatience = 60 * kSecond;
TimeNs Later() { return RealClock().NowNs() + kPatience; }
TimeNs Soon() { return RealClock().NowNs() + 100 * kMillisecond; }

// Operands of a rank that outlive its calls, so that late writes would show.
struct Operands {
  explicit Operands(size_t n, int ranks)
      : floats(n, 1.0F), one(n), all(4 * n * static_cast<size_t>(ranks)), turned(all.size()) {}
  std::vector<float> floats;
  std::vector<float> one;  // resized to the rank's chunk
  std::vector<uint8_t> all;
  std::vector<uint8_t> turned;

  void Poison() {
    std::fill(floats.begin(), floats.end(), -77.0F);
    std::fill(one.begin(), one.end(), -77.0F);
    std::fill(all.begin(), all.end(), uint8_t{0xA5});
    std::fill(turned.begin(), turned.end(), uint8_t{0xA5});
  }
  bool Poisoned() const {
    const auto poison = [](uint8_t byte) { return byte == 0xA5; };
    const auto minus = [](float value) { return value == -77.0F; };
    return std::all_of(floats.begin(), floats.end(), minus) &&
           std::all_of(one.begin(), one.end(), minus) &&
           std::all_of(all.begin(), all.end(), poison) &&
           std::all_of(turned.begin(), turned.end(), poison);
  }
};

using Call = Status (*)(Communicator&, Operands&, TimeNs);
struct Named {
  const char* name;
  Call call;
};

Status Ring(Communicator& c, Operands& o, TimeNs deadline_ns) {
  const int size = c.size();
  ASSIGN_OR_RETURN(const ExchangeId id,
                   c.Start({(c.rank() + 1) % size, o.all, (c.rank() + size - 1) % size, o.turned}));
  return c.Wait(id, deadline_ns);
}

const Named kCalls[] = {
    {"barrier", [](Communicator& c, Operands&, TimeNs d) { return c.Barrier(d); }},
    {"all_reduce", [](Communicator& c, Operands& o, TimeNs d) { return c.AllReduce(o.floats, d); }},
    {"reduce_scatter",
     [](Communicator& c, Operands& o, TimeNs d) {
       o.one.resize(ChunkOf(o.floats.size(), c.rank(), c.size()).size());
       return c.ReduceScatter(o.floats, o.one, d);
     }},
    {"all_gather",
     [](Communicator& c, Operands& o, TimeNs d) {
       return c.AllGather(std::span(o.turned).first(o.all.size() / static_cast<size_t>(c.size())),
                          o.all, d);
     }},
    {"all_to_all",
     [](Communicator& c, Operands& o, TimeNs d) { return c.AllToAll(o.all, o.turned, d); }},
    {"exchange", &Ring},
};

std::vector<Operands> OperandsOf(size_t n, int ranks) {
  return std::vector<Operands>(static_cast<size_t>(ranks), Operands(n, ranks));
}

Operands& Of(std::vector<Operands>& operands, const Communicator& c) {
  return operands[static_cast<size_t>(c.rank())];
}

TEST_P(CommunicatorConformance, RanksInDifferentCallsAreToldBoth) {
  if (size() == 1) return;
  for (const Status& status : OnAllRanks([&](Communicator& c) {
         std::vector<float> data(10);
         if (c.rank() == 1) return c.Barrier(Later());
         return c.AllReduce(data, Later());
       })) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("all_reduce of 40 bytes"));
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("barrier"));
  }
}

TEST_P(CommunicatorConformance, SizesThatDifferAreNamed) {
  if (size() == 1) return;
  for (const auto& [a, b] : {std::pair{9, 10}, {0, 1}, {100'000, 100'001}, {5, 100'000}}) {
    const int one = a, other = b;
    for (const bool swap : {false, true}) {
      SetUp();
      for (const Status& status : OnAllRanks([&](Communicator& c) {
             std::vector<float> data(static_cast<size_t>((c.rank() == 0) == swap ? one : other));
             return c.AllReduce(data, Later());
           })) {
        EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
        for (const int n : {one, other}) {
          EXPECT_THAT(std::string(status.message()),
                      testing::HasSubstr(absl::StrCat(" ", n * 4, " bytes")));
        }
      }
      TearDown();
    }
  }
}

TEST_P(CommunicatorConformance, APairsSizesThatDifferAreNamed) {
  if (size() == 1) return;
  for (const auto& [a, b] : {std::pair{10, 11}, {10, 100'000}, {100'000, 10}}) {
    const int sent = a, awaited = b;
    SetUp();
    for (const Status& status : OnAllRanks([&](Communicator& c) {
           std::vector<uint8_t> data(static_cast<size_t>(c.rank() == 0 ? sent : awaited));
           if (c.rank() == 0) RETURN_IF_ERROR(c.Send(1, data, Later()));
           if (c.rank() == 1) RETURN_IF_ERROR(c.Recv(0, data, Later()));
           return c.Barrier(Later());
         })) {
      EXPECT_FALSE(status.ok());
    }
    for (const auto& rank : ranks_) {
      EXPECT_EQ(rank->status().code(), absl::StatusCode::kInvalidArgument) << rank->status();
    }
    TearDown();
  }
}

TEST_P(CommunicatorConformance, ACallersMistakeEndsTheGroup) {
  for (const Status& status : OnAllRanks([&](Communicator& c) {
         std::vector<uint8_t> data(10);
         if (c.rank() == 0) return c.Send(c.size(), data, Later());
         return c.Barrier(Later());
       })) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("rank 0"));
  }
}

TEST_P(CommunicatorConformance, ARankThatNeverCallsEndsTheOthersCallsAtTheirDeadline) {
  if (size() == 1) return;
  for (const Named& named : kCalls) {
    SetUp();
    std::vector<Operands> operands = OperandsOf(20'000, size());
    const std::vector<Status> statuses = OnAllRanks([&](Communicator& c) {
      if (c.rank() == 0) return absl::OkStatus();
      Operands& mine = Of(operands, c);
      Status status = named.call(c, mine, Soon());
      // An exchange with the rank's neighbours may well succeed without it.
      if (status.ok()) status = c.Barrier(Soon());
      mine.Poison();
      return status;
    });
    for (size_t r = 1; r < statuses.size(); ++r) {
      EXPECT_EQ(statuses[r].code(), absl::StatusCode::kDeadlineExceeded)
          << named.name << ": " << statuses[r];
    }
    // The rank hears of it when it calls at last.
    EXPECT_FALSE(ranks_[0]->Barrier(Later()).ok());
    TearDown();
    for (size_t r = 1; r < operands.size(); ++r) EXPECT_TRUE(operands[r].Poisoned()) << named.name;
  }
}

TEST_P(CommunicatorConformance, AnAbortFromAnotherThreadEndsEveryCall) {
  std::atomic<int> waiting = 0;
  std::vector<Status> statuses = OnAllRanks([&](Communicator& c) {
    // Rank 0 never enters the barrier unless it is alone.
    if (c.rank() == 0) {
      while (waiting.load() + 1 < c.size()) std::this_thread::yield();
      std::thread([&] { c.Abort(absl::InternalError("a layer failed")); }).join();
      return c.Barrier(Later());
    }
    waiting.fetch_add(1);
    return c.Barrier(Later());
  });
  for (const Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("a layer failed"));
  }
  for (const auto& rank : ranks_) {
    EXPECT_EQ(rank->status(), rank->Barrier(Later())) << "a dead communicator repeats itself";
  }
}

TEST_P(CommunicatorConformance, ADeadRankEndsEveryOperationAndMemoryStaysUntouched) {
  if (size() == 1) return;
  const int victim = size() / 2;
  for (const Named& named : kCalls) {
    for (const int after : {0, 1, 7}) {
      SetUp();
      std::vector<Operands> operands = OperandsOf(20'000, size());
      world_->KillAfter(victim, after);
      const std::vector<Status> statuses = OnAllRanks([&](Communicator& c) {
        Operands& mine = Of(operands, c);
        Status status;
        while (status.ok()) {
          status = named.call(c, mine, Later());
          if (status.ok()) status = c.Barrier(Later());
        }
        mine.Poison();
        EXPECT_EQ(c.AllReduce(mine.floats, Later()), status);
        return status;
      });
      for (const Status& status : statuses) {
        EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << named.name << ": " << status;
      }
      TearDown();
      for (const Operands& mine : operands) EXPECT_TRUE(mine.Poisoned()) << named.name;
    }
  }
}

TEST_P(CommunicatorConformance, AnExchangeUnderWayIsQuietWhenAnotherCallFails) {
  if (size() == 1) return;
  std::vector<Operands> operands = OperandsOf(50'000, size());
  std::vector<Status> statuses = OnAllRanks([&](Communicator& c) {
    Operands& mine = Of(operands, c);
    const int last = (c.rank() + c.size() - 1) % c.size();
    const auto id = c.Start({.from = last, .receive = mine.all});
    if (c.rank() == 0) world_->Kill(0);
    const Status status = c.Barrier(Later());
    mine.Poison();
    EXPECT_EQ(id.ok() ? c.Wait(*id, Later()) : id.status(), status);
    return status;
  });
  for (const Status& status : statuses) EXPECT_FALSE(status.ok());
  TearDown();
  for (const Operands& mine : operands) EXPECT_TRUE(mine.Poisoned());
}

TEST_P(CommunicatorConformance, ARankThatLeavesEndsWhoeverStillNeedsIt) {
  if (size() == 1) return;
  std::vector<Status> statuses = OnAllRanks([&](Communicator& c) {
    RETURN_IF_ERROR(c.Barrier(Later()));
    if (c.rank() == 0) {
      ranks_[0].reset();
      return absl::OkStatus();
    }
    return c.Barrier(Later());
  });
  EXPECT_TRUE(statuses[0].ok()) << statuses[0];
  for (size_t r = 1; r < statuses.size(); ++r) {
    EXPECT_EQ(statuses[r].code(), absl::StatusCode::kUnavailable) << statuses[r];
  }
}

TEST_P(CommunicatorConformance, ASpareTakesTheDeadRanksPlaceInTheNextEpoch) {
  if (size() == 1) return;
  const int victim = size() - 1;
  std::vector<int> processes;
  for (int i = 0; i < size(); ++i) processes.push_back(i == victim ? size() : i);
  world_->KillAfter(victim, 3);
  OnAllRanks([&](Communicator& c) {
    std::vector<float> data(30'000, 1.0F);
    Status status;
    while (status.ok()) status = c.AllReduce(data, Later());
    return status;
  });
  // Survivors form the next epoch while the dead one's communicators still exist.
  auto next = world_->Form(2, processes);
  ranks_.swap(next);
  for (const auto& rank : ranks_) ASSERT_NE(rank, nullptr);
  const auto statuses = OnAllRanks([&](Communicator& c) {
    std::vector<float> data(30'000, static_cast<float>(c.rank() + 1));
    RETURN_IF_ERROR(c.AllReduce(data, Later()));
    const auto total = static_cast<float>(c.size() * (c.size() + 1) / 2);
    EXPECT_EQ(data, std::vector<float>(data.size(), total));
    return absl::OkStatus();
  });
  for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace reprise::parallel
