// The worker's slots outside its pool, with real bytes: copied at the end of each order's time, so
// that a page let go too early shows.
#include <algorithm>
#include <utility>

#include "tests/simulation/sim_worker.h"

namespace reprise::sim {
namespace {

constexpr TimeNs kPerPage = 50 * kMicrosecond;

}  // namespace

void SimWorker::AfterSwap(size_t pages, std::function<void()> done) {
  swapping_until_ = std::max(swapping_until_, Now()) + static_cast<TimeNs>(pages) * kPerPage;
  world_.After(swapping_until_ - Now(), {"swap", pid_, pid_, pages}, std::move(done));
}

void SimWorker::Run(const worker::SwapOut& command) {
  AfterSwap(command.items.size(), [this, command] {
    for (const worker::SwapItem& item : command.items) {
      const uint8_t* const page = PageData(item.page);
      swap_slots_[item.slot] = {item.ticket, {page, page + context_.block_bytes()}};
    }
    Handle(worker::SwapDone{command.swap, absl::OkStatus(), false});
  });
}

void SimWorker::Run(const worker::SwapIn& command) {
  AfterSwap(command.items.size(), [this, command] {
    std::vector<Status> items;
    for (const worker::SwapItem& item : command.items) {
      const SwapSlot& slot = swap_slots_[item.slot];
      const bool right = slot.ticket == item.ticket;
      items.push_back(right ? absl::OkStatus() : absl::DataLossError("another copy"));
      if (right) std::copy(slot.bytes.begin(), slot.bytes.end(), PageData(item.page));
    }
    Handle(worker::FetchDone{command.fetch, items});
  });
}

}  // namespace reprise::sim
