// Explores histories: `simulate --seed N [--verbose]` runs one and says how it ended,
// `simulate --seeds A..B` runs many and stops at the first failure; `--mutation M` plants a bug
// (a number of reprise::sim::Mutation).
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string>

#include "tests/simulation/cluster.h"

namespace reprise::sim {
namespace {

struct Arguments {
  uint64_t first = 1;
  uint64_t last = 1;
  uint64_t mutation = 0;
  bool verbose = false;
  bool keep_going = false;
};

bool Number(absl::string_view text, uint64_t& value) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

bool Parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i < argc; ++i) {
    const absl::string_view flag = argv[i];
    if (flag == "--verbose") {
      arguments.verbose = true;
      continue;
    }
    if (flag == "--keep-going") {
      arguments.keep_going = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const absl::string_view value = argv[++i];
    const size_t dots = value.find("..");
    if (flag == "--seed" && Number(value, arguments.first)) {
      arguments.last = arguments.first;
    } else if (flag == "--seeds" && dots != absl::string_view::npos &&
               Number(value.substr(0, dots), arguments.first) &&
               Number(value.substr(dots + 2), arguments.last)) {
      continue;
    } else if (flag != "--mutation" || !Number(value, arguments.mutation)) {
      return false;
    }
  }
  return true;
}

int Main(int argc, char** argv) {
  Arguments arguments;
  if (!Parse(argc, argv, arguments)) {
    std::fprintf(stderr,
                 "usage: simulate [--seed N | --seeds A..B] [--verbose] [--keep-going] "
                 "[--mutation M]\n");
    return 2;
  }
  RunTotals totals;
  uint64_t failures = 0;
  for (uint64_t seed = arguments.first; seed <= arguments.last; ++seed) {
    const RunResult result = RunSeed({.seed = seed,
                                      .mutation = static_cast<Mutation>(arguments.mutation),
                                      .verbose = arguments.verbose});
    totals.Add(result.totals);
    if (arguments.first == arguments.last) {
      std::printf("seed %llu: hash %016llx, %.1f s of virtual time\n",
                  static_cast<unsigned long long>(seed),
                  static_cast<unsigned long long>(result.hash), SecondsFromNs(result.ended));
    }
    if (!result.failure) continue;
    ++failures;
    std::printf("seed %llu FAILED %s\n", static_cast<unsigned long long>(seed),
                result.failure->c_str());
    if (!arguments.keep_going) break;
  }
  std::printf("%s\n%llu failures\n", totals.Text().c_str(),
              static_cast<unsigned long long>(failures));
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace reprise::sim

int main(int argc, char** argv) { return reprise::sim::Main(argc, argv); }
