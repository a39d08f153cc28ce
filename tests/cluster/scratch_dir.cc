#include "tests/cluster/scratch_dir.h"

#include <stdlib.h>

#include <cstdio>
#include <filesystem>

namespace reprise::harness {

StatusOr<std::unique_ptr<ScratchDir>> ScratchDir::Create() {
  std::error_code error;
  std::string path = (std::filesystem::temp_directory_path(error) / "reprise-XXXXXX").string();
  if (error || mkdtemp(path.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot make a folder like ", path));
  }
  return std::unique_ptr<ScratchDir>(new ScratchDir(std::move(path)));
}

ScratchDir::~ScratchDir() {
  if (getenv("REPRISE_KEEP_SCRATCH") !=
      nullptr) {  // test support: for whoever looks into a failure
    std::fprintf(stderr, "kept: %s\n", path_.c_str());
    return;
  }
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace reprise::harness
