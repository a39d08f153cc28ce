#include "coordinator/policy/prefix_cover.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace reprise::coordinator {

PrefixCover::PrefixCover(std::span<const std::span<const Slot>> holders, std::vector<bool> usable)
    : holders_(holders), usable_(std::move(usable)), leading_(usable_.size()) {
  for (; covered_ < static_cast<int64_t>(holders_.size()); ++covered_) {
    bool anyone = false;
    for (const Slot slot : holders_[static_cast<size_t>(covered_)]) {
      if (!Usable(slot)) continue;
      anyone = true;
      if (leading_[slot] == covered_) ++leading_[slot];
    }
    if (!anyone) break;
  }
}

PrefixCover::Range PrefixCover::LongestRun(int64_t at, Slot reader,
                                           std::span<const size_t> preference) const {
  std::vector<Slot> running;
  for (const Slot slot : holders_[static_cast<size_t>(at)]) {
    if (Usable(slot)) running.push_back(slot);
  }
  int64_t end = at + 1;
  std::vector<Slot> longer;
  while (end < covered_) {
    longer.clear();
    const std::span<const Slot> next = holders_[static_cast<size_t>(end)];
    std::set_intersection(running.begin(), running.end(), next.begin(), next.end(),
                          std::back_inserter(longer));
    if (longer.empty()) break;
    running.swap(longer);
    ++end;
  }
  if (std::binary_search(running.begin(), running.end(), reader)) return {reader, at, end - at};
  const Slot best = *std::min_element(running.begin(), running.end(), [&](Slot a, Slot b) {
    return preference[a] < preference[b];
  });
  return {best, at, end - at};
}

std::vector<PrefixCover::Range> PrefixCover::Ranges(Slot reader, std::span<const size_t> preference,
                                                    size_t ranges_max) const {
  std::vector<Range> ranges;
  int64_t at = Leading(reader);
  while (at < covered_ && ranges.size() < ranges_max) {
    const Range run = LongestRun(at, reader, preference);
    if (run.slot != reader) ranges.push_back(run);
    at = run.first + run.blocks;
  }
  return ranges;
}

}  // namespace reprise::coordinator
