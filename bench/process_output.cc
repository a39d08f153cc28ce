#include "bench/process_output.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "common/clock.h"

namespace reprise::bench {
namespace {

constexpr TimeNs kTimeoutNs = 120 * kSecond;

}  // namespace

StatusOr<std::string> OutputOf(const SubprocessOptions& options) {
  SubprocessOptions piped = options;
  piped.out = SubprocessOutput::Pipe();
  ASSIGN_OR_RETURN(const auto process, Subprocess::Spawn(piped));
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(process->out_fd(), buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  const auto exit = process->Wait(kTimeoutNs);
  if (!exit.has_value() || !exit->ok()) {
    return absl::UnavailableError(absl::StrCat(options.argv[0], " ended with ",
                                               exit ? exit->ToString() : "nothing", ": ", text));
  }
  return text;
}

}  // namespace reprise::bench
