#include "coordinator/leader/leader_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"

namespace reprise::coordinator {
namespace {

using State = LeaderCore::State;

const LeaderRecord kOther{7, "other", "127.0.0.1:2"};

class LeaderCoreTest : public ::testing::Test {
 protected:
  void RunFor(int64_t ms) {
    for (int64_t t = 0; t < ms; t += 50) {
      now_ += 50 * kMillisecond;
      core_.OnTick(now_);
    }
  }
  // Silence long enough for any jitter; the one command it brings.
  void WaitForTry() {
    for (int i = 0; i < 60 && core_.state() != State::kCandidate; ++i) RunFor(50);
    ASSERT_EQ(core_.state(), State::kCandidate);
    const auto commands = core_.TakeCommands();
    ASSERT_EQ(commands.size(), 1u);
    ASSERT_TRUE(std::holds_alternative<ReadKey>(commands[0]));
  }
  TakeKey Wanted() {
    const auto commands = core_.TakeCommands();
    if (commands.size() != 1 || !std::holds_alternative<TakeKey>(commands[0])) {
      ADD_FAILURE() << commands.size() << " commands";
      return {};
    }
    return std::get<TakeKey>(commands[0]);
  }
  void Elect(int64_t revision = 0, LeaderRecord record = {}) {
    WaitForTry();
    core_.OnRead(StoredLeader{revision, std::move(record)}, now_);
    Wanted();
    core_.OnTaken(true, now_);
    ASSERT_EQ(core_.state(), State::kLeader);
    core_.TakeCommands();
  }

  TimeNs now_ = 100 * kSecond;
  LeaderCore core_{{.name = "me", .address = "127.0.0.1:1", .seed = 3}, now_};
};

TEST_F(LeaderCoreTest, TakesTheKeyAfterSilenceAndBeats) {
  RunFor(550);
  EXPECT_EQ(core_.state(), State::kFollower);
  EXPECT_FALSE(core_.MayOrder(now_));
  WaitForTry();
  core_.OnRead(StoredLeader{}, now_);
  const TakeKey take = Wanted();
  EXPECT_EQ(take.revision, 0);
  EXPECT_EQ(take.record, (LeaderRecord{1, "me", "127.0.0.1:1"}));
  EXPECT_FALSE(core_.MayOrder(now_));
  core_.OnTaken(true, now_);
  EXPECT_EQ(core_.state(), State::kLeader);
  EXPECT_TRUE(core_.MayOrder(now_));
  EXPECT_EQ(core_.epoch(), 1u);
  EXPECT_EQ(core_.elections(), 1u);
  auto beats = core_.TakeCommands();
  ASSERT_EQ(beats.size(), 1u);  // at once
  EXPECT_EQ(std::get<BeatPeers>(beats[0]).record, take.record);
  RunFor(450);
  EXPECT_EQ(core_.TakeCommands().size(), 3u);  // and every 150 ms
}

TEST_F(LeaderCoreTest, BeatsKeepAFollowerAndItsEpochRises) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(core_.OnBeat(kOther, now_), 7u);
    RunFor(150);
  }
  EXPECT_EQ(core_.state(), State::kFollower);
  EXPECT_EQ(core_.leader(), kOther);
  EXPECT_EQ(core_.OnBeat({6, "old", "127.0.0.1:3"}, now_), 7u);
  EXPECT_EQ(core_.leader(), kOther);
  WaitForTry();
  core_.OnRead(StoredLeader{40, kOther}, now_);
  const TakeKey take = Wanted();
  EXPECT_EQ(take.revision, 40);
  EXPECT_EQ(take.record.epoch, 8u);
}

TEST_F(LeaderCoreTest, ALeaderThatHearsOfAHigherEpochStepsDownAtOnce) {
  Elect();
  core_.OnEpoch(1, now_);
  EXPECT_EQ(core_.state(), State::kLeader);
  core_.OnEpoch(2, now_);
  EXPECT_EQ(core_.state(), State::kFollower);
  EXPECT_EQ(core_.epoch(), 2u);
  EXPECT_FALSE(core_.leader());
  EXPECT_EQ(core_.steps_down(), 1u);
  EXPECT_FALSE(core_.MayOrder(now_));
  core_.OnBeat({2, "other", "127.0.0.1:2"}, now_);
  EXPECT_EQ(core_.leader()->name, "other");
}

TEST_F(LeaderCoreTest, WhoeverFindsAnotherJustElectedFollows) {
  WaitForTry();
  core_.OnRead(StoredLeader{40, kOther}, now_);
  EXPECT_EQ(core_.state(), State::kFollower);
  EXPECT_EQ(core_.leader(), kOther);
  EXPECT_TRUE(core_.TakeCommands().empty());
  WaitForTry();  // it never beat
  core_.OnRead(StoredLeader{40, kOther}, now_);
  EXPECT_EQ(Wanted().record.epoch, 8u);
}

