// Tokens found in the text itself, before any splitting: special tokens and others a file adds to
// its model. Immutable after construction; any thread.
#ifndef REPRISE_GATEWAY_TEXT_ADDED_TOKENS_H_
#define REPRISE_GATEWAY_TEXT_ADDED_TOKENS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "common/status.h"
#include "gateway/text/matcher.h"
#include "gateway/text/normalizer.h"

namespace reprise {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool single_word = false;  // not inside of a word
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for in normalized text
  bool special = false;
};

// One stretch of text: a token, or (-1) text between tokens.
struct Section {
  Span span;
  int32_t id = -1;
};

// Finds a set of strings, leftmost first and of those the longest.
class StringSet {
 public:
  StringSet() { first_.fill(false); }
  void Add(absl::string_view text, uint32_t value);  // not empty; a later one replaces an equal one

  // The longest string of the set at `at`: its value and end; end == at when there is none.
  struct Hit {
    uint32_t value = 0;
    size_t end = 0;
  };
  Hit LongestAt(absl::string_view text, size_t at) const;

 private:
  std::array<bool, 256> first_;
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte -> node
  absl::flat_hash_map<uint32_t, uint32_t> values_;    // by node; the root is 0
  uint32_t nodes_ = 1;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // INVALID_ARGUMENT or RESOURCE_EXHAUSTED for an empty or too long content.
  static StatusOr<AddedTokens> Create(std::vector<AddedToken> tokens, const Normalizer& normalizer);

  // Cuts raw text at the tokens looked for there, or normalized text at the others. `parse_special`
  // false: special tokens stay text, so that a user cannot write one.
  std::vector<Section> CutRaw(absl::string_view text, bool parse_special) const;
  std::vector<Section> CutNormalized(absl::string_view text, bool parse_special) const;

  bool IsSpecial(int32_t id) const { return id >= 0 && id < std::ssize(special_) && special_[id]; }
  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  std::vector<Section> Cut(const StringSet& set, absl::string_view text, bool parse_special) const;

  std::vector<AddedToken> tokens_;
  std::vector<bool> special_;  // by id
  StringSet raw_;              // values index tokens_
  StringSet normalized_;
};

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_ADDED_TOKENS_H_
