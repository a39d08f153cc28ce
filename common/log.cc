// clang-format off: mutex.h comes first, since Abseil's headers define some of its macros.
#include "common/mutex.h"
// clang-format on
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <vector>

#include "common/json.h"
#include "common/log.h"

namespace reprise {
namespace {

struct LogState {
  std::atomic<LogSeverity> level{LogSeverity::kInfo};
  std::atomic<uint64_t> bugs{0};
  Mutex mu;
  std::string role GUARDED_BY(mu);
  std::string node GUARDED_BY(mu);
};

LogState& State() {
  static LogState& state = *new LogState;  // never destroyed: threads log during exit
  return state;
}

constexpr absl::string_view kSeverityNames[] = {"debug", "info", "warning", "error"};

std::string Timestamp() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc;
  gmtime_r(&now.tv_sec, &utc);
  char seconds[32];
  const size_t n = strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &utc);
  char fraction[16];
  std::snprintf(fraction, sizeof(fraction), ".%06ldZ", now.tv_nsec / 1000);
  return absl::StrCat(absl::string_view(seconds, n), fraction);
}

std::string Cut(absl::string_view text) {
  if (text.size() <= kLogStringBytesMax) return std::string(text);
  return absl::StrCat(text.substr(0, kLogStringBytesMax), "... (", text.size(), " bytes)");
}

void AppendField(const LogField& field, JsonWriter& line) {
  std::visit(
      [&](const auto& value) {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, absl::string_view>) {
          line.Field(field.key(), Cut(value));
        } else if constexpr (std::is_same_v<T, const Status*>) {
          line.Field(field.key(), Cut(value->ToString()));
        } else {
          line.Field(field.key(), value);
        }
      },
      field.value());
}

// A log that cannot be written has nobody to be reported to.
void WriteAll(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(STDERR_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    text.remove_prefix(n);
  }
}

}  // namespace

void Log(LogSeverity severity, absl::string_view event, std::span<const LogField> fields) {
  LogState& state = State();
  if (severity < state.level.load(std::memory_order_relaxed)) return;
  JsonWriter line;
  line.Field("time", Timestamp());
  line.Field("severity", kSeverityNames[static_cast<int>(severity)]);
  // Held over the write: a short write to a full pipe would otherwise be torn by another thread.
  MutexLock lock(state.mu);
  if (!state.role.empty()) line.Field("role", state.role);
  if (!state.node.empty()) line.Field("node", state.node);
  line.Field("event", event);
  for (const LogField& field : fields) AppendField(field, line);
  WriteAll(line.Take() + "\n");
}

void SetLogLevel(LogSeverity level) { State().level.store(level, std::memory_order_relaxed); }

StatusOr<LogSeverity> ParseLogSeverity(absl::string_view name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kSeverityNames[i]) return static_cast<LogSeverity>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("log level must be debug, info, warning or error, not \"", name, "\""));
}

void SetLogRole(absl::string_view role, absl::string_view node) {
  LogState& state = State();
  MutexLock lock(state.mu);
  state.role = std::string(role);
  state.node = std::string(node);
}

void ReportBug(absl::string_view name, LogFields fields) {
  State().bugs.fetch_add(1, std::memory_order_relaxed);
  std::vector<LogField> all = {{"bug", name}};
  all.insert(all.end(), fields.begin(), fields.end());
  Log(LogSeverity::kError, "bug", all);
}

uint64_t BugCount() { return State().bugs.load(std::memory_order_relaxed); }

bool LogEvery::Allow() {
  const TimeNs now = clock_.NowNs();
  TimeNs next = next_ns_.load(std::memory_order_relaxed);
  if (now < next || !next_ns_.compare_exchange_strong(next, now + interval_ns_)) {
    held_back_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  reported_.store(held_back_.exchange(0, std::memory_order_relaxed), std::memory_order_relaxed);
  return true;
}

}  // namespace reprise
