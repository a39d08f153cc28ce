// The alphabet of byte-level BPE (GPT-2, Radford et al. 2019): every byte has one printable code
// point, so that any byte string is text. Constant tables; any thread.
#ifndef REPRISE_GATEWAY_TEXT_BYTE_ALPHABET_H_
#define REPRISE_GATEWAY_TEXT_BYTE_ALPHABET_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace reprise {

// The code point that stands for `byte`, between U+0021 and U+0143.
char32_t ByteToLetter(uint8_t byte);

std::string BytesToLetters(absl::string_view bytes);

// The bytes that valid UTF-8 `letters` stand for; the text's own bytes when any code point of it is
// not of the alphabet, as the reference decoder does.
std::string LettersToBytes(absl::string_view letters);

}  // namespace reprise

#endif  // REPRISE_GATEWAY_TEXT_BYTE_ALPHABET_H_
