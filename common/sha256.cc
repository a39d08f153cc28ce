#include "common/sha256.h"

#include <openssl/evp.h>

#include <cstdlib>

namespace reprise {
namespace {

// OpenSSL reports nothing but exhausted memory or a missing provider here; neither leaves a process
// that could compute an identity, and a wrong identity would be worse than none.
void DieUnless(int ok) {
  if (ok != 1) std::abort();
}

// Looked up once: EVP_sha256() makes every digest search the providers, under their locks.
const EVP_MD* Algorithm() {
  static const EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return algorithm;
}

void Start(evp_md_ctx_st* context) { DieUnless(EVP_DigestInit_ex(context, Algorithm(), nullptr)); }

template <typename T>
std::array<uint8_t, sizeof(T)> LittleEndian(T value) {
  std::array<uint8_t, sizeof(T)> bytes;
  for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = static_cast<uint8_t>(value >> (8 * i));
  return bytes;
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  DieUnless(context_ != nullptr);
  Start(context_.get());
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

Sha256& Sha256::Update(std::span<const uint8_t> bytes) {
  DieUnless(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()));
  return *this;
}

Sha256& Sha256::Update(absl::string_view text) {
  DieUnless(EVP_DigestUpdate(context_.get(), text.data(), text.size()));
  return *this;
}

Sha256& Sha256::UpdateU32le(uint32_t value) { return Update(LittleEndian(value)); }
Sha256& Sha256::UpdateU64le(uint64_t value) { return Update(LittleEndian(value)); }

Digest256 Sha256::Finish() {
  Digest256 digest;
  DieUnless(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr));
  Start(context_.get());
  return digest;
}

std::string HexEncode(std::span<const uint8_t> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const uint8_t byte : bytes) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

StatusOr<std::vector<uint8_t>> HexDecode(absl::string_view text) {
  if (text.size() % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("hexadecimal text has an odd length: ", text.size()));
  }
  std::vector<uint8_t> bytes(text.size() / 2);
  for (size_t i = 0; i < text.size(); i += 2) {
    const int high = HexValue(text[i]);
    const int low = HexValue(text[i + 1]);
    if (high < 0 || low < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("not a hexadecimal digit near character ", i, " of ", text.size()));
    }
    bytes[i / 2] = static_cast<uint8_t>(high << 4 | low);
  }
  return bytes;
}

}  // namespace reprise
