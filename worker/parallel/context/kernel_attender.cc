#include "worker/parallel/context/kernel_attender.h"

#include <memory>

namespace reprise::parallel {

void KernelAttender::Attend(const kernels::PagedKv& kv,
                            std::span<const kernels::AttentionItem> items) {
  constexpr size_t kAlignment = 64;
  const int threads = options_.pool == nullptr ? 1 : options_.pool->threads();
  const int64_t bytes = kernels::AttentionScratchBytes(threads, kv, options_.positions_max);
  const auto size = static_cast<size_t>(bytes) + kAlignment;
  if (scratch_.size() < size) scratch_.resize(size);
  void* start = scratch_.data();
  size_t space = scratch_.size();
  std::align(kAlignment, static_cast<size_t>(bytes), start, space);
  ops_.attention({options_.pool, static_cast<std::byte*>(start), bytes},
                 {.kv = kv,
                  .q_heads = options_.heads,
                  .scale = options_.scale,
                  .items = items.data(),
                  .n_items = static_cast<int64_t>(items.size())});
}

}  // namespace reprise::parallel
