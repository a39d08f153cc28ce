// Strict reading of one typed object of a tokenizer file: members not taken are refused by name, so
// that no setting this code does not know is silently dropped. Belongs to its caller's stack.
#ifndef REPRISE_GATEWAY_TEXT_JSON_OBJECT_H_
#define REPRISE_GATEWAY_TEXT_JSON_OBJECT_H_

#include <initializer_list>
#include <string>

#include "absl/strings/string_view.h"
#include "common/json.h"
#include "common/status.h"

namespace reprise {

// INVALID_ARGUMENT unless `value` is an object whose keys are all among `keys`. `what` names it.
Status CheckObject(const JsonValue& value, absl::string_view what,
                   std::initializer_list<absl::string_view> keys);

// The member's array or string; INVALID_ARGUMENT names `what` and the key when it is missing.
StatusOr<const JsonValue*> RequireArray(const JsonValue& object, absl::string_view what,
                                        absl::string_view key);
StatusOr<std::string> RequireString(const JsonValue& object, absl::string_view what,
                                    absl::string_view key);

// The stages of "type": "Sequence" under `key`, else the object itself, in order and flattened;
// nothing for null. At most limits::kTokenizerStagesMax of them.
StatusOr<std::vector<const JsonValue*>> FlattenSequence(const JsonValue& value,
                                                        absl::string_view what,
                                                        absl::string_view key);

// 'WHAT type "X" is not supported'.
Status Unsupported(absl::string_view what, absl::string_view type);

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_JSON_OBJECT_H_
