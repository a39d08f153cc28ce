#include "worker/parallel/peer_link.h"

#include <cstring>

#include "worker/parallel/tree_sum.h"

namespace reprise::parallel {

std::string Describe(const CallTag& tag, uint64_t message_bytes) {
  if (tag.op == Op::kPointToPoint) return absl::StrCat("a message of ", message_bytes, " bytes");
  return absl::StrCat(OpName(tag.op), " of ", tag.call_bytes, " bytes (call ", tag.call, ", step ",
                      tag.step, ", ", message_bytes, " bytes of this pair)");
}

Status Disagreement(int sender, const CallTag& sent, uint64_t sent_bytes, int receiver,
                    const CallTag& expected, uint64_t expected_bytes) {
  return absl::InvalidArgumentError(absl::StrCat("ranks disagree: rank ", sender, " is in ",
                                                 Describe(sent, sent_bytes), ", rank ", receiver,
                                                 " in ", Describe(expected, expected_bytes)));
}

Status LinkMemory::Copy(std::span<const uint8_t> from, std::span<uint8_t> to) {
  if (!from.empty() && from.data() != to.data()) std::memcpy(to.data(), from.data(), from.size());
  return absl::OkStatus();
}

StatusOr<float*> LinkMemory::Terms(size_t n, const float*) {
  terms_.resize(n);
  return terms_.data();
}

Status LinkMemory::Sum(std::span<float* const> terms, size_t n) {
  TreeSum(terms, n);
  return absl::OkStatus();
}

}  // namespace reprise::parallel
