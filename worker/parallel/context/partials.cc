#include "worker/parallel/context/partials.h"

#include <algorithm>
#include <utility>

namespace reprise::parallel {

kernels::Partials PartialPool::View(PartialMemory& memory, int64_t rows) const {
  return {{memory.data(), rows, out_cols(), out_cols()}, memory.data() + rows * out_cols()};
}

PartialMemory PartialPool::Take(int64_t rows) {
  const auto floats = static_cast<size_t>(rows * row_floats());
  live_bytes_ += static_cast<int64_t>(floats * sizeof(float));
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  std::vector<PartialMemory>& free = free_[floats];
  if (free.empty()) return PartialMemory(floats);
  PartialMemory memory = std::move(free.back());
  free.pop_back();
  return memory;
}

void PartialPool::Give(PartialMemory memory) {
  live_bytes_ -= static_cast<int64_t>(memory.size() * sizeof(float));
  free_[memory.size()].push_back(std::move(memory));
}

void PartialPool::Merge(PartialMemory& left, PartialMemory& right, int64_t rows) const {
  const kernels::Partials into = View(left, rows);
  ops_.merge_partials({heads_, value_dim_, into, View(right, rows), into});
}

void StripePartials::Add(PartialPool& pool, StripeNode node, PartialMemory partial) {
  while (!IsRoot(node, last_)) {
    if (!IsAlone(node, last_)) {
      const StripeNode sibling = node.Sibling();
      const auto found = kept_.find(sibling.first());
      if (found == kept_.end() || found->second.node != sibling) break;
      PartialMemory other = std::move(found->second.partial);
      kept_.erase(found);
      if (!node.IsLeft()) std::swap(partial, other);
      pool.Merge(partial, other, rows_);
      pool.Give(std::move(other));
    }
    node = node.Parent();
  }
  kept_.emplace(node.first(), Kept{node, std::move(partial)});
}

PartialMemory StripePartials::Remove(const StripeNode& node) {
  const auto found = kept_.find(node.first());
  PartialMemory partial = std::move(found->second.partial);
  kept_.erase(found);
  return partial;
}

PartialMemory StripePartials::RemoveRoot() { return Remove(kept_.begin()->second.node); }

}  // namespace reprise::parallel
