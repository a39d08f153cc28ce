// Which processes are the ranks of a group, as its driver sees them: looks who lives, gives every
// place to one of them, the one that had it before or else one that holds its weights, and forms
// the next epoch. Owned by the GroupExecutor. Form from one thread, Check from another.
//
// Invariants:
// 1. Epochs rise. A place changes its process only when that process does not answer.
// 2. There may be more processes than places: the others are spares.
// 3. Once `stop` is set nothing here waits for anybody: calls and joins under way are cancelled.
#ifndef REPRISE_WORKER_GROUP_GROUP_MEMBERS_H_
#define REPRISE_WORKER_GROUP_GROUP_MEMBERS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/role.h"
#include "common/status.h"
#include "kvstore/block/group_split.h"
#include "reprise/v1/group.grpc.pb.h"
#include "worker/group/group_links.h"
#include "worker/parallel/group_host.h"

namespace reprise::worker {

// How long a process may take to say that it lives while a group is formed.
inline constexpr TimeNs kGroupLookNs = kSecond;

struct GroupMembersOptions {
  std::string owner;        // the worker's name
  uint64_t generation = 1;  // of this process; a later one's is higher
  uint64_t group = 0;       // random
  kv::GroupSplit split;
  std::string host;  // of this process's own transport
  std::vector<std::string>
      ranks;  // gRPC addresses: at least as many as places besides the driver's
  TimeNs look_ns = kGroupLookNs;
  TimeNs connect_ns = kGroupConnectNs;
  LinkMaker link_maker = nullptr;  // JoinLinks'
};

// How long the parts of a formation took.
struct FormTimes {
  TimeNs find_ns = 0;  // until enough processes answered
  TimeNs join_ns = 0;  // until all had joined, loading included
  TimeNs load_ns = 0;  // the longest that one of them loaded weights
};

class GroupMembers {
 public:
  // `host` and `stop` outlive it.
  GroupMembers(GroupMembersOptions options, parallel::GroupHost* host, StopSignal* stop);

  // The next epoch. Tries until the deadline or the stop; UNAVAILABLE names who is missing, or says
  // that this process stops, any other status will not go away: FAILED_PRECONDITION when a later
  // driver has the ranks, INVALID_ARGUMENT when they serve something else.
  StatusOr<GroupLinks> Form(const GroupTerms& terms, TimeNs deadline_ns, FormTimes* times);
  // OK while every rank of the current epoch answers. UNAVAILABLE names one that does not: at once
  // when its process is gone, after `patience` calls in a row when it says nothing.
  Status Check(TimeNs timeout_ns, int patience);

  uint64_t epoch() const;
  int replaced() const;  // places that another process took over

 private:
  struct Process {
    std::string address;
    std::unique_ptr<v1::GroupRank::Stub> stub;
  };
  struct Seen {
    Status status;
    v1::LookResponse look;
  };
  Seen Look(const Process& process, TimeNs timeout_ns) const;
  std::vector<Seen> LookAtAll(TimeNs timeout_ns) const;
  // The process of each place from 1 on, or what is missing.
  StatusOr<std::vector<size_t>> Choose(const std::vector<Seen>& seen) const;
  // One attempt at the next epoch, of a Form that began at `start_ns`.
  StatusOr<GroupLinks> FormOnce(const GroupTerms& terms, TimeNs start_ns, TimeNs deadline_ns,
                                FormTimes* times);
  // Asks the processes of places 1 and on to join, all at once.
  Status CallJoins(const std::vector<size_t>& chosen, const v1::JoinRequest& request,
                   TimeNs timeout_ns, FormTimes* times) const;
  StatusOr<GroupLinks> JoinAll(const std::vector<size_t>& chosen, const std::vector<Seen>& seen,
                               const GroupTerms& terms, TimeNs deadline_ns, FormTimes* times);

  const GroupMembersOptions options_;
  parallel::GroupHost* const host_;
  StopSignal* const stop_;
  const std::vector<Process> processes_;
  mutable Mutex mu_;
  std::vector<size_t> holders_ GUARDED_BY(mu_);  // by place from 1 on: index of its process
  std::vector<int> silent_ GUARDED_BY(mu_);      // looks in a row, by process
  uint64_t epoch_ GUARDED_BY(mu_) = 0;
  int replaced_ GUARDED_BY(mu_) = 0;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_GROUP_MEMBERS_H_
