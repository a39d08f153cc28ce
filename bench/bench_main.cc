#include "bench/bench_main.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <vector>

#include "absl/strings/str_join.h"
#include "common/flags.h"
#include "common/process_tuning.h"
#include "common/subprocess.h"

namespace reprise::bench {
namespace {

std::string DefaultCacheDir() {
  std::error_code error;
  return (std::filesystem::temp_directory_path(error) / "reprise-bench").string();
}

}  // namespace

int BenchMain(absl::string_view name, int argc, char** argv,
              const std::function<Status(const BenchFlags&, Report&)>& run) {
  TuneProcess();
  BenchFlags o;
  o.cache_dir = DefaultCacheDir();
  FlagSet flags(absl::StrCat(name, "_bench"),
                "Prints a table and one JSON line (see bench/run.sh).");
  flags.Add("reprise", &o.reprise, "the reprise binary");
  flags.Add("data", &o.data, "the shared data folder");
  flags.Add("models", &o.models, "the project's models folder");
  flags.Add("cache-dir", &o.cache_dir, "where made models are kept");
  flags.Add("long", &o.long_run, "more repetitions");
  flags.Add("peer", &o.peer, "a build folder of llama.cpp, which mla-cpu compares with");
  flags.AddChoice("device", &o.device, {"gpu", "emulated"}, "what determinism-device computes on");
  flags.Add("unproven-kernels", &o.unproven_kernels, "determinism-device: the fast ones, too");
  flags.Add("golden", &o.golden, "determinism-device: the file of recorded answers");
  flags.Add("record", &o.record, "determinism-device: record the answers of this class");
  const auto positional = flags.Parse(std::vector<std::string>(argv + 1, argv + argc));
  if (!positional.ok()) {
    std::fprintf(stderr, "%s\n", std::string(positional.status().message()).c_str());
    return 2;
  }
  if (flags.help_requested()) {
    std::printf("%s", flags.Help().c_str());
    return 0;
  }
  Report report(name);
  const Status status = run(o, report);
  if (!status.ok()) {
    std::fprintf(stderr, "%s: %s\n", std::string(name).c_str(), status.ToString().c_str());
    report.Bar("ran_to_the_end", 0, "==", 1, 1);
  }
  return report.Finish();
}

StatusOr<std::string> MadeModel(const BenchFlags& flags, const std::string& preset,
                                const std::vector<std::string>& sizes) {
  const std::string dir = absl::StrCat(flags.cache_dir, "/", preset, absl::StrJoin(sizes, ""));
  if (std::filesystem::exists(dir + "/config.json")) return dir;  // written last
  std::error_code ignored;
  std::filesystem::remove_all(dir, ignored);
  std::filesystem::create_directories(flags.cache_dir, ignored);
  SubprocessOptions make;
  make.argv = {flags.reprise, "make-model", "--preset=" + preset, "--seed=1"};
  make.argv.insert(make.argv.end(), sizes.begin(), sizes.end());
  make.argv.push_back(dir);
  make.out = SubprocessOutput::File("/dev/stderr");
  ASSIGN_OR_RETURN(const auto process, Subprocess::Spawn(make));
  const ExitStatus exit = process->Wait();
  if (!exit.ok()) {
    return absl::UnavailableError(absl::StrCat("reprise make-model ended with ", exit.ToString()));
  }
  return dir;
}

}  // namespace reprise::bench
