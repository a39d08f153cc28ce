#include "gateway/text/utf8.h"

#include <cstdint>

namespace reprise {
namespace {

// True when `bytes`, all consumed by U8_NEXT as one ill-formed piece, could still become a
// character.
bool IsUnfinished(absl::string_view bytes) {
  const auto lead = static_cast<unsigned char>(bytes[0]);
  if (lead < 0xC2 || lead > 0xF4) return false;
  const size_t needed = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  return bytes.size() < needed;
}

}  // namespace

std::optional<size_t> FindInvalidUtf8(absl::string_view text) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  const size_t n = text.size();
  for (size_t i = 0; i < n;) {
    if (bytes[i] < 0x80) {
      ++i;
      continue;
    }
    const size_t start = i;
    UChar32 c = 0;
    U8_NEXT(bytes, i, n, c);
    if (c < 0) return start;
  }
  return std::nullopt;
}

void AppendCodePoint(char32_t c, std::string& out) {
  uint8_t bytes[U8_MAX_LENGTH];
  size_t n = 0;
  U8_APPEND_UNSAFE(bytes, n, static_cast<UChar32>(c));
  out.append(reinterpret_cast<const char*>(bytes), n);
}

void Utf8Assembler::Push(absl::string_view bytes, std::string& out) {
  pending_.append(bytes.data(), bytes.size());
  Drain(/*final=*/false, out);
}

void Utf8Assembler::Flush(std::string& out) { Drain(/*final=*/true, out); }

void Utf8Assembler::Drain(bool final, std::string& out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(pending_.data());
  const size_t n = pending_.size();
  size_t i = 0;
  while (i < n) {
    const size_t start = i;
    UChar32 c = 0;
    U8_NEXT(bytes, i, n, c);
    if (c >= 0) {
      out.append(pending_, start, i - start);
      continue;
    }
    if (!final && i == n && IsUnfinished(absl::string_view(pending_).substr(start))) {
      i = start;
      break;
    }
    out.append(kReplacementCharacter.data(), kReplacementCharacter.size());
    if (invalid_ == Invalid::kPerByte) i = start + 1;
  }
  pending_.erase(0, i);
}

}  // namespace reprise
