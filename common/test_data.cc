#include "common/test_data.h"

#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"

namespace reprise {
namespace {

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);  // test support: the runner's own variables
  return value == nullptr ? "" : value;
}

}  // namespace

std::string SharedDataOrSkip(absl::string_view relative) {
  const std::string root = FromEnvironment("REPRISE_TEST_DATA");
  if (root.empty()) return "";
  const std::string path = absl::StrCat(root, "/", relative);
  return std::filesystem::exists(path) ? path : "";
}

std::string SharedDataMissing() { return "shared test data is absent (set REPRISE_TEST_DATA)"; }

std::string ProjectFile(absl::string_view relative) {
  const std::string source = FromEnvironment("REPRISE_SOURCE_ROOT");
  const std::string root = source.empty() ? "." : source;
  return absl::StrCat(root, "/", relative);
}

uint64_t TestNumber(const char* variable, uint64_t otherwise) {
  const std::string text = FromEnvironment(variable);
  std::from_chars(text.data(), text.data() + text.size(), otherwise);
  return otherwise;
}

}  // namespace reprise
