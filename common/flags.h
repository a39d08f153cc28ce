// Command-line flags of one subcommand, declared against the fields of its options struct: parsing,
// range checks, --help text and the echo for the start log come from one declaration. Owned by the
// subcommand's main; one thread.
//
// A flag's default is the value its target holds when it is declared; the target must outlive the
// set. Targets are written in order of arguments; after an error some may be written already.
#ifndef REPRISE_COMMON_FLAGS_H_
#define REPRISE_COMMON_FLAGS_H_

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

class FlagSet {
 public:
  // `command` as typed ("reprise worker"); `positional` names positional arguments for --help.
  FlagSet(absl::string_view command, absl::string_view summary, absl::string_view positional = "");

  void Add(absl::string_view name, std::string* target, absl::string_view help);
  void Add(absl::string_view name, std::vector<std::string>* target, absl::string_view help);
  void Add(absl::string_view name, bool* target, absl::string_view help);
  void Add(absl::string_view name, int32_t* target, absl::string_view help);
  void Add(absl::string_view name, int64_t* target, absl::string_view help);
  void Add(absl::string_view name, double* target, absl::string_view help);
  // Shown as "***" by --help and Echo.
  void AddSecret(absl::string_view name, std::string* target, absl::string_view help);
  // One of `choices`.
  void AddChoice(absl::string_view name, std::string* target, std::vector<std::string> choices,
                 absl::string_view help);

  void AddRange(absl::string_view name, int32_t* target, int32_t min, int32_t max,
                absl::string_view help);
  void AddRange(absl::string_view name, int64_t* target, int64_t min, int64_t max,
                absl::string_view help);
  void AddRange(absl::string_view name, double* target, double min, double max,
                absl::string_view help);
  // Milliseconds; accepts 250ms, 2s, 1m, 1h, or a bare number of milliseconds.
  void AddDurationMs(absl::string_view name, int64_t* target, int64_t min_ms, int64_t max_ms,
                     absl::string_view help);
  // Bytes; accepts 4096, 64KiB, 16MiB, 2GiB.
  void AddBytes(absl::string_view name, int64_t* target, int64_t min, int64_t max,
                absl::string_view help);

  // Accepts --name=value, --name value, --bool, --no-bool; "--" ends flags. Returns the positional
  // arguments. `args` excludes the program and subcommand. A repeated scalar flag is an error; the
  // first use of a list flag replaces its default.
  StatusOr<std::vector<std::string>> Parse(const std::vector<std::string>& args);

  // --help was among the arguments; the caller prints Help() and exits with 0.
  bool help_requested() const { return help_requested_; }
  std::string Help() const;

  // One JSON object of all values, secrets masked.
  std::string Echo() const;

 private:
  enum class Kind { kString, kList, kBool, kInt32, kInt64, kDouble, kDurationMs, kBytes };
  using Target =
      std::variant<std::string*, std::vector<std::string>*, bool*, int32_t*, int64_t*, double*>;
  struct Flag {
    std::string name;
    Kind kind;
    Target target;
    std::string help;
    // Bounds of integers and of doubles; only those of the flag's own type are read.
    int64_t min_int = std::numeric_limits<int64_t>::min();
    int64_t max_int = std::numeric_limits<int64_t>::max();
    double min_double = -std::numeric_limits<double>::infinity();
    double max_double = std::numeric_limits<double>::infinity();
    bool bounded = false;
    bool secret = false;
    bool seen = false;
    std::vector<std::string> choices;
    std::string default_text;
  };

  Flag& Declare(absl::string_view name, Kind kind, Target target, absl::string_view help);
  void Bound(Flag& flag, int64_t min, int64_t max);
  Flag* Find(absl::string_view name);
  Status Unknown(absl::string_view name) const;
  Status ParseFlag(const std::vector<std::string>& args, size_t& next);
  static Status Set(Flag& flag, absl::string_view text);
  static Status SetInteger(Flag& flag, absl::string_view text);
  static Status SetDouble(Flag& flag, absl::string_view text);
  static std::string ValueText(const Flag& flag);
  static std::string RangeText(const Flag& flag);

  const std::string command_;
  const std::string summary_;
  const std::string positional_;
  std::vector<Flag> flags_;
  bool help_requested_ = false;
};

}  // namespace reprise

#endif  // REPRISE_COMMON_FLAGS_H_
