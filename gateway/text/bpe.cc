#include "gateway/text/bpe.h"

#include <algorithm>
#include <functional>

#include "absl/strings/str_format.h"
#include "common/json.h"
#include "common/limits.h"
#include "gateway/text/byte_alphabet.h"
#include "gateway/text/utf8.h"

namespace reprise {
namespace {

constexpr absl::string_view kSpaceMark = "\u2581";
constexpr size_t kCachedWords = 1 << 16;
constexpr size_t kCachedWordBytes = 64;

std::string MergeName(const Bpe::Merge& merge, size_t rank) {
  return absl::StrCat("merge ", rank, " (", JsonQuote(merge.first), ", ", JsonQuote(merge.second),
                      ")");
}

char32_t LastCodePoint(absl::string_view text) {  // of text that is not empty
  size_t at = text.size();
  U8_BACK_1(reinterpret_cast<const uint8_t*>(text.data()), 0, at);
  return NextCodePoint(text, at);
}

}  // namespace

StatusOr<Bpe> Bpe::Create(Vocabulary vocab, const std::vector<Merge>& merges,
                          const BpeOptions& options) {
  Bpe out;
  out.vocab_ = std::move(vocab);
  out.options_ = options;
  if (!options.unk_token.empty()) {
    out.unk_id_ = out.vocab_.Find(options.unk_token);
    if (out.unk_id_ < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("unk_token ", JsonQuote(options.unk_token), " is not in the vocabulary"));
    }
  }
  for (int b = 0; b < 256; ++b) {
    std::string letter;
    AppendCodePoint(ByteToLetter(static_cast<uint8_t>(b)), letter);
    out.letter_ids_[b] = out.vocab_.Find(letter);
    out.fallback_ids_[b] = out.vocab_.Find(absl::StrFormat("<0x%02X>", b));
  }
  RETURN_IF_ERROR(out.AddMerges(merges));
  // A token that stands for other text than its own could merge where that text would be cut.
  const bool stand_ins_merge =
      (options.byte_fallback && out.before_space_.contains('>')) ||
      (out.unk_id_ >= 0 && out.before_space_.contains(LastCodePoint(options.unk_token)));
  out.cut_ = !options.ignore_merges && !stand_ins_merge && out.vocab_.Find(kSpaceMark) >= 0;
  return out;
}

Status Bpe::AddMerges(const std::vector<Merge>& merges) {
  if (merges.size() > limits::kMergesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(merges.size(), " merges are over the limit of ", limits::kMergesMax));
  }
  rules_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const int32_t left_id = vocab_.Find(left);
    const int32_t right_id = vocab_.Find(right);
    const std::string joined = left + right;
    const int32_t result = vocab_.Find(joined);
    if (left_id < 0 || right_id < 0 || result < 0) {
      const absl::string_view missing = left_id < 0 ? left : right_id < 0 ? right : joined;
      return absl::InvalidArgumentError(absl::StrCat(
          MergeName(merges[rank], rank), ": ", JsonQuote(missing), " is not in the vocabulary"));
    }
    // The last of equal merges counts, as in the reference.
    rules_[static_cast<uint64_t>(left_id) << 32 | static_cast<uint32_t>(right_id)] = {
        static_cast<uint32_t>(rank), result};
    FindSpaceMerges(joined);
  }
  return absl::OkStatus();
}

void Bpe::FindSpaceMerges(absl::string_view token) {
  for (size_t at = token.find(kSpaceMark, 1); at != absl::string_view::npos;
       at = token.find(kSpaceMark, at + 1)) {
    before_space_.insert(LastCodePoint(token.substr(0, at)));
  }
}

void Bpe::Session::Encode(absl::string_view word, std::vector<int32_t>& out) {
  if (bytes_ || !bpe_.cut_) return EncodePart(word, out);
  size_t begin = 0;
  for (size_t at = word.find(kSpaceMark, 1); at != absl::string_view::npos;
       at = word.find(kSpaceMark, at + 1)) {
    if (bpe_.before_space_.contains(LastCodePoint(word.substr(0, at)))) continue;
    EncodePart(word.substr(begin, at - begin), out);
    begin = at;
  }
  EncodePart(word.substr(begin), out);
}

