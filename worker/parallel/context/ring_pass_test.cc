// How the ring uses its buffers: the next shard is on its way while one is computed, and no buffer
// is written while it is being sent or read.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <vector>

#include "worker/parallel/communicator_decorator.h"
#include "worker/parallel/context/test_sequence.h"

namespace reprise::parallel {
namespace {

// What a rank has under way, between it and its communicator.
class Watched final : public CommunicatorDecorator {
 public:
  using CommunicatorDecorator::CommunicatorDecorator;

  StatusOr<ExchangeId> Start(const Exchange& exchange) override {
    for (const auto& [id, other] : under_way_) {
      EXPECT_FALSE(Overlap(exchange.receive, other.send)) << "received into while it is sent";
      EXPECT_FALSE(Overlap(exchange.receive, other.receive)) << "received into twice";
      EXPECT_FALSE(Overlap(exchange.send, other.receive)) << "sent before it is there";
    }
    if (!exchange.receive.empty()) EXPECT_FALSE(Overlap(exchange.receive, current_)) << "in use";
    ASSIGN_OR_RETURN(const ExchangeId id, CommunicatorDecorator::Start(exchange));
    under_way_[id] = exchange;
    if (!exchange.receive.empty()) computed_ = 0;
    return id;
  }
  Status Wait(ExchangeId exchange, TimeNs deadline_ns) override {
    if (!under_way_[exchange].receive.empty()) {
      EXPECT_GT(computed_, 0) << "nothing was computed while the shard was on its way";
      ++shards_;
      current_ = under_way_[exchange].receive;
    }
    under_way_.erase(exchange);
    return CommunicatorDecorator::Wait(exchange, deadline_ns);
  }

  // Now the rank computes.
  void Compute() { ++computed_; }
  int shards() const { return shards_; }

 private:
  static bool Overlap(std::span<const uint8_t> a, std::span<const uint8_t> b) {
    return !a.empty() && !b.empty() && a.data() < b.data() + b.size() &&
           b.data() < a.data() + a.size();
  }

  std::map<ExchangeId, Exchange> under_way_;
  std::span<const uint8_t> current_;  // the shard last waited for
  int computed_ = 0;                  // since the last receive was started
  int shards_ = 0;                    // that were waited for
};

// Two sequences of two full rounds each.
TEST(RingPass, TheNextShardTravelsWhileTheCurrentOneIsComputed) {
  const TestShape shape = TestShapes()[0];
  const TestSequence sequence(shape, 16 * 512, 3);
  std::vector<Watched*> places(4);  // each thread has its own
  std::vector<int> shards(4);       // as of a rank's last computation
  TestGroup group{
      .ranks = 4, .leaves = 1, .rules = {.machine = {}, .way = Way::kRing, .merge = {}}};
  group.between = [&](Communicator& communicator) {
    auto watched = std::make_unique<Watched>(communicator);
    places[static_cast<size_t>(communicator.rank())] = watched.get();
    return watched;
  };
  group.before_compute = [&](int rank) {
    Watched& watched = *places[static_cast<size_t>(rank)];
    watched.Compute();
    shards[static_cast<size_t>(rank)] = watched.shards();
  };
  group.ExpectWhole({{&sequence, 0, 16 * 512}, {&sequence, 0, 16 * 512}});
  for (const int count : shards) EXPECT_EQ(count, 2 * 2 * 3) << "three of each round";
}

}  // namespace
}  // namespace reprise::parallel
