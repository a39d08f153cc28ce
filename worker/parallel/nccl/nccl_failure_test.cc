// What is NCCL's own, over its stand-in: connecting, errors that come later, memory on the device,
// aborts, and orders in which a communicator's serial operations would wait for each other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <future>
#include <optional>
#include <random>
#include <thread>

#include "worker/parallel/in_process.h"
#include "worker/parallel/nccl/fake_nccl.h"
#include "worker/parallel/nccl/nccl_communicator.h"

namespace reprise::parallel {
namespace {

using testing::HasSubstr;

TimeNs Later() { return RealClock().NowNs() + 60 * kSecond; }
TimeNs Soon() { return RealClock().NowNs() + 200 * kMillisecond; }

// Memory on a device, which in the stand-in is readable from here.
template <typename T>
class OnDevice {
 public:
  OnDevice(NcclDevice* device, std::vector<T> values) : device_(device), size_(values.size()) {
    data_ = static_cast<T*>(*device->Allocate(size_ * sizeof(T)));
    std::copy(values.begin(), values.end(), data_);
  }
  ~OnDevice() { device_->Free(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  std::span<T> span() const { return {data_, size_}; }
  std::vector<T> values() const { return {data_, data_ + size_}; }

 private:
  NcclDevice* const device_;
  const size_t size_;
  T* data_ = nullptr;
};

class NcclFailureTest : public testing::Test {
 protected:
  ~NcclFailureTest() override {
    ranks_.clear();
    EXPECT_TRUE(nccl_.Violations().empty()) << nccl_.Violations()[0];
  }
  void Form(int size, NcclOptions options = {}) {
    options.leave_patience_ns = 10 * kMillisecond;
    ranks_.resize(static_cast<size_t>(size));
    group_.emplace(size);
    const auto made = OnThreads(size, [&](int r) {
      devices_[r] = nccl_.MakeDevice(r);
      auto rank = MakeNcclCommunicator(devices_[r].get(), group_->MakeLink(r), Later(), options);
      if (rank.ok()) ranks_[static_cast<size_t>(r)] = std::move(*rank);
      return rank.status();
    });
    for (const Status& status : made) ASSERT_TRUE(status.ok()) << status;
  }
  static std::vector<Status> OnThreads(int size, const std::function<Status(int)>& call) {
    std::vector<Status> statuses(static_cast<size_t>(size));
    std::vector<std::thread> threads;
    for (int r = 0; r < size; ++r) {
      threads.emplace_back([&, r] { statuses[static_cast<size_t>(r)] = call(r); });
    }
    for (std::thread& thread : threads) thread.join();
    return statuses;
  }
  std::vector<Status> OnAllRanks(const std::function<Status(Communicator&)>& call) {
    return OnThreads(static_cast<int>(ranks_.size()),
                     [&](int r) { return call(*ranks_[static_cast<size_t>(r)]); });
  }
  NcclDevice* DeviceOf(const Communicator& c) { return devices_[c.rank()].get(); }

  FakeNccl nccl_;
  std::unique_ptr<NcclDevice> devices_[8];
  std::optional<InProcessGroup> group_;
  std::vector<std::unique_ptr<Communicator>> ranks_;
};

// ---- Connecting. ----

TEST_F(NcclFailureTest, ConnectingThatNeverEndsEndsAtTheDeadline) {
  group_.emplace(2);
  devices_[0] = nccl_.MakeDevice(0);
  // Rank 1 takes the id and goes no further.
  const auto other = group_->MakeLink(1);
  NcclUniqueId id;
  const BatchId batch = other->Start({.tag = {}, .out = {}, .in = {{0, id}}});
  const Status status =
      MakeNcclCommunicator(devices_[0].get(), group_->MakeLink(0), Soon()).status();
  EXPECT_TRUE(other->Wait(batch, Later()) == status) << "it is told";
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("NCCL has not connected all 2 ranks"));
}

TEST_F(NcclFailureTest, ConnectingWhoseAbortDoesNotEndIsReported) {
  group_.emplace(2);
  devices_[0] = nccl_.MakeDevice(0);
  nccl_.HoldAborts(true);
  std::string stuck;
  const auto other = group_->MakeLink(1);
  NcclUniqueId id;
  other->Start({.tag = {}, .out = {}, .in = {{0, id}}});
  const Status status = MakeNcclCommunicator(devices_[0].get(), group_->MakeLink(0), Soon(),
                                             {.quiet_patience_ns = kMillisecond,
                                              .on_stuck =
                                                  [&](const std::string& why) {
                                                    stuck = why;
                                                    nccl_.HoldAborts(false);
                                                  }})
                            .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(stuck, HasSubstr("rank 0: NCCL has not let go of its memory for 1 ms"));
}

TEST_F(NcclFailureTest, ADeathEndsConnecting) {
  group_.emplace(2);
  devices_[0] = nccl_.MakeDevice(0);
  const auto other = group_->MakeLink(1);
  NcclUniqueId id;
  const BatchId batch = other->Start({.tag = {}, .out = {}, .in = {{0, id}}});
  std::thread killer([&] {
    EXPECT_TRUE(other->Wait(batch, Later()).ok());
    group_->Kill(1);
  });
  const Status status =
      MakeNcclCommunicator(devices_[0].get(), group_->MakeLink(0), Later()).status();
  killer.join();
  EXPECT_EQ(status, absl::UnavailableError("rank 1 died"));
}

// ---- Failures under way. ----

TEST_F(NcclFailureTest, AnErrorThatComesLaterIsToldToAll) {
  Form(3);
  nccl_.HoldMessages(true);
  std::thread breaker([&] {
    nccl_.AwaitExchange(1);
    nccl_.Fail(1, absl::UnavailableError("remote error"));
  });
  const auto statuses = OnAllRanks([](Communicator& c) {
    std::vector<float> data(1000, 1.0F);
    return c.AllReduce(data, Later());
  });
  breaker.join();
  for (const Status& status : statuses) EXPECT_EQ(status, absl::UnavailableError("remote error"));
}

TEST_F(NcclFailureTest, ADeathThatNobodyNoticesEndsAtTheDeadline) {
  Form(3);
  nccl_.KillAfter(1, 0, [] {});
  const auto statuses = OnAllRanks([](Communicator& c) {
    std::vector<float> data(1000, 1.0F);
    return c.AllReduce(data, Soon());
  });
  for (const Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("all_reduce of 4000 bytes"));
  }
}

TEST_F(NcclFailureTest, DeviceMemoryIsQuietOnceACallHasFailed) {
  Form(2);
  std::vector<std::unique_ptr<OnDevice<uint8_t>>> all, turned;
  for (int r = 0; r < 2; ++r) {
    all.push_back(std::make_unique<OnDevice<uint8_t>>(devices_[r].get(), std::vector<uint8_t>(64)));
    turned.push_back(
        std::make_unique<OnDevice<uint8_t>>(devices_[r].get(), std::vector<uint8_t>(64)));
  }
  nccl_.HoldMessages(true);
  std::thread breaker([&] {
    nccl_.AwaitExchange(0);
    nccl_.AwaitExchange(1);
    ranks_[0]->Abort(absl::InternalError("a layer failed"));
  });
  OnAllRanks([&](Communicator& c) {
    const auto r = static_cast<size_t>(c.rank());
    const Status status = c.AllToAll(all[r]->span(), turned[r]->span(), Later());
    EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
    std::ranges::fill(turned[r]->span(), uint8_t{0xA5});
    return status;
  });
  breaker.join();
  ranks_.clear();
  for (const auto& memory : turned) {
    EXPECT_EQ(memory->values(), std::vector<uint8_t>(64, 0xA5)) << "written after the call failed";
  }
}

// Violations() says when a buffer is freed, or used again, under a message.
TEST_F(NcclFailureTest, BuffersOfAnAbortedCommunicatorAreFreedWhenItIsQuiet) {
  Form(2);
  nccl_.HoldMessages(true);
  std::thread breaker([&] {
    nccl_.AwaitExchange(1);
    ranks_[1]->Abort(absl::InternalError("a layer failed"));
  });
  OnAllRanks([](Communicator& c) {
    std::vector<uint8_t> mine(100), all(200);
    return c.AllGather(mine, all, Later());
  });
  breaker.join();
  EXPECT_GT(nccl_.Allocations(), 0u);
  ranks_.clear();
  EXPECT_EQ(nccl_.Allocations(), 0u);
}

TEST_F(NcclFailureTest, AnAbortThatDoesNotEndIsReportedAndItsMemoryKept) {
  std::promise<std::string> stuck;
  std::once_flag once;
  Form(1, {.quiet_patience_ns = kMillisecond, .on_stuck = [&](const std::string& why) {
             std::call_once(once, [&] { stuck.set_value(why); });
             nccl_.HoldAborts(false);
           }});
  nccl_.HoldAborts(true);
  ranks_[0]->Abort(absl::InternalError("a layer failed"));
  EXPECT_EQ(ranks_[0]->Barrier(Later()).code(), absl::StatusCode::kAborted);
  EXPECT_THAT(stuck.get_future().get(), HasSubstr("rank 0: NCCL has not let go of its memory"));
}

// ---- Memory. ----

TEST_F(NcclFailureTest, OperandsMayBeOnTheDeviceOrTheHost) {
  Form(3);
  const std::vector<float> terms = {0x1p-126F * 3, 1e8F, -1e8F};
  const auto statuses = OnAllRanks([&](Communicator& c) {
    const auto r = static_cast<size_t>(c.rank());
    std::vector<float> host(101, terms[r]);
    OnDevice<float> device(DeviceOf(c), host);
    RETURN_IF_ERROR(c.AllReduce(host, Later()));
    RETURN_IF_ERROR(c.AllReduce(device.span(), Later()));
    EXPECT_EQ(host, std::vector<float>(101, (terms[0] + terms[1]) + terms[2]));
    EXPECT_EQ(device.values(), host);

    const std::vector<float> whole(101, terms[r]);
    OnDevice<float> mine(DeviceOf(c), std::vector<float>(ChunkOf(101, c.rank(), 3).size()));
    RETURN_IF_ERROR(c.ReduceScatter(whole, mine.span(), Later()));
    EXPECT_EQ(mine.values()[0], host[0]);

    OnDevice<uint8_t> all(DeviceOf(c), std::vector<uint8_t>(30));
    const std::vector<uint8_t> own(10, static_cast<uint8_t>(r));
    RETURN_IF_ERROR(c.AllGather(own, all.span(), Later()));
    for (size_t i = 0; i < 30; ++i) EXPECT_EQ(all.values()[i], i / 10);
    std::vector<uint8_t> turned(30);
    RETURN_IF_ERROR(c.AllToAll(all.span(), turned, Later()));
    EXPECT_EQ(turned, std::vector<uint8_t>(30, static_cast<uint8_t>(r)));
    return absl::OkStatus();
  });
  for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

// ---- Orders. ----

TEST_F(NcclFailureTest, BothSidesMaySendBeforeTheyReceive) {
  Form(2);
  const auto statuses = OnAllRanks([](Communicator& c) {
    const int peer = 1 - c.rank();
    for (uint8_t turn = 0; turn < 50; ++turn) {
      const std::vector<uint8_t> mine(1000, turn);
      std::vector<uint8_t> theirs(1000);
      ASSIGN_OR_RETURN(const ExchangeId sent, c.Start({.to = peer, .send = mine}));
      ASSIGN_OR_RETURN(const ExchangeId got, c.Start({.from = peer, .receive = theirs}));
      RETURN_IF_ERROR(c.Wait(got, Later()));
      RETURN_IF_ERROR(c.Wait(sent, Later()));
      EXPECT_EQ(theirs, mine);
    }
    return absl::OkStatus();
  });
  for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

TEST_F(NcclFailureTest, RanksMayStartTheirExchangesInAnyOrder) {
  constexpr int kRanks = 4;
  Form(kRanks);
  const auto statuses = OnAllRanks([](Communicator& c) {
    std::mt19937 random(static_cast<unsigned>(c.rank()));
    for (uint8_t turn = 0; turn < 30; ++turn) {
      const std::vector<uint8_t> mine(300, static_cast<uint8_t>(c.rank() * 50 + turn));
      std::vector<std::vector<uint8_t>> theirs(kRanks, std::vector<uint8_t>(300));
      std::vector<Exchange> exchanges;
      for (int peer = 0; peer < kRanks; ++peer) {
        if (peer == c.rank()) continue;
        exchanges.push_back({.to = peer, .send = mine});
        exchanges.push_back({.from = peer, .receive = theirs[static_cast<size_t>(peer)]});
      }
      std::ranges::shuffle(exchanges, random);
      std::vector<ExchangeId> started;
      for (const Exchange& exchange : exchanges) {
        ASSIGN_OR_RETURN(const ExchangeId id, c.Start(exchange));
        started.push_back(id);
      }
      for (const ExchangeId id : started) RETURN_IF_ERROR(c.Wait(id, Later()));
      for (int peer = 0; peer < kRanks; ++peer) {
        if (peer == c.rank()) continue;
        EXPECT_EQ(theirs[static_cast<size_t>(peer)],
                  std::vector<uint8_t>(300, static_cast<uint8_t>(peer * 50 + turn)));
      }
    }
    return absl::OkStatus();
  });
  for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

// ---- Leaving. ----

TEST_F(NcclFailureTest, ARankMayLeaveWhileOthersGoOnWithoutIt) {
  Form(3);
  ranks_.pop_back();
  const auto statuses = OnAllRanks([](Communicator& c) {
    std::vector<uint8_t> data(100);
    return c.rank() == 0 ? c.Send(1, data, Later()) : c.Recv(0, data, Later());
  });
  for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  std::vector<uint8_t> data(100);
  EXPECT_EQ(ranks_[0]->Send(2, data, Later()), absl::UnavailableError("rank 2 has left"));
}

TEST_F(NcclFailureTest, WithRankZeroTheGroupEnds) {
  Form(2);
  ranks_[0].reset();
  EXPECT_EQ(ranks_[1]->Barrier(Later()),
            absl::UnavailableError("rank 0 has left, which orders the calls"));
}

}  // namespace
}  // namespace reprise::parallel
