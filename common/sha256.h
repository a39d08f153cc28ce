// SHA-256 (FIPS 180-4, by OpenSSL) with the little-endian integer framing our identities use, and
// hexadecimal text. A Sha256 belongs to one thread at a time.
#ifndef REPRISE_COMMON_SHA256_H_
#define REPRISE_COMMON_SHA256_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX

namespace reprise {

using Digest256 = std::array<uint8_t, 32>;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  Sha256& Update(std::span<const uint8_t> bytes);
  Sha256& Update(absl::string_view text);
  Sha256& Update(const char* text) { return Update(absl::string_view(text)); }
  Sha256& Update(const std::string& text) { return Update(absl::string_view(text)); }
  Sha256& UpdateU32le(uint32_t value);
  Sha256& UpdateU64le(uint64_t value);

  // The digest of everything since construction or the last Finish; starts afresh.
  Digest256 Finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

// Lower case.
std::string HexEncode(std::span<const uint8_t> bytes);

// Either case; INVALID_ARGUMENT on an odd length or a foreign character.
StatusOr<std::vector<uint8_t>> HexDecode(absl::string_view text);

}  // namespace reprise

#endif  // REPRISE_COMMON_SHA256_H_
