#include "bench/ring_process.h"

#include <unistd.h>

#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "common/free_ports.h"

namespace reprise::bench {
namespace {

constexpr TimeNs kExitTimeoutNs = 60 * kSecond;  // once it has closed its output

}  // namespace

StatusOr<std::vector<std::unique_ptr<RingProcess>>> RingProcess::StartAll(const RingRun& run,
                                                                          int ranks) {
  ASSIGN_OR_RETURN(const std::vector<uint16_t> ports, FreePorts(ranks));
  std::string list;
  for (const uint16_t port : ports) absl::StrAppend(&list, list.empty() ? "" : ",", port);
  std::vector<std::unique_ptr<RingProcess>> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    SubprocessOptions options;
    options.argv = {run.program,
                    absl::StrCat("--model=", run.model),
                    absl::StrCat("--ports=", list),
                    absl::StrCat("--rank=", rank),
                    absl::StrCat("--tokens=", run.tokens),
                    absl::StrCat("--leaves=", run.leaves),
                    absl::StrCat("--threads=", run.threads),
                    absl::StrCat("--link-bytes-per-s=", run.link_bytes_per_s)};
    options.out = SubprocessOutput::Pipe();
    processes.push_back(std::make_unique<RingProcess>());
    ASSIGN_OR_RETURN(processes.back()->process_, Subprocess::Spawn(options));
  }
  return processes;
}

bool RingProcess::Read() {
  char buffer[4096];
  const ssize_t n = read(process_->out_fd(), buffer, sizeof buffer);
  if (n > 0) text_.append(buffer, static_cast<size_t>(n));
  return n > 0;
}

Status RingProcess::AwaitJoined() {
  while (!absl::StrContains(text_, "joined 1\n")) {
    if (!Read()) return absl::UnavailableError("a rank ended before it had joined");
  }
  return absl::OkStatus();
}

StatusOr<RingAnswer> RingProcess::Finish() {
  while (Read()) {
  }
  const auto exit = process_->Wait(kExitTimeoutNs);
  if (!exit.has_value() || !exit->ok()) {
    return absl::UnavailableError(
        absl::StrCat("a rank ended with ", exit.has_value() ? exit->ToString() : "nothing"));
  }
  RingAnswer answer;
  std::istringstream words(text_);
  for (std::string word; words >> word;) {
    if (word != "leaf") {
      words >> answer.counts[word];
      continue;
    }
    int64_t index = 0;
    RingLeaf leaf;
    words >> index >> leaf.logits >> leaf.kv;
    answer.leaves[index] = leaf;
  }
  return answer;
}

}  // namespace reprise::bench
