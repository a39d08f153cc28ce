// Any bytes as a request, a prefill leg, an attach or a list of stores: refused by name, or within
// the limits the core relies on.
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
                      (!read->resume_handle.empty() &&
                       read->resume_handle.size() != limits::kResumeHandleBytes) ||
                      (read->resume_handle.empty() && read->resume_window_ns != 0) ||
                      read->branches.size() > static_cast<size_t>(read->sampling.n))) {
      std::abort();
    }
  }
  v1::PrefillRequest prefill;
  if (prefill.ParseFromArray(data, static_cast<int>(size))) {
    const auto read = worker::ParsePrefill(prefill, 1000000000);
    if (read.ok() && read->prompt.empty()) std::abort();
  }
  v1::Attach attach;
  if (attach.ParseFromArray(data, static_cast<int>(size))) {
    const auto read = worker::ParseAttach(attach);
    if (read.ok() && read->resume_handle.size() != limits::kResumeHandleBytes) std::abort();
  }
  v1::ReportResponse answer;
  if (answer.ParseFromArray(data, static_cast<int>(size))) {
    for (const worker::StoreNode& store : worker::ParseStores(answer).stores) {
      if (store.node.key.name.empty() || store.node.key.incarnation == 0) std::abort();
    }
  }
  return 0;
}
