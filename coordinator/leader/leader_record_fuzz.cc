// Any bytes as the value of the leader's key: refused with a reason, or a record that writes itself
// the same way.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "coordinator/leader/leader_record.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto record = reprise::coordinator::ParseLeader(text);
  if (!record.ok()) {
    if (record.status().message().empty()) std::abort();
    return 0;
  }
  if (record->epoch == 0 || record->name.empty() || record->address.empty()) std::abort();
  if (reprise::coordinator::FormatLeader(*record) != text) std::abort();
  return 0;
}
