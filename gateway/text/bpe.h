// Byte-pair encoding of one word after another: merges by rank, ties to the left, byte fallback and
// unknown tokens as the reference does. Immutable after construction; any thread.
//
// A word of n symbols takes O(n log n), however long it is: candidates wait in a heap, symbols in a
// linked list. Text that spaces divide in a vocabulary that never merges across them is cut there
// first, which changes no token.
#ifndef REPRISE_GATEWAY_TEXT_BPE_H_
#define REPRISE_GATEWAY_TEXT_BPE_H_

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "common/status.h"
#include "gateway/text/vocabulary.h"

namespace reprise {

struct BpeOptions {
  std::string unk_token;  // empty: symbols outside of the vocabulary vanish
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;  // a word that is a token is that token
};

class Bpe {
 public:
  using Merge = std::pair<std::string, std::string>;

  // Refuses merges whose pieces or result the vocabulary lacks, by name.
  static StatusOr<Bpe> Create(Vocabulary vocab, const std::vector<Merge>& merges,
                              const BpeOptions& options);

  const Vocabulary& vocab() const { return vocab_; }

  // Buffers kept between words; and, of the words seen, where in `out` their tokens stand. A cache
  // that lives no longer than one text shares nothing between requests. It needs no lock.
  class Session;

 private:
  struct Rule {
    uint32_t rank;
    int32_t result;
  };

  Bpe() = default;
  Status AddMerges(const std::vector<Merge>& merges);
  void FindSpaceMerges(absl::string_view token);

  const Rule* FindRule(int32_t left, int32_t right) const {
    const auto it = rules_.find(static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right));
    return it == rules_.end() ? nullptr : &it->second;
  }

  Vocabulary vocab_;
  BpeOptions options_;
  int32_t unk_id_ = -1;
  absl::flat_hash_map<uint64_t, Rule> rules_;  // by (left id, right id)
  std::array<int32_t, 256> letter_ids_{};      // of the byte alphabet, -1: absent
  std::array<int32_t, 256> fallback_ids_{};    // of <0xNN>, -1: absent
  // Code points that some token holds right before U+2581; cutting before a U+2581 that follows
  // another one is safe. Not used (cut_ false) when U+2581 alone is no token.
  absl::flat_hash_set<char32_t> before_space_;
  bool cut_ = false;
};

class Bpe::Session {
 public:
  // `bytes`: each byte of the words is a symbol, spelled in the byte alphabet.
  Session(const Bpe& bpe, bool bytes) : bpe_(bpe), bytes_(bytes) {}

  // Appends the tokens of `word` to `out`; `word` must outlive the session, and `out` must be the
  // same vector every time, only appended to.
  void Encode(absl::string_view word, std::vector<int32_t>& out);

 private:
  struct Symbol {
    int32_t id;
    int32_t previous;  // -1: none
    int32_t next;      // -1: none
  };

  void EncodePart(absl::string_view part, std::vector<int32_t>& out);
  void FillSymbols(absl::string_view part);
  void FillSymbolsGeneral(absl::string_view letters);
  void AddSymbol(int32_t id);
  void AddUnknown();
  void PushCandidate(int32_t left);
  void MergeAll();

  const Bpe& bpe_;
  const bool bytes_;
  std::vector<Symbol> symbols_;
  std::vector<uint64_t> heap_;  // rank << 32 | position: the least rank, then the leftmost
  bool unknown_pending_ = false;
  absl::flat_hash_map<absl::string_view, std::pair<size_t, size_t>> seen_;  // word -> [begin, end)
};

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_BPE_H_
