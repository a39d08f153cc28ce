// A communicator whose exchanges take as long as they would over a slow link: what a rank receives
// comes at a rate, one message after the other, from when it was posted. Collectives are as fast as
// ever. Owned by the rank, beside the communicator it stands before; threads as that one's.
#ifndef REPRISE_BENCH_SLOW_LINK_H_
#define REPRISE_BENCH_SLOW_LINK_H_

#include <algorithm>
#include <map>

#include "common/role.h"
#include "worker/parallel/communicator_decorator.h"

namespace reprise::bench {

class SlowLink final : public parallel::CommunicatorDecorator {
 public:
  SlowLink(parallel::Communicator& communicator, double bytes_per_s)
      : CommunicatorDecorator(communicator), bytes_per_s_(bytes_per_s) {}

  StatusOr<parallel::ExchangeId> Start(const parallel::Exchange& exchange) override {
    ASSIGN_OR_RETURN(const parallel::ExchangeId id, CommunicatorDecorator::Start(exchange));
    if (exchange.receive.empty()) return id;
    free_ns_ = std::max(free_ns_, RealClock().NowNs()) +
               static_cast<TimeNs>(static_cast<double>(exchange.receive.size()) / bytes_per_s_ *
                                   static_cast<double>(kSecond));
    there_ns_[id] = free_ns_;
    return id;
  }
  Status Wait(parallel::ExchangeId exchange, TimeNs deadline_ns) override {
    RETURN_IF_ERROR(CommunicatorDecorator::Wait(exchange, deadline_ns));
    const auto found = there_ns_.find(exchange);
    if (found == there_ns_.end()) return absl::OkStatus();
    never_.WaitFor(found->second - RealClock().NowNs());
    there_ns_.erase(found);
    return absl::OkStatus();
  }

 private:
  const double bytes_per_s_;
  StopSignal never_;
  TimeNs free_ns_ = 0;  // when the link has brought all that was posted
  std::map<parallel::ExchangeId, TimeNs> there_ns_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_SLOW_LINK_H_
