// The replicas of a stage process, both ways: rows of its own are appended to a neighbour as they
// are computed, and rows of a neighbour are taken, through the product's KvStream::Append. Owned by
// the stage; orders from its reader, Written from its executor, the rest on stream threads and an
// own one that packs.
//
// Invariants:
// 1. At most kUnacknowledgedBytesMax are under way to one neighbour; beyond it rows wait where they
//    are, and computing never waits.
// 2. A neighbour holds the rows of a sequence from the first on without a gap.
#ifndef REPRISE_BENCH_DEJAVU_REPLICAS_H_
#define REPRISE_BENCH_DEJAVU_REPLICAS_H_

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bench/dejavu_rows.h"
#include "bench/dejavu_wire.h"
#include "common/mutex.h"
#include "common/thread.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::bench {

class DejavuReplicas : public kv::TailSink {
 public:
  // Gets an order back whose neighbour was lost; on any thread.
  using Lost = std::function<void(StageMessage order)>;
  DejavuReplicas(DejavuRows* rows, size_t row_bytes, Lost lost)
      : rows_(rows), row_bytes_(row_bytes), lost_(std::move(lost)) {}
  ~DejavuReplicas() override { Stop(); }

  // `stream` has this as its sink and ends after Stop.
  void Start(kv::KvStream* stream);
  void Stop();

  // From now on (space, sequence) goes to order.peer, from the first row that it lacks.
  void Replicate(const StageMessage& order);
  void Written(const RowKey& key);
  void Forget(uint32_t sequence);

  std::vector<kv::HeldRows> OnAppend(const NodeKey& from, std::span<const kv::TailEntry> entries,
                                     std::span<const uint8_t> rows) override;
  void OnRelease(const NodeKey&, const RequestKey&) override {}
  StatusOr<std::vector<kv::TailState>> OnQuery(const NodeKey&, const RequestKey&) override {
    return absl::UnimplementedError("the controller asks how many rows a stage holds");
  }
  void OnFence(const RequestKey&) override {}
  void OnPeerLost(const NodeKey&) override {}

 private:
  struct Target {
    StageMessage order;
    uint32_t sent = 0;
    uint32_t held = 0;
    bool answered = false;  // before, one row is sent, to learn what is there
  };
  void Loop();
  // Rows to send now; empty when nothing may be sent.
  std::pair<uint32_t, uint32_t> NextLocked(const Target& target, uint32_t prefix) const
      REQUIRES(mu_);
  Status Append(const RowKey& key, const StagePeer& peer, uint32_t first, uint32_t end);
  void TakeHeld(const kv::HeldRows& held);
  void LosePeer(const std::string& name);

  DejavuRows* const rows_;
  const size_t row_bytes_;
  const Lost lost_;
  kv::KvStream* stream_ = nullptr;
  Mutex mu_;
  CondVar changed_;
  std::map<RowKey, Target> targets_ GUARDED_BY(mu_);
  std::set<RowKey> due_ GUARDED_BY(mu_);          // may have rows to send
  std::set<uint32_t> forgotten_ GUARDED_BY(mu_);  // sequences; numbers do not come again
  bool stopping_ GUARDED_BY(mu_) = false;
  Thread thread_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_DEJAVU_REPLICAS_H_
