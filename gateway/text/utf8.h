// UTF-8 as the tokenizer needs it: validation with the offset of the first bad byte, code points in
// and out, and an assembler that turns a stream of bytes into whole characters. Any thread; an
// assembler belongs to its holder.
#ifndef REPRISE_GATEWAY_TEXT_UTF8_H_
#define REPRISE_GATEWAY_TEXT_UTF8_H_

#include <unicode/utf8.h>

#include <cstddef>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace reprise {

inline constexpr absl::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// Byte offset of the first ill-formed sequence, nothing when `text` is valid.
std::optional<size_t> FindInvalidUtf8(absl::string_view text);

// The code point at `offset` of valid UTF-8, which moves past it.
inline char32_t NextCodePoint(absl::string_view text, size_t& offset) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  UChar32 c = 0;
  U8_NEXT_UNSAFE(bytes, offset, c);
  return static_cast<char32_t>(c);
}

void AppendCodePoint(char32_t c, std::string& out);

// Emits characters as soon as their last byte arrives and holds at most three bytes back.
// Invariant: the output of any split of the bytes, flushed, is the output of all of them at once.
class Utf8Assembler {
 public:
  enum class Invalid {
    kPerSubpart,  // one U+FFFD per maximal ill-formed subpart (Unicode 15, table 3-8)
    kPerByte,     // one U+FFFD per byte that is part of no character, as SentencePiece decodes
  };

  explicit Utf8Assembler(Invalid invalid) : invalid_(invalid) {}
  void Push(absl::string_view bytes, std::string& out);
  void Flush(std::string& out);  // what is held can no longer be completed

 private:
  void Drain(bool final, std::string& out);

  Invalid invalid_;
  std::string pending_;
};

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_UTF8_H_
