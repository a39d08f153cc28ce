#include "coordinator/core/verdicts.h"

#include "common/limits.h"

namespace reprise::coordinator {
namespace {

constexpr TimeNs kKept = kMinute;

}  // namespace

void Verdicts::Withdraw(const NodeKey& node) {
  std::erase_if(entries_, [&](const Entry& entry) { return entry.verdict.node == node; });
}

void Verdicts::Issue(const NodeKey& node, const std::string& reason, TimeNs now) {
  Withdraw(node);
  entries_.push_back({{node, reason}, now});
  if (entries_.size() > limits::kVerdictsMax) entries_.pop_front();
  ++version_;
}

void Verdicts::Tick(TimeNs now) {
  while (!entries_.empty() && now - entries_.front().issued_ns >= kKept) entries_.pop_front();
}

VersionedList<Verdict> Verdicts::List() const {
  VersionedList<Verdict> list{.version = version_, .items = {}};
  for (const Entry& entry : entries_) list.items.push_back(entry.verdict);
  return list;
}

}  // namespace reprise::coordinator
