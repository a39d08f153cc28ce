// Rewrites text before it is split: the "normalizer" of a tokenizer file. Immutable after parsing;
// any thread.
#ifndef REPRISE_GATEWAY_TEXT_NORMALIZER_H_
#define REPRISE_GATEWAY_TEXT_NORMALIZER_H_

#include <memory>
#include <string>
#include <vector>

#include "common/json.h"
#include "common/status.h"

namespace reprise {

class Normalizer {
 public:
  class Rule {
   public:
    virtual ~Rule() = default;
    virtual Status Apply(std::string& text) const = 0;  // valid UTF-8 in and out
  };

  // NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace and Sequence; null is the identity.
  static StatusOr<Normalizer> Parse(const JsonValue& value);
  static Normalizer Nfc();

  bool IsIdentity() const { return rules_.empty(); }

  // RESOURCE_EXHAUSTED when the result would be over limits::kNormalizedTextBytesMax.
  Status Apply(std::string& text) const;

 private:
  std::vector<std::unique_ptr<Rule>> rules_;
};

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_NORMALIZER_H_
