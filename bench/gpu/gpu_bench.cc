// Times the kernels on the card that is there (bench/gpu.sh builds and runs this where there is no
// Bazel). The table goes to standard output, JSON to the file named.
//
//   gpu_bench [--tiny] [--json=FILE] [--cublaslt=FILE] [CASE...]
//
// Cases: gemm linear decode prefill small; all of them by default. FILE is the library that linear
// layers are compared with, where the loader does not find it by itself.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <string>

#include "bench/gpu/harness.h"

int main(int argc, char** argv) {
  using namespace reprise::bench::gpu;
  struct Cases {
    const char* name;
    void (*run)(Harness&);
  };
  const Cases all[] = {{"gemm", GemmCases},
                       {"linear", LinearCases},
                       {"decode", DecodeCases},
                       {"prefill", PrefillCases},
                       {"small", SmallCases}};
  bool tiny = false;
  std::string json;
  std::string cublas_lt;
  std::set<std::string> wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--tiny") {
      tiny = true;
    } else if (arg.rfind("--json=", 0) == 0) {
      json = arg.substr(std::strlen("--json="));
    } else if (arg.rfind("--cublaslt=", 0) == 0) {
      cublas_lt = arg.substr(std::strlen("--cublaslt="));
    } else {
      wanted.insert(arg);
    }
  }
  Harness harness(tiny, cublas_lt);
  harness.Open();
  for (const std::string& name : wanted) {
    bool known = false;
    for (const Cases& c : all) known |= name == c.name;
    if (!known) {
      std::fprintf(stderr, "gpu_bench: no case \"%s\"\n", name.c_str());
      return 2;
    }
  }
  std::printf("%s, compute capability %d.%d, %d processors\n", harness.device().name.c_str(),
              harness.device().major, harness.device().minor, harness.device().processors);
  for (const Cases& c : all) {
    if (wanted.empty() || wanted.contains(c.name)) c.run(harness);
  }
  harness.PrintTable();
  if (!json.empty()) std::ofstream(json) << harness.Json() << "\n";
  return harness.failed() ? 1 : 0;
}
