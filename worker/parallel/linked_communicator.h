// The collectives, once for every back end: direct exchanges between all pairs of ranks over a
// PeerLink. Owned and called as communicator.h says; owns its link and what knows its memory.
//
// A reduction runs in segments of at most kReduceSegmentElements a rank, so that the memory for the
// other ranks' terms is bounded: each rank gets the terms of its chunk, adds them, sends the sum.
#ifndef REPRISE_WORKER_PARALLEL_LINKED_COMMUNICATOR_H_
#define REPRISE_WORKER_PARALLEL_LINKED_COMMUNICATOR_H_

#include <memory>
#include <set>
#include <vector>

#include "worker/parallel/communicator.h"
#include "worker/parallel/peer_link.h"

namespace reprise::parallel {

inline constexpr size_t kReduceSegmentElements = size_t{1} << 18;  // 1 MiB of a rank's chunk

class LinkedCommunicator final : public Communicator {
 public:
  explicit LinkedCommunicator(std::unique_ptr<PeerLink> link,
                              std::unique_ptr<LinkMemory> memory = std::make_unique<LinkMemory>())
      : memory_(std::move(memory)), link_(std::move(link)) {}

  int rank() const override { return link_->rank(); }
  int size() const override { return link_->size(); }
  Status status() const override { return link_->status(); }
  void Abort(const Status& reason) override;
  const CommunicatorStats& stats() const override { return stats_; }

  StatusOr<ExchangeId> Start(const Exchange& exchange) override;
  Status Wait(ExchangeId exchange, TimeNs deadline_ns) override;
  Status Barrier(TimeNs deadline_ns) override;
  Status AllReduce(std::span<float> data, TimeNs deadline_ns) override;
  Status ReduceScatter(std::span<const float> data, std::span<float> mine,
                       TimeNs deadline_ns) override;
  Status AllGather(std::span<const uint8_t> mine, std::span<const size_t> sizes,
                   std::span<uint8_t> all, TimeNs deadline_ns) override;
  Status AllToAll(std::span<const uint8_t> send, std::span<const size_t> send_sizes,
                  std::span<uint8_t> receive, std::span<const size_t> receive_sizes,
                  TimeNs deadline_ns) override;
  using Communicator::AllGather;
  using Communicator::AllToAll;

 private:
  // An error only once all memory is quiet, as every call promises.
  Status Alive() { return link_->Wait(kNoBatch, INT64_MAX); }
  // The caller's mistake ends the group, as one seen by a peer would.
  Status Refuse(const std::string& message);
  // What failed here ends the group.
  Status Fail(const Status& cause);
  Status Copy(std::span<const uint8_t> from, std::span<uint8_t> to);
  Status CheckSizes(std::span<const size_t> sizes, size_t total, const char* what);
  CallTag BeginCall(Op op, size_t bytes);
  BatchId Post(Batch batch);
  // One step of a call, posted and awaited.
  Status Run(Batch batch, TimeNs deadline_ns) {
    return link_->Wait(Post(std::move(batch)), deadline_ns);
  }
  // The peers in the order in which this rank serves them: the next one first.
  std::vector<int> Peers() const;
  // own [n of the chunk] = the tree's sum over ranks of data's elements [begin, end) owned here;
  // data [n] is a segment. `own` may lie in data.
  Status ReduceChunk(CallTag tag, std::span<const float> data, std::span<float> own,
                     TimeNs deadline_ns);

  const std::unique_ptr<LinkMemory> memory_;  // outlives the link, whose exchanges may use it
  const std::unique_ptr<PeerLink> link_;
  uint32_t calls_ = 0;  // collective ones
  std::set<ExchangeId> exchanges_;
  CommunicatorStats stats_{};
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_LINKED_COMMUNICATOR_H_
