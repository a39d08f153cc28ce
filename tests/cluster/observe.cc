// What a test sees of a process from outside besides its metrics page: its CPU time
// and how often it sleeps.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "tests/cluster/cluster.h"

namespace reprise::harness {

StatusOr<double> ProcessCpuSeconds(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  // The name in parentheses may hold anything; fields 14 and 15 are utime and stime in ticks.
  const size_t name_end = text.rfind(") ");
  if (name_end == std::string::npos) {
    return absl::NotFoundError(absl::StrCat("there is no process ", pid));
  }
  const std::vector<std::string> fields = absl::StrSplit(text.substr(name_end + 2), ' ');
  double user = 0;
  double system = 0;
  if (fields.size() < 13 || !absl::SimpleAtod(fields[11], &user) ||
      !absl::SimpleAtod(fields[12], &system)) {
    return absl::InternalError(absl::StrCat("/proc/", pid, "/stat is not understood"));
  }
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

StatusOr<std::map<std::string, double>> ThreadCpuSeconds(pid_t pid) {
  std::map<std::string, double> seconds;
  std::error_code error;
  const std::string tasks = absl::StrCat("/proc/", pid, "/task");
  for (const auto& task : std::filesystem::directory_iterator(tasks, error)) {
    std::ifstream name_in(task.path() / "comm");
    std::ifstream time_in(task.path() / "schedstat");
    std::string name;
    double ns = 0;  // on a processor; what follows is time in the queue
    if (std::getline(name_in, name) && time_in >> ns) seconds[name] += ns / kSecond;
  }
  if (error) return absl::NotFoundError(absl::StrCat(tasks, ": ", error.message()));
  return seconds;
}

StatusOr<int64_t> ProcessSleeps(pid_t pid) {
  constexpr absl::string_view kField = "voluntary_ctxt_switches:";
  int64_t sleeps = 0;
  std::error_code error;
  const std::string tasks = absl::StrCat("/proc/", pid, "/task");
  for (const auto& task : std::filesystem::directory_iterator(tasks, error)) {
    std::ifstream in(task.path() / "status");
    for (std::string line; std::getline(in, line);) {
      int64_t count = 0;
      if (absl::StartsWith(line, kField) && absl::SimpleAtoi(line.substr(kField.size()), &count)) {
        sleeps += count;
      }
    }
  }
  if (error) return absl::NotFoundError(absl::StrCat(tasks, ": ", error.message()));
  return sleeps;
}

}  // namespace reprise::harness
