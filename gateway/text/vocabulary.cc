#include "gateway/text/vocabulary.h"

#include <algorithm>

#include "common/json.h"
#include "common/limits.h"

namespace reprise {
namespace {

std::string Name(absl::string_view token) {
  constexpr size_t kShown = 64;
  return token.size() <= kShown ? JsonQuote(token)
                                : absl::StrCat(JsonQuote(token.substr(0, kShown)), "...");
}

}  // namespace

StatusOr<Vocabulary> Vocabulary::Create(std::vector<Entry> entries) {
  if (entries.size() > limits::kVocabEntriesMax) {
    return absl::ResourceExhaustedError(absl::StrCat("vocabulary of ", entries.size(),
                                                     " entries is over the limit of ",
                                                     limits::kVocabEntriesMax));
  }
  int64_t last = -1;
  for (const auto& [token, id] : entries) {
    if (id < 0 || id >= limits::kVocabEntriesMax) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", Name(token), " has id ", id, ", outside of 0..", limits::kVocabEntriesMax - 1));
    }
    if (token.size() > limits::kTokenBytesMax) {
      return absl::ResourceExhaustedError(absl::StrCat("token ", Name(token), " of ", token.size(),
                                                       " bytes is over the limit of ",
                                                       limits::kTokenBytesMax));
    }
    last = std::max(last, id);
  }
  Vocabulary out;
  out.tokens_.resize(last + 1);
  out.present_.resize(last + 1);
  out.ids_.reserve(entries.size());
  for (auto& [token, id] : entries) {
    if (out.present_[id]) {
      return absl::InvalidArgumentError(absl::StrCat("tokens ", Name(out.tokens_[id]), " and ",
                                                     Name(token), " both have id ", id));
    }
    out.tokens_[id] = std::move(token);
    out.present_[id] = true;
    const auto [it, fresh] = out.ids_.try_emplace(out.tokens_[id], static_cast<int32_t>(id));
    if (!fresh) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", Name(out.tokens_[id]), " has two ids, ", it->second, " and ", id));
    }
  }
  return out;
}

}  // namespace reprise
