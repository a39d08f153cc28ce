#include "worker/engine/peer_prober.h"

#include <gtest/gtest.h>

#include "common/mutex.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::worker {
namespace {

// Answers the first `good` probes of itself and refuses those of peers; nothing else is asked of
// it.
class ProbedStream final : public kv::KvStream {
 public:
  explicit ProbedStream(int good) : good_(good) {}
  kv::PeerAddress address() const override { return {{"self", 1}, "127.0.0.1", 1}; }
  void Probe(const kv::PeerAddress& peer, TimeNs,
             std::function<void(const Status&)> done) override {
    if (!(peer.key == address().key)) {
      done(absl::DeadlineExceededError("no answer"));
      MutexLock lock(mu_);
      ++refused_;
      changed_.NotifyAll();
      return;
    }
    const int probe = ++probes_;
    done(probe <= good_ ? absl::OkStatus() : absl::DeadlineExceededError("no answer"));
    MutexLock lock(mu_);
    answered_ = probe;
    changed_.NotifyAll();
  }
  void AwaitProbes(int probes) {
    MutexLock lock(mu_);
    while (answered_ < probes) changed_.Wait(mu_);
  }

  void AwaitRefused(int probes) {
    MutexLock lock(mu_);
    while (refused_ < probes) changed_.Wait(mu_);
  }

  Status Register(void*, size_t) override { return absl::OkStatus(); }
  StatusOr<kv::FetchHandle> Fetch(kv::FetchSpec, std::shared_ptr<kv::FetchListener>) override {
    return absl::UnimplementedError("not probed");
  }
  void CancelFetch(kv::FetchHandle) override {}
  void Publish(const kv::BlockId&, uint32_t, std::vector<uint32_t>) override {}
  void Withdraw(const kv::BlockId&) override {}
  void Offer(const kv::PeerAddress&, kv::BlockOffer) override {}
  void OnOffer(std::function<void(kv::BlockOffer)>) override {}
  void Append(const kv::PeerAddress&, kv::TailAppend) override {}
  void Release(const kv::PeerAddress&, const RequestKey&) override {}
  void QueryTails(const kv::PeerAddress&, const RequestKey&, TimeNs,
                  std::function<void(const Status&, std::vector<kv::TailState>)>) override {}
  void OnHeld(std::function<void(const NodeKey&, std::vector<kv::HeldRows>)>) override {}
  void OnReplicaLost(std::function<void(const NodeKey&, const Status&)>) override {}
  void TellHeld(const NodeKey&, std::vector<kv::HeldRows>) override {}
  void FenceRequest(const RequestKey&) override {}
  kv::StreamStats stats() const override { return {}; }
  StatusOr<std::string> DescribeLanes(const NodeKey&) const override {
    return absl::UnimplementedError("not probed");
  }

 private:
  const int good_;
  int probes_ = 0;  // of the prober's thread
  Mutex mu_;
  CondVar changed_;
  int answered_ GUARDED_BY(mu_) = 0;
  int refused_ GUARDED_BY(mu_) = 0;
};

TEST(PeerProber, AStreamIsStuckAfterRoundsOfProbesThatFailed) {
  constexpr int kGood = 3;
  ProbedStream stream(kGood);
  PeerProber prober(&stream, kMicrosecond);
  prober.Start();
  stream.AwaitProbes(kGood + PeerProber::kStuckRounds + 1);
  EXPECT_TRUE(prober.Stuck());
  prober.Stop();
}

TEST(PeerProber, AStreamThatAnswersIsNot) {
  ProbedStream stream(1'000'000'000);
  PeerProber prober(&stream, kMicrosecond);
  EXPECT_FALSE(prober.Stuck());
  prober.Start();
  stream.AwaitProbes(10 * PeerProber::kStuckRounds);
  prober.Stop();
  EXPECT_FALSE(prober.Stuck());
}

TEST(PeerProber, APeerThatDoesNotAnswerIsUnreachable) {
  ProbedStream stream(1'000'000'000);
  PeerProber prober(&stream, kMicrosecond);
  prober.SetPeers({{{{"peer", 1}, "127.0.0.1:1", "127.0.0.1:2"}, ""}});
  prober.Start();
  stream.AwaitRefused(1);
  prober.Stop();
  EXPECT_EQ(prober.Unreachable(), std::vector<std::string>{"peer"});
}

TEST(PeerProber, WhoseOwnStreamDoesNotAnswerEitherAccusesNobody) {
  ProbedStream stream(0);
  PeerProber prober(&stream, kMicrosecond);
  prober.SetPeers({{{{"peer", 1}, "127.0.0.1:1", "127.0.0.1:2"}, ""}});
  prober.Start();
  stream.AwaitRefused(3);
  prober.Stop();
  EXPECT_EQ(prober.Unreachable(), std::vector<std::string>{});
}

}  // namespace
}  // namespace reprise::worker
