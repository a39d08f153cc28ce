// Stands before a communicator and passes every call on: what slows, watches or changes some of
// them derives from it. Owned by the rank, as the communicator is, which outlives it; threads as
// that one's.
#ifndef REPRISE_WORKER_PARALLEL_COMMUNICATOR_DECORATOR_H_
#define REPRISE_WORKER_PARALLEL_COMMUNICATOR_DECORATOR_H_

#include <span>

#include "worker/parallel/communicator.h"

namespace reprise::parallel {

class CommunicatorDecorator : public Communicator {
 public:
  explicit CommunicatorDecorator(Communicator& communicator) : communicator_(communicator) {}

  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  Status status() const override { return communicator_.status(); }
  void Abort(const Status& reason) override { communicator_.Abort(reason); }
  const CommunicatorStats& stats() const override { return communicator_.stats(); }

  StatusOr<ExchangeId> Start(const Exchange& exchange) override {
    return communicator_.Start(exchange);
  }
  Status Wait(ExchangeId exchange, TimeNs deadline_ns) override {
    return communicator_.Wait(exchange, deadline_ns);
  }
  Status Barrier(TimeNs deadline_ns) override { return communicator_.Barrier(deadline_ns); }
  Status AllReduce(std::span<float> data, TimeNs deadline_ns) override {
    return communicator_.AllReduce(data, deadline_ns);
  }
  Status ReduceScatter(std::span<const float> data, std::span<float> mine,
                       TimeNs deadline_ns) override {
    return communicator_.ReduceScatter(data, mine, deadline_ns);
  }
  Status AllGather(std::span<const uint8_t> mine, std::span<const size_t> sizes,
                   std::span<uint8_t> all, TimeNs deadline_ns) override {
    return communicator_.AllGather(mine, sizes, all, deadline_ns);
  }
  Status AllToAll(std::span<const uint8_t> send, std::span<const size_t> send_sizes,
                  std::span<uint8_t> receive, std::span<const size_t> receive_sizes,
                  TimeNs deadline_ns) override {
    return communicator_.AllToAll(send, send_sizes, receive, receive_sizes, deadline_ns);
  }
  using Communicator::AllGather;
  using Communicator::AllToAll;

 private:
  Communicator& communicator_;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_COMMUNICATOR_DECORATOR_H_
