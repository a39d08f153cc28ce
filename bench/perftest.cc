#include "bench/perftest.h"

#include <unistd.h>

#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/free_ports.h"
#include "common/role.h"

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

StatusOr<double> Perftest(const PerftestOptions& o) {
  ASSIGN_OR_RETURN(const std::vector<uint16_t> ports, FreePorts(1));
  SubprocessOptions server;
  server.argv = {"ucx_perftest", "-p", absl::StrCat(ports[0])};
  server.extra_env = {{"UCX_TLS", o.shared_memory ? "posix,cma,self" : "tcp,self"},
                      {"UCX_NET_DEVICES", o.shared_memory ? "all" : "lo"}};
  if (!o.shared_memory) server.argv.push_back("-e");
  SubprocessOptions client = server;
  client.argv.insert(client.argv.begin() + 1, "127.0.0.1");
  const int64_t iterations = o.total_bytes / o.message_bytes;
  for (const std::string& arg :
       {std::string("-t"), std::string("ucp_am_bw"), std::string("-s"),
        absl::StrCat(o.message_bytes), std::string("-n"), absl::StrCat(iterations),
        std::string("-w"), absl::StrCat(iterations / 20 + 1), std::string("-f"),
        std::string("-v")}) {
    client.argv.push_back(arg);
  }
  server.out = SubprocessOutput::File("/dev/null");
  client.err = SubprocessOutput::File("/dev/null");
  ASSIGN_OR_RETURN(const auto serving, Subprocess::Spawn(server));
  StopSignal never;
  StatusOr<std::string> text = absl::UnavailableError("ucx_perftest was not tried");
  for (int attempt = 0; attempt < 50 && !text.ok(); ++attempt) {
    never.WaitFor(100 * kMillisecond);  // until the server listens
    text = OutputOf(client);
  }
  RETURN_IF_ERROR(text.status());
  // iterations, 3 latencies, average and overall bandwidth in MiB/s, 2 rates
  const std::vector<std::string> lines = absl::StrSplit(*text, '\n', absl::SkipEmpty());
  const std::vector<std::string> cells = absl::StrSplit(lines.empty() ? "" : lines.back(), ',');
  double mib_per_s = 0;
  if (cells.size() != 8 || !absl::SimpleAtod(cells[5], &mib_per_s)) {
    return absl::InternalError(absl::StrCat("ucx_perftest printed: ", *text));
  }
  return mib_per_s * 1048576 / 1e9;
}

}  // namespace reprise::bench