TEST_F(LeaderCoreTest, ALostRaceWaitsForTheWinnersBeats) {
  WaitForTry();
  core_.OnRead(StoredLeader{}, now_);
  Wanted();
  core_.OnTaken(false, now_);
  EXPECT_EQ(core_.state(), State::kFollower);
  RunFor(550);
  EXPECT_EQ(core_.state(), State::kFollower);
}

TEST_F(LeaderCoreTest, AnAnswerThatWasLostIsNeverTakenForAnElection) {
  WaitForTry();
  core_.OnRead(StoredLeader{}, now_);
  Wanted();
  core_.OnTaken(absl::DeadlineExceededError("no answer"), now_);
  EXPECT_EQ(core_.state(), State::kFollower);
  WaitForTry();
  core_.OnRead(StoredLeader{9, {1, "me", "127.0.0.1:1"}}, now_);  // it had been taken
  EXPECT_EQ(core_.state(), State::kCandidate);
  EXPECT_EQ(Wanted().record.epoch, 2u);
}

TEST_F(LeaderCoreTest, EpochsNodesHaveSeenAreNeverUsedAgainThoughEtcdForgotThem) {
  core_.OnEpoch(30, now_);
  WaitForTry();
  core_.OnRead(StoredLeader{}, now_);
  EXPECT_EQ(Wanted().record.epoch, 31u);
}

TEST_F(LeaderCoreTest, WithEtcdAwayItTriesMoreAndMoreRarely) {
  std::vector<TimeNs> tries;
  for (int i = 0; i < 8; ++i) {
    WaitForTry();
    tries.push_back(now_);
    core_.OnRead(absl::UnavailableError("etcd is away"), now_);
    EXPECT_EQ(core_.state(), State::kFollower);
  }
  EXPECT_LT(tries[1] - tries[0], 300 * kMillisecond);
  EXPECT_GE(tries[7] - tries[6], 600 * kMillisecond);
  EXPECT_LE(tries[7] - tries[6], 1900 * kMillisecond);
}

TEST_F(LeaderCoreTest, AWinThatComesAfterAHigherBeatIsNone) {
  WaitForTry();
  core_.OnRead(StoredLeader{}, now_);
  Wanted();
  core_.OnBeat(kOther, now_);
  core_.OnTaken(true, now_);
  EXPECT_EQ(core_.state(), State::kFollower);
  EXPECT_EQ(core_.leader(), kOther);
}

TEST_F(LeaderCoreTest, AFollowerThatWasFrozenGivesTheLeaderTimeToBeHeard) {
  core_.OnBeat(kOther, now_);
  RunFor(100);
  now_ += 10 * kSecond;
  RunFor(50);
  EXPECT_EQ(core_.state(), State::kFollower);
}

TEST_F(LeaderCoreTest, ALeaderThatWasFrozenListensBeforeItOrders) {
  Elect();
  RunFor(200);
  now_ += 5 * kSecond;
  EXPECT_FALSE(core_.MayOrder(now_));  // before its first tick, too
  RunFor(50);
  EXPECT_EQ(core_.state(), State::kLeader);
  EXPECT_FALSE(core_.MayOrder(now_));
  RunFor(300);
  EXPECT_TRUE(core_.MayOrder(now_));
}

// Three members with clocks that stop now and then, beats that get lost and an etcd that goes away
// and sometimes does what it was asked without saying so.
class Group {
 public:
  explicit Group(uint64_t seed) : random_(seed) {
    for (int i = 0; i < 3; ++i) {
      members_.push_back({LeaderCore({.name = absl::StrCat("m", i),
                                      .address = absl::StrCat("h:", i),
                                      .seed = seed * 3 + static_cast<uint64_t>(i)},
                                     now_)});
    }
  }

  void RunFor(int64_t ms) {
    for (int64_t t = 0; t < ms; t += 10) Step();
  }
  void FreezeOne() { members_[random_.Below(3)].frozen_until = now_ + NsFromMs(RandomMs(2000)); }
  bool etcd_up = true;
  double loss = 0;

  int leaders() const {
    int count = 0;
    for (const Member& member : members_) count += member.core.state() == State::kLeader ? 1 : 0;
    return count;
  }
  const LeaderCore& member(size_t i) const { return members_[i].core; }
  size_t leader() const {
    for (size_t i = 0; i < members_.size(); ++i) {
      if (members_[i].core.state() == State::kLeader) return i;
    }
    return 99;
  }
  size_t epochs_led() const { return led_.size(); }

 private:
  struct Member {
    LeaderCore core;
    TimeNs frozen_until = 0;
    TimeNs tick_at = 0;
  };
  struct Delivery {
    TimeNs at;
    size_t to;
    std::function<void(Member&, TimeNs)> run;
  };

