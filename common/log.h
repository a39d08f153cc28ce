// Structured logs: one JSON object a line on standard error, one write per line, so that lines of
// several threads (and, up to PIPE_BUF bytes, of several processes) never interleave. Process-wide;
// any thread.
//
// A line: {"time":RFC 3339 UTC, "severity", "role", "node", "event", fields...}. Events are
// snake_case names, never sentences; a request's id goes into the field "request".
#ifndef REPRISE_COMMON_LOG_H_
#define REPRISE_COMMON_LOG_H_

#include <atomic>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <variant>

#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "common/status.h"

namespace reprise {

enum class LogSeverity : int { kDebug, kInfo, kWarning, kError };

// Strings beyond this are cut and marked with their length.
inline constexpr size_t kLogStringBytesMax = 1024;

// Views its key and text; lives for the duration of one log call.
class LogField {
 public:
  LogField(absl::string_view key, absl::string_view value) : key_(key), value_(value) {}
  LogField(absl::string_view key, const char* value)
      : key_(key), value_(absl::string_view(value)) {}
  LogField(absl::string_view key, const std::string& value)
      : key_(key), value_(absl::string_view(value)) {}
  LogField(absl::string_view key, bool value) : key_(key), value_(value) {}
  LogField(absl::string_view key, double value) : key_(key), value_(value) {}
  template <std::signed_integral T>
  LogField(absl::string_view key, T value) : key_(key), value_(static_cast<int64_t>(value)) {}
  template <std::unsigned_integral T>
  requires(!std::same_as<T, bool>) LogField(absl::string_view key, T value)
      : key_(key), value_(static_cast<uint64_t>(value)) {}
  // A status that lives as long as the call: its text is made when the line is written.
  LogField(absl::string_view key, const Status& value) : key_(key), value_(&value) {}

  absl::string_view key() const { return key_; }
  const auto& value() const { return value_; }

 private:
  absl::string_view key_;
  std::variant<absl::string_view, int64_t, uint64_t, double, bool, const Status*> value_;
};

using LogFields = std::initializer_list<LogField>;

void Log(LogSeverity severity, absl::string_view event, std::span<const LogField> fields);

inline void LogDebug(absl::string_view event, LogFields fields = {}) {
  Log(LogSeverity::kDebug, event, std::span(fields.begin(), fields.size()));
}
inline void LogInfo(absl::string_view event, LogFields fields = {}) {
  Log(LogSeverity::kInfo, event, std::span(fields.begin(), fields.size()));
}
inline void LogWarning(absl::string_view event, LogFields fields = {}) {
  Log(LogSeverity::kWarning, event, std::span(fields.begin(), fields.size()));
}
inline void LogError(absl::string_view event, LogFields fields = {}) {
  Log(LogSeverity::kError, event, std::span(fields.begin(), fields.size()));
}

// Lines below `level` are dropped; kInfo at start.
void SetLogLevel(LogSeverity level);
StatusOr<LogSeverity> ParseLogSeverity(absl::string_view name);  // debug, info, warning, error

// Added to every later line.
void SetLogRole(absl::string_view role, absl::string_view node);

// An impossible state: counted and logged as event "bug" with field "bug"; the caller refuses the
// one request and goes on. A healthy process has BugCount() == 0, and every test run checks it.
void ReportBug(absl::string_view name, LogFields fields = {});
uint64_t BugCount();

// Lets one line through per interval: `static LogEvery every(5 * kSecond); if (every.Allow()) ...`.
class LogEvery {
 public:
  explicit LogEvery(TimeNs interval_ns, const Clock& clock = RealClock())
      : interval_ns_(interval_ns), clock_(clock) {}
  bool Allow();
  // Lines held back before the latest allowed one.
  uint64_t suppressed() const { return reported_.load(std::memory_order_relaxed); }

 private:
  const TimeNs interval_ns_;
  const Clock& clock_;
  std::atomic<TimeNs> next_ns_{INT64_MIN};
  std::atomic<uint64_t> held_back_{0};
  std::atomic<uint64_t> reported_{0};
};

}  // namespace reprise

#endif  // REPRISE_COMMON_LOG_H_
