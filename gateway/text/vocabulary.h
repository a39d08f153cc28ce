// Token strings and their ids, one to one. Built once by a loader, then immutable; any thread.
#ifndef REPRISE_GATEWAY_TEXT_VOCABULARY_H_
#define REPRISE_GATEWAY_TEXT_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

class Vocabulary {
 public:
  using Entry = std::pair<std::string, int64_t>;  // token, id

  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;  // not copied: ids_ points into tokens_
  Vocabulary& operator=(Vocabulary&&) = default;

  // INVALID_ARGUMENT names the token whose id is out of range or taken, or that comes twice;
  // RESOURCE_EXHAUSTED a token that is too long. Ids may leave gaps.
  static StatusOr<Vocabulary> Create(std::vector<Entry> entries);

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }  // highest id + 1
  bool Has(int32_t id) const { return id >= 0 && id < size() && present_[id]; }
  const std::string& Token(int32_t id) const { return tokens_[id]; }  // Has(id)

  // The id of `token`, -1 when it is not in the vocabulary.
  int32_t Find(absl::string_view token) const {
    const auto it = ids_.find(token);
    return it == ids_.end() ? -1 : it->second;
  }

 private:
  std::vector<std::string> tokens_;  // never resized after construction: ids_ points into it
  std::vector<bool> present_;
  absl::flat_hash_map<absl::string_view, int32_t> ids_;
};

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_VOCABULARY_H_
