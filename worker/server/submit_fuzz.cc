// Any bytes as a request or a prefill leg: refused by name, or within the limits the core relies
// on.
#include <cstdint>
#include <cstdlib>

#include "common/limits.h"
#include "worker/server/convert.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace reprise;  // NOLINT
  v1::Submit submit;
  if (submit.ParseFromArray(data, static_cast<int>(size))) {
    const auto read = worker::ParseSubmit(submit, 1000000000);
    if (read.ok() && (read->sampling.n < 1 || read->sampling.n > limits::kBranchesMax ||
                      !(read->sampling.temperature >= 0) || read->prompt.empty() ||
                      read->branches.size() > static_cast<size_t>(read->sampling.n))) {
      std::abort();
    }
  }
  v1::PrefillRequest prefill;
  if (prefill.ParseFromArray(data, static_cast<int>(size))) {
    const auto read = worker::ParsePrefill(prefill, 1000000000);
    if (read.ok() && read->prompt.empty()) std::abort();
  }
  return 0;
}
