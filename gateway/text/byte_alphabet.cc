#include "gateway/text/byte_alphabet.h"

#include <array>

#include "gateway/text/utf8.h"

namespace reprise {
namespace {

constexpr char32_t kLetterEnd = 0x144;

struct Tables {
  std::array<char32_t, 256> letter{};
  std::array<int16_t, kLetterEnd> byte{};  // -1: not of the alphabet

  constexpr Tables() {
    byte.fill(-1);
    char32_t next = 0x100;  // bytes that do not print move up, in order
    for (int b = 0; b < 256; ++b) {
      const bool prints = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xFF && b != 0xAD);
      letter[b] = prints ? static_cast<char32_t>(b) : next++;
      byte[letter[b]] = static_cast<int16_t>(b);
    }
  }
};

constexpr Tables kTables;

}  // namespace

char32_t ByteToLetter(uint8_t byte) { return kTables.letter[byte]; }

std::string BytesToLetters(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char b : bytes) AppendCodePoint(ByteToLetter(static_cast<uint8_t>(b)), out);
  return out;
}

std::string LettersToBytes(absl::string_view letters) {
  std::string out;
  out.reserve(letters.size());
  for (size_t i = 0; i < letters.size();) {
    const char32_t c = NextCodePoint(letters, i);
    if (c >= kLetterEnd || kTables.byte[c] < 0) return std::string(letters);
    out += static_cast<char>(kTables.byte[c]);
  }
  return out;
}

}  // namespace reprise