  int64_t RandomMs(uint64_t below) { return static_cast<int64_t>(random_.Below(below)); }
  void Later(size_t to, uint64_t ms_max, std::function<void(Member&, TimeNs)> run) {
    deliveries_.push_back({now_ + NsFromMs(1 + RandomMs(ms_max)), to, std::move(run)});
  }

  void Step() {
    now_ += 10 * kMillisecond;
    for (size_t i = 0; i < members_.size(); ++i) {
      Member& member = members_[i];
      if (now_ < member.frozen_until || now_ < member.tick_at) continue;
      member.tick_at = now_ + 50 * kMillisecond;
      member.core.OnTick(now_);
      Drain(i);
    }
    const std::vector<Delivery> due = TakeDue();
    for (const Delivery& delivery : due) {
      delivery.run(members_[delivery.to], now_);
      Drain(delivery.to);
    }
  }
  // What waits for a frozen member comes when it thaws.
  std::vector<Delivery> TakeDue() {
    std::vector<Delivery> due, later;
    for (Delivery& delivery : deliveries_) {
      const bool now = delivery.at <= now_ && now_ >= members_[delivery.to].frozen_until;
      (now ? due : later).push_back(std::move(delivery));
    }
    deliveries_ = std::move(later);
    return due;
  }

  void Drain(size_t from) {
    for (const LeaderCommand& command : members_[from].core.TakeCommands()) {
      if (std::holds_alternative<ReadKey>(command)) {
        StatusOr<StoredLeader> read = key_;
        if (!etcd_up) read = absl::UnavailableError("away");
        Later(from, 100, [read](Member& m, TimeNs now) { m.core.OnRead(read, now); });
      } else if (const auto* take = std::get_if<TakeKey>(&command)) {
        // The request is on its way before it counts.
        Later(from, 50, [this, from, take = *take](Member&, TimeNs) { Take(from, take); });
      } else {
        Broadcast(from, std::get<BeatPeers>(command).record);
      }
    }
  }
  void Take(size_t from, const TakeKey& take) {
    StatusOr<bool> taken = etcd_up && take.revision == key_.revision;
    if (taken.ok() && *taken) key_ = {key_.revision + 1, take.record};
    if (!etcd_up || random_.Chance(loss / 4)) taken = absl::UnavailableError("no answer");
    Later(from, 50, [taken](Member& m, TimeNs now) { m.core.OnTaken(taken, now); });
  }
  void Broadcast(size_t from, const LeaderRecord& record) {
    const auto [it, fresh] = led_.try_emplace(record.epoch, from);
    EXPECT_EQ(it->second, from) << "two leaders under epoch " << record.epoch;
    if (fresh) EXPECT_EQ(record.epoch, led_.rbegin()->first) << "an epoch began after a later one";
    for (size_t to = 0; to < members_.size(); ++to) {
      if (to == from || random_.Chance(loss)) continue;
      Later(to, 20, [this, from, record](Member& m, TimeNs now) {
        const uint64_t epoch = m.core.OnBeat(record, now);
        if (random_.Chance(loss)) return;
        Later(from, 20, [epoch](Member& back, TimeNs at) { back.core.OnEpoch(epoch, at); });
      });
    }
  }

  SplitMix64 random_;
  TimeNs now_ = 100 * kSecond;
  std::vector<Member> members_;
  std::vector<Delivery> deliveries_;
  StoredLeader key_;
  std::map<uint64_t, size_t> led_;  // who beat under which epoch
};

TEST(LeaderModel, NeverTwoUnderOneEpochAndOneInTheEndWhateverHappens) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Group group(seed);
    SplitMix64 random(seed ^ 0xabcdef);
    for (int round = 0; round < 20; ++round) {
      group.etcd_up = random.Chance(0.7);
      group.loss = random.Chance(0.5) ? 0.3 : 0;
      if (random.Chance(0.5)) group.FreezeOne();
      group.RunFor(500);
    }
    group.etcd_up = true;
    group.loss = 0;
    group.RunFor(6000);
    ASSERT_EQ(group.leaders(), 1);
    const LeaderCore& leader = group.member(group.leader());
    for (size_t i = 0; i < 3; ++i) ASSERT_EQ(group.member(i).leader(), leader.leader());
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(LeaderModel, TheSittingLeaderGoesOnWithEtcdAwayAndNobodyElseIsElected) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Group group(seed);
    group.RunFor(3000);
    ASSERT_EQ(group.leaders(), 1);
    const size_t leader = group.leader();
    const size_t epochs = group.epochs_led();
    group.etcd_up = false;
    group.loss = 0.1;
    group.RunFor(20'000);
    EXPECT_EQ(group.leader(), leader);
    EXPECT_EQ(group.leaders(), 1);
    EXPECT_EQ(group.epochs_led(), epochs);
  }
}

}  // namespace
}  // namespace reprise::coordinator
