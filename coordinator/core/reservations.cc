#include "coordinator/core/reservations.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"

namespace reprise::coordinator {

template <typename Predicate>
void Reservations::EraseIf(PerNode& node, Predicate ended) {
  std::erase_if(node.entries, ended);
  node.sum = Reserved{};
  for (const Entry& entry : node.entries) node.sum += entry.reserved;
}

void Reservations::Add(Slot slot, const std::string& request_id, const Reserved& reserved,
                       TimeNs now) {
  PerNode& node = nodes_[slot];
  node.entries.push_back({request_id, reserved, now});
  node.sum += reserved;
  if (node.entries.size() > options_.per_node_max) {
    const Entry* oldest = node.entries.data();
    EraseIf(node, [oldest](const Entry& entry) { return &entry == oldest; });
  }
}

void Reservations::OnReport(Slot slot, std::span<const RequestReport> requests, TimeNs now) {
  const auto it = nodes_.find(slot);
  if (it == nodes_.end()) return;
  absl::flat_hash_set<absl::string_view> arrived;
  for (const RequestReport& request : requests) arrived.insert(request.request_id);
  EraseIf(it->second, [&](const Entry& entry) {
    return now - entry.placed_ns >= options_.settle_ns || arrived.contains(entry.request_id);
  });
}

void Reservations::Tick(TimeNs now) {
  for (auto& [slot, node] : nodes_) {
    if (node.entries.empty() || now - node.entries.front().placed_ns < options_.expire_ns) continue;
    EraseIf(node, [&](const Entry& entry) { return now - entry.placed_ns >= options_.expire_ns; });
  }
}

Reserved Reservations::Of(Slot slot) const {
  const auto it = nodes_.find(slot);
  return it == nodes_.end() ? Reserved{} : it->second.sum;
}

}  // namespace reprise::coordinator
