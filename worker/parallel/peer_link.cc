#include "worker/parallel/peer_link.h"

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

}  // namespace reprise::parallel
