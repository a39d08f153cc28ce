#include "common/failpoint.h"

#include <signal.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/mutex.h"

namespace reprise {
namespace {

constexpr size_t kCount = std::size(kFailpoints);

struct Point {
  int64_t hits = 0;
  FailpointAction action = FailpointAction::kCount;
  int64_t due = 0;  // hit number; 0: none
};

struct Table {
  Mutex mu;
  CondVar armed;  // anew
  std::array<Point, kCount> points GUARDED_BY(mu);
};

Table& Points() {
  static Table* const table = new Table;
  return *table;
}

size_t IndexOf(absl::string_view name) {
  return static_cast<size_t>(std::find_if(std::begin(kFailpoints), std::end(kFailpoints),
                                          [&](const char* known) { return name == known; }) -
                             std::begin(kFailpoints));
}

}  // namespace

namespace internal {

std::atomic<bool> failpoints_armed{false};

void HitFailpoint(const char* name) {
  const size_t index = IndexOf(name);
  if (index == kCount) return;
  Table& table = Points();
  FailpointAction action = FailpointAction::kCount;
  {
    MutexLock lock(table.mu);
    Point& point = table.points[index];
    if (++point.hits == point.due) action = point.action;
    if (action == FailpointAction::kHang) {
      // Until the point is armed anew: for a process that nobody arms again, for ever.
      for (const int64_t due = point.due; point.due == due;) table.armed.Wait(table.mu);
    }
  }
  if (action == FailpointAction::kKill) raise(SIGKILL);
  if (action == FailpointAction::kStop) raise(SIGSTOP);
}

}  // namespace internal

Status ArmFailpoint(absl::string_view name, FailpointAction action, int64_t nth) {
  const size_t index = IndexOf(name);
  if (index == kCount) return absl::NotFoundError(absl::StrCat("no failpoint is named ", name));
  if (nth < 1) return absl::InvalidArgumentError(absl::StrCat("hit number ", nth, " is below 1"));
  Table& table = Points();
  {
    MutexLock lock(table.mu);
    Point& point = table.points[index];
    point.action = action;
    point.due = point.hits + nth;
    table.armed.NotifyAll();
  }
  internal::failpoints_armed.store(true, std::memory_order_relaxed);
  return absl::OkStatus();
}

Status ArmFailpoints(absl::string_view text) {
  for (const absl::string_view item : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> order = absl::StrSplit(item, '=');
    const std::pair<absl::string_view, absl::string_view> when = absl::StrSplit(order.second, '@');
    int64_t nth = 1;
    if (!when.second.empty() && !absl::SimpleAtoi(when.second, &nth)) {
      return absl::InvalidArgumentError(absl::StrCat("no hit number: ", item));
    }
    FailpointAction action = FailpointAction::kCount;
    if (when.first == "kill") {
      action = FailpointAction::kKill;
    } else if (when.first == "stop") {
      action = FailpointAction::kStop;
    } else if (when.first == "hang") {
      action = FailpointAction::kHang;
    } else if (when.first != "count") {
      return absl::InvalidArgumentError(
          absl::StrCat("no such action (kill, stop, hang, count): ", item));
    }
    RETURN_IF_ERROR(ArmFailpoint(order.first, action, nth));
  }
  return absl::OkStatus();
}

std::vector<std::pair<std::string, int64_t>> FailpointHits() {
  Table& table = Points();
  std::vector<std::pair<std::string, int64_t>> hits;
  MutexLock lock(table.mu);
  for (size_t i = 0; i < kCount; ++i) hits.emplace_back(kFailpoints[i], table.points[i].hits);
  return hits;
}

}  // namespace reprise