void Bpe::Session::EncodePart(absl::string_view part, std::vector<int32_t>& out) {
  if (part.empty()) return;
  const bool cached = part.size() <= kCachedWordBytes;
  if (cached) {
    if (const auto it = seen_.find(part); it != seen_.end()) {
      const auto [begin, end] = it->second;
      for (size_t i = begin; i < end; ++i) out.push_back(out[i]);
      return;
    }
  }
  const size_t begin = out.size();
  int32_t whole = -1;
  if (bpe_.options_.ignore_merges) {
    whole = bpe_.vocab_.Find(bytes_ ? BytesToLetters(part) : std::string(part));
  }
  if (whole >= 0) {
    out.push_back(whole);
  } else {
    FillSymbols(part);
    MergeAll();
    for (int32_t s = symbols_.empty() ? -1 : 0; s >= 0; s = symbols_[s].next) {
      out.push_back(symbols_[s].id);
    }
  }
  if (cached && seen_.size() < kCachedWords) seen_.try_emplace(part, begin, out.size());
}

void Bpe::Session::FillSymbols(absl::string_view part) {
  symbols_.clear();
  unknown_pending_ = false;
  if (!bytes_) return FillSymbolsGeneral(part);
  for (const char c : part) {
    const int32_t id = bpe_.letter_ids_[static_cast<uint8_t>(c)];
    if (id < 0) {
      symbols_.clear();
      return FillSymbolsGeneral(BytesToLetters(part));
    }
    AddSymbol(id);
  }
}

// The reference's order: a pending unknown is written when a known symbol follows, and byte
// fallback does not write it.
void Bpe::Session::FillSymbolsGeneral(absl::string_view letters) {
  for (size_t i = 0; i < letters.size();) {
    const size_t start = i;
    NextCodePoint(letters, i);
    const absl::string_view letter = letters.substr(start, i - start);
    if (const int32_t id = bpe_.vocab_.Find(letter); id >= 0) {
      if (unknown_pending_) AddSymbol(bpe_.unk_id_);
      unknown_pending_ = false;
      AddSymbol(id);
      continue;
    }
    const auto fallback = [&](char c) { return bpe_.fallback_ids_[static_cast<uint8_t>(c)]; };
    if (bpe_.options_.byte_fallback &&
        std::all_of(letter.begin(), letter.end(), [&](char c) { return fallback(c) >= 0; })) {
      for (const char c : letter) AddSymbol(fallback(c));
      continue;
    }
    AddUnknown();
  }
  if (unknown_pending_) AddSymbol(bpe_.unk_id_);
}

void Bpe::Session::AddUnknown() {
  if (bpe_.unk_id_ < 0) return;
  if (unknown_pending_ && !bpe_.options_.fuse_unk) AddSymbol(bpe_.unk_id_);
  unknown_pending_ = true;
}

void Bpe::Session::AddSymbol(int32_t id) {
  const auto at = static_cast<int32_t>(symbols_.size());
  if (at > 0) symbols_.back().next = at;
  symbols_.push_back({id, at - 1, -1});
}

void Bpe::Session::PushCandidate(int32_t left) {
  const int32_t right = symbols_[left].next;
  if (right < 0) return;
  const Rule* rule = bpe_.FindRule(symbols_[left].id, symbols_[right].id);
  if (rule == nullptr) return;
  heap_.push_back(static_cast<uint64_t>(rule->rank) << 32 | static_cast<uint32_t>(left));
}

void Bpe::Session::MergeAll() {
  heap_.clear();
  for (size_t i = 0; i + 1 < symbols_.size(); ++i) PushCandidate(static_cast<int32_t>(i));
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  const auto push = [&](int32_t left) {
    const size_t before = heap_.size();
    PushCandidate(left);
    if (heap_.size() > before) std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  };
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    const uint64_t top = heap_.back();
    heap_.pop_back();
    const auto left = static_cast<int32_t>(top & 0xFFFFFFFF);
    Symbol& symbol = symbols_[left];
    if (symbol.id < 0 || symbol.next < 0) continue;
    const Rule* rule = bpe_.FindRule(symbol.id, symbols_[symbol.next].id);
    if (rule == nullptr || rule->rank != top >> 32) continue;  // one of the two has merged since
    Symbol& right = symbols_[symbol.next];
    symbol.id = rule->result;
    symbol.next = right.next;
    right.id = -1;
    if (symbol.next >= 0) symbols_[symbol.next].previous = left;
    if (symbol.previous >= 0) push(symbol.previous);
    push(left);
  }
}

}  // namespace reprise
