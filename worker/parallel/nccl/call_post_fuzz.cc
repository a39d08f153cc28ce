// Whatever decodes must encode to the same bytes, and ordering it must end.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "worker/parallel/nccl/call_order.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace reprise::parallel;
  constexpr int kRanks = 3;
  CallOrder order(kRanks);
  std::span<const uint8_t> bytes(data, size);
  for (int rank = 0; !bytes.empty(); rank = (rank + 1) % kRanks) {
    const auto part = bytes.first(std::min(bytes.size(), PostBytes(kRanks)));
    bytes = bytes.subspan(part.size());
    const auto post = DecodePost(part, kRanks);
    if (!post.ok()) break;
    if (!std::equal(part.begin(), part.end(), EncodePost(*post, kRanks).begin())) abort();
    if (!order.Add(rank, *post).ok()) break;
  }
  return 0;
}
