// One rank in one epoch of a group, as the transport's loop sees it: a channel and a connection a
// peer, the first failure, and the quiet after it. Shared by the host and by completions under way,
// which is why it is held by shared_ptr. LinkState is what the calling thread waits on.
//
// Threads: the loop, LinkState aside.
//
// Invariants:
// 1. A failure is told to every peer; a connection ends when its peer has told its own failure, or
//    after kFarewellNs, so that a cause is not overtaken by its consequences.
// 2. LinkState is quiet once no payload is under way after a failure; none begins then.
#ifndef REPRISE_WORKER_PARALLEL_GROUP_MEMBER_H_
#define REPRISE_WORKER_PARALLEL_GROUP_MEMBER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "kvstore/transport/transport.h"
#include "worker/parallel/peer_channel.h"

namespace reprise::parallel {

inline constexpr TimeNs kFarewellNs = 200 * kMillisecond;
inline constexpr TimeNs kLeaveNs = kSecond;  // for peers to say that they leave, too

struct LinkState {
  Mutex mu;
  CondVar changed;
  Status status GUARDED_BY(mu);
  bool quiet GUARDED_BY(mu) = false;
  bool joined GUARDED_BY(mu) = false;
  std::map<BatchId, size_t> unfinished GUARDED_BY(mu);  // messages left; absent: done

  // The first cause; returns the one that counts.
  Status Fail(const Status& cause);
};

class GroupMember final : public ChannelOutput, public std::enable_shared_from_this<GroupMember> {
 public:
  struct Options {
    wire::GroupKey key;
    int rank = 0;
    int size = 0;
    kv::Transport* transport = nullptr;
    std::function<void(kv::EndpointId)> close;  // the host's, which forgets the endpoint
  };
  GroupMember(const Options& options, std::shared_ptr<LinkState> state);

  const wire::GroupKey& key() const { return options_.key; }
  int rank() const { return options_.rank; }
  int size() const { return options_.size; }
  bool dead() const { return dead_; }
  bool leaving() const { return leaving_; }
  bool attached(int peer) const { return endpoints_.contains(peer); }
  // Nothing of it is left on the transport.
  bool gone() const { return (dead_ || leaving_) && endpoints_.empty() && operations_ == 0; }

  // The peer and this rank have agreed to talk.
  void Attach(int peer, kv::EndpointId endpoint);
  void OnMessage(int peer, wire::Message message);
  kv::Sink OnBulk(int peer, uint64_t sequence, size_t bytes);
  void OnEndpointFailed(int peer, const Status& status);
  TimeNs OnWake(TimeNs now_ns);

  void Start(BatchId id, const Batch& batch);
  // DEADLINE_EXCEEDED naming the ranks that are missing, unless the batch has ended.
  void Expire(BatchId batch);
  void ExpireJoin();
  void Fail(const Status& cause);
  // The communicator is gone, with nothing under way.
  void Leave();

  void Emit(int peer, wire::Message message) override;
  void EmitBulk(int peer, uint64_t sequence, std::span<const uint8_t> payload) override;
  void Finished(BatchId batch) override;
  void Broken(const Status& cause) override { Fail(cause); }

 private:
  void Drop(int peer);
  void DropAll();
  void OperationEnded(int peer, const Status& status);
  void ReportQuiet();

  const Options options_;
  const std::shared_ptr<LinkState> state_;
  std::map<int, PeerChannel> channels_;      // by rank
  std::map<int, kv::EndpointId> endpoints_;  // open ones
  size_t attached_ = 0;
  size_t operations_ = 0;  // payloads the transport reads or writes
  bool dead_ = false;
  bool leaving_ = false;
  TimeNs drop_at_ns_ = INT64_MAX;
  // A payload that failed is a consequence; its cause has this long to arrive.
  Status suspicion_;
  TimeNs suspicion_at_ns_ = INT64_MAX;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_GROUP_MEMBER_H_
