// A process's place in its groups: owns the transport, dials and admits peers, and makes a
// communicator for each epoch that this process takes part in. Owned by whoever runs the rank;
// outlives the communicators it made.
//
// Threads: Create, Join and the destructor from any thread, one at a time for a group; all else
// runs on the transport's loop.
//
// Invariants:
// 1. Rank r dials ranks 0 to r-1 and says group, epoch, size and both ranks; the other side admits
//    it only when it is in that very epoch and the place is free.
// 2. Epochs of a group only rise in a process: joining one kills the communicators of earlier ones,
//    and whoever comes from an earlier one is refused (FAILED_PRECONDITION naming both). Who comes
//    from a group or epoch that has not begun here waits, limits::kGroupStrangersMax at most.
// 3. Every message and payload names its group and epoch; another's ends the connection.
#ifndef REPRISE_WORKER_PARALLEL_GROUP_HOST_H_
#define REPRISE_WORKER_PARALLEL_GROUP_HOST_H_

#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "kvstore/transport/transport.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/group_member.h"

namespace reprise::parallel {

struct RankAddress {
  std::string host;  // numeric
  int port = 0;
};

// The same on all ranks, `rank` aside.
struct GroupSpec {
  uint64_t group = 0;
  uint64_t epoch = 1;
  int rank = 0;
  std::vector<RankAddress> addresses;  // by rank
};

class GroupHost final : public kv::TransportHandler {
 public:
  // The transport listens and has not been started.
  explicit GroupHost(std::unique_ptr<kv::Transport> transport);
  ~GroupHost() override;

  int port() const { return transport_->port(); }
  // Returns once this rank is connected with all others. INVALID_ARGUMENT for a spec that is wrong
  // in itself or differs from a peer's, FAILED_PRECONDITION when a later epoch has begun,
  // DEADLINE_EXCEEDED naming the ranks that did not come. Peers that fail to answer are dialed
  // again until the deadline. ABORTED once `stop` is requested; peers that are connected are told.
  StatusOr<std::unique_ptr<Communicator>> Join(const GroupSpec& spec, TimeNs deadline_ns,
                                               std::stop_token stop = {});
  // The same, for a back end that is built on it.
  StatusOr<std::unique_ptr<PeerLink>> JoinLink(const GroupSpec& spec, TimeNs deadline_ns,
                                               std::stop_token stop = {});

 private:
  // An open endpoint: a stranger (no member), dialed by or attached to a member.
  struct Connection {
    std::shared_ptr<GroupMember> member;
    int peer = 0;
    std::optional<wire::GroupKey> waits_for;  // of a stranger that has greeted
    wire::Hello hello;
    TimeNs close_at_ns = INT64_MAX;
  };
  struct Dial {
    std::shared_ptr<GroupMember> member;
    int peer = 0;
    RankAddress address;
    TimeNs at_ns = 0;
    kv::EndpointId endpoint = 0;  // 0: to be dialed at at_ns
  };

  void OnAccepted(kv::EndpointId endpoint) override;
  void OnMessage(kv::EndpointId endpoint, std::span<const uint8_t> message) override;
  kv::Sink OnBulk(kv::EndpointId endpoint, const kv::BulkHeader& header, size_t bytes) override;
  void OnFailed(kv::EndpointId endpoint, const Status& status) override;
  TimeNs OnWake(TimeNs now_ns) override;

  Status Check(const GroupSpec& spec) const;
  void Begin(const std::shared_ptr<GroupMember>& member, const GroupSpec& spec);
  void OnHello(kv::EndpointId endpoint, const wire::GroupKey& key, const wire::Hello& hello);
  void OnAnswer(kv::EndpointId endpoint, const wire::Envelope& envelope);
  void Admit(kv::EndpointId endpoint, const std::shared_ptr<GroupMember>& member,
             const wire::Hello& hello);
  // Says why, and closes once that has had time to arrive.
  void Refuse(kv::EndpointId endpoint, const wire::GroupKey& key, const Status& why);
  void Close(kv::EndpointId endpoint);
  TimeNs RunDials(TimeNs now_ns);
  TimeNs CloseRefused(TimeNs now_ns);

  const std::unique_ptr<kv::Transport> transport_;

  // The loop's own.
  std::map<kv::EndpointId, Connection> connections_;
  std::vector<Dial> dials_;  // until answered
  std::vector<std::shared_ptr<GroupMember>> members_;
  std::map<uint64_t, uint64_t> newest_;  // epoch of a group that has begun here
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_GROUP_HOST_H_
