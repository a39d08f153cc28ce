// A new folder below the system's folder for temporary files, removed with everything in it by its
// owner's end, unless the environment has REPRISE_KEEP_SCRATCH (to read the logs in it). Any
// thread.
#ifndef REPRISE_TESTS_CLUSTER_SCRATCH_DIR_H_
#define REPRISE_TESTS_CLUSTER_SCRATCH_DIR_H_

#include <memory>
#include <string>
#include <utility>

#include "common/status.h"

namespace reprise::harness {

class ScratchDir {
 public:
  static StatusOr<std::unique_ptr<ScratchDir>> Create();
  ~ScratchDir();
  const std::string& path() const { return path_; }

 private:
  explicit ScratchDir(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_SCRATCH_DIR_H_
