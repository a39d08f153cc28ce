// Error plumbing around absl::Status, the only error type of the project.
// Stateless; any thread.
#ifndef REPRISE_COMMON_STATUS_H_
#define REPRISE_COMMON_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace reprise {

using absl::Status;
using absl::StatusOr;

// Prefixes the message with `context` ("while reading FILE"), keeping code and payloads.
Status Annotate(const Status& status, absl::string_view context);

}  // namespace reprise

#define REPRISE_CONCAT_INNER_(a, b) a##b
#define REPRISE_CONCAT_(a, b) REPRISE_CONCAT_INNER_(a, b)

// Returns from the enclosing function when `expr` is not OK.
#define RETURN_IF_ERROR(expr)                          \
  do {                                                 \
    ::absl::Status reprise_status_ = (expr);           \
    if (!reprise_status_.ok()) return reprise_status_; \
  } while (false)

// ASSIGN_OR_RETURN(auto x, F()): binds the value or returns the error.
#define ASSIGN_OR_RETURN(lhs, expr) \
  REPRISE_ASSIGN_OR_RETURN_(REPRISE_CONCAT_(reprise_statusor_, __LINE__), lhs, expr)
#define REPRISE_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return std::move(tmp).status();  \
  lhs = std::move(tmp).value()

#endif  // REPRISE_COMMON_STATUS_H_
