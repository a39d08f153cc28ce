// Where tests find material that is not part of the project: the folder ../shared/data beside the
// checkout, or the one named by REPRISE_TEST_DATA. Tests skip when it is absent. Any thread.
#ifndef REPRISE_COMMON_TEST_DATA_H_
#define REPRISE_COMMON_TEST_DATA_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace reprise {

// The path of `relative` under the data folder, empty when it does not exist.
std::string SharedDataOrSkip(absl::string_view relative);

// The one wording of the skip message.
std::string SharedDataMissing();

// A file or folder of the project itself (models/demo, tests/golden/...), from the test's runfiles
// or the workspace root.
std::string ProjectFile(absl::string_view relative);

// A number the runner sets by this variable, e.g. how many seeds a test runs.
uint64_t TestNumber(const char* variable, uint64_t otherwise);

}  // namespace reprise

#endif  // REPRISE_COMMON_TEST_DATA_H_
