// The communicators of a rank in one epoch of its group: with all ranks, and with those of each
// kind of work that its place shares. A value that is moved; one thread.
#ifndef REPRISE_WORKER_GROUP_GROUP_LINKS_H_
#define REPRISE_WORKER_GROUP_GROUP_LINKS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "kvstore/block/group_split.h"
#include "worker/parallel/communicator.h"
#include "worker/parallel/group_host.h"

namespace reprise::worker {

struct GroupLinks {
  kv::GroupSplit split;
  uint32_t rank = 0;
  kv::RankPlace place;
  std::unique_ptr<parallel::Communicator> world;
  // Null where there is nobody else.
  std::unique_ptr<parallel::Communicator> tensor;
  std::unique_ptr<parallel::Communicator> pipeline;
  std::unique_ptr<parallel::Communicator> context;

  // Ends all of it, here and at every other rank. Any thread.
  void Abort(const Status& reason) const;
};

struct EpochSpec {
  uint64_t group = 0;  // of its driver's process
  uint64_t epoch = 1;
  kv::GroupSplit split;
  uint32_t rank = 0;
  std::vector<parallel::RankAddress> addresses;  // by rank
};

// What all ranks of a group must have in common to compute together: the driver says it.
struct GroupTerms {
  std::string format_text;            // of whole pages
  std::vector<uint32_t> tensor_sums;  // of the whole model, ModelFingerprint::Sums
  int32_t pages = 0;
};

// Joins the communicator of one kind of work. Statuses are GroupHost::Join's.
using LinkMaker = std::function<StatusOr<std::unique_ptr<parallel::Communicator>>(
    parallel::GroupHost& host, const parallel::GroupSpec& spec, TimeNs deadline_ns,
    const std::stop_token& stop)>;

// How long ranks that are all ready may take to find each other.
inline constexpr TimeNs kGroupConnectNs = 5 * kSecond;

// Returns once every rank has joined. Statuses are GroupHost::Join's, ABORTED once `stop` is
// requested included; after a failure the ranks that had joined are told. `maker` joins all but
// the world's; empty: the host does.
StatusOr<GroupLinks> JoinLinks(parallel::GroupHost& host, const EpochSpec& spec, TimeNs deadline_ns,
                               const std::stop_token& stop, const LinkMaker& maker = nullptr);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_GROUP_LINKS_H_
