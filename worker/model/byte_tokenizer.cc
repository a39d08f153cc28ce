#include "worker/model/byte_tokenizer.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "common/json.h"

namespace reprise::worker {
namespace {

constexpr char kHead[] = R"({
"version": "1.0",
"truncation": null,
"padding": null,
"added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
  "rstrip": false, "normalized": false, "special": true}],
"normalizer": null,
"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
  "use_regex": true},
"post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
  "use_regex": true},
"decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
  "use_regex": true},
"model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
"merges": [],
"vocab": {
"<|endoftext|>": 0)";

std::string Utf8(uint32_t code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

// The printable stand-ins of byte-level BPE: printable Latin-1 stands for itself, the others for
// U+0100 and up in order (bytes_to_unicode of GPT-2's encoder.py).
std::array<std::string, 256> ByteAlphabet() {
  std::array<std::string, 256> alphabet;
  uint32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
    alphabet[b] = Utf8(printable ? b : next++);
  }
  return alphabet;
}

// At least two letters; distinct for distinct n.
std::string Word(int64_t n) {
  std::string letters;
  for (n += 26; n >= 0; n = n / 26 - 1) letters.insert(0, 1, static_cast<char>('a' + n % 26));
  return letters;
}

}  // namespace

std::string ByteTokenizerJson(int64_t vocab) {
  const std::array<std::string, 256> alphabet = ByteAlphabet();
  std::string json = kHead;
  for (int64_t id = 1; id < vocab; ++id) {
    const std::string piece = id <= 256 ? alphabet[static_cast<size_t>(id - 1)]
                                        : alphabet[' '] + Word(id - kByteTokenizerVocabMin);
    absl::StrAppend(&json, ",\n", JsonQuote(piece), ": ", id);
  }
  return json + "}}}\n";
}

}  // namespace reprise::worker
