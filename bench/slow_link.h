// A communicator whose exchanges take as long as they would over a slow link: what a rank receives
// comes at a rate, one message after the other, from when it was posted. Owned by the rank, beside
// the communicator it stands before; threads as that one's.
#ifndef REPRISE_BENCH_SLOW_LINK_H_
#define REPRISE_BENCH_SLOW_LINK_H_

#include <algorithm>
#include <map>
#include <span>

#include "common/role.h"
#include "worker/parallel/communicator.h"

namespace reprise::bench {

class SlowLink final : public parallel::Communicator {
 public:
  SlowLink(parallel::Communicator& communicator, double bytes_per_s)
      : communicator_(communicator), bytes_per_s_(bytes_per_s) {}

  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  Status status() const override { return communicator_.status(); }
  void Abort(const Status& reason) override { communicator_.Abort(reason); }
  const parallel::CommunicatorStats& stats() const override { return communicator_.stats(); }

  StatusOr<parallel::ExchangeId> Start(const parallel::Exchange& exchange) override {
    ASSIGN_OR_RETURN(const parallel::ExchangeId id, communicator_.Start(exchange));
    if (exchange.receive.empty()) return id;
    free_ns_ = std::max(free_ns_, RealClock().NowNs()) +
               static_cast<TimeNs>(static_cast<double>(exchange.receive.size()) / bytes_per_s_ *
                                   static_cast<double>(kSecond));
    there_ns_[id] = free_ns_;
    return id;
  }
  Status Wait(parallel::ExchangeId exchange, TimeNs deadline_ns) override {
    RETURN_IF_ERROR(communicator_.Wait(exchange, deadline_ns));
    const auto found = there_ns_.find(exchange);
    if (found == there_ns_.end()) return absl::OkStatus();
    never_.WaitFor(found->second - RealClock().NowNs());
    there_ns_.erase(found);
    return absl::OkStatus();
  }

  // Collectives are as fast as ever.
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

 private:
  parallel::Communicator& communicator_;
  const double bytes_per_s_;
  StopSignal never_;
  TimeNs free_ns_ = 0;  // when the link has brought all that was posted
  std::map<parallel::ExchangeId, TimeNs> there_ns_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_SLOW_LINK_H_
