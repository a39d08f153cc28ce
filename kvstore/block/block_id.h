// Content addresses of KV blocks. An id names a whole prefix: it chains the parent's id, the
// block's tokens, the tenant's salt, the KV format and the derivation (docs/kvstore.md). Values;
// any thread.
//
// Invariants:
// 1. Equal ids mean equal token prefix, tenant, format and derivation (up to SHA-256 collisions).
// 2. An id is computed from tokens by whoever uses it; a claimed id is compared, never trusted.
#ifndef REPRISE_KVSTORE_BLOCK_BLOCK_ID_H_
#define REPRISE_KVSTORE_BLOCK_BLOCK_ID_H_

#include <array>
#include <compare>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/ids.h"
#include "common/sha256.h"
#include "common/status.h"

namespace reprise::kv {

struct BlockId {
  std::array<uint8_t, 16> bytes{};

  auto operator<=>(const BlockId&) const = default;
  std::string Hex() const;

  template <typename H>
  friend H AbslHashValue(H h, const BlockId& id) {
    uint64_t word;
    std::memcpy(&word, id.bytes.data(), sizeof word);  // already uniform
    return H::combine(std::move(h), word);
  }
};

// What besides the tokens decides an id.
struct ChainContext {
  Digest256 format_digest{};
  int block_tokens = 64;
  std::string tenant_salt;  // from the authenticated tenant, empty for the single-tenant default
};

// The id of the block whose parent is `parent` (all zero for the first block).
// `tokens` has exactly block_tokens entries. `derivation` is empty for rows in prompt form.
BlockId ChildId(const ChainContext& context, const BlockId& parent, std::span<const int32_t> tokens,
                absl::string_view derivation = {});

// Where a sequence's rows change from prompt form to step form is its prompt's end; for a model
// whose two forms have the same bits, nowhere.
inline constexpr int64_t kOneForm = INT64_MAX;
// The derivation of a block that begins at `first_position`: empty when all its rows are in prompt
// form, else it says how many are.
std::string FormDerivation(const ChainContext& context, int64_t first_position, int64_t prompt_end);

// Ids of all whole blocks of `tokens`, in order. They stand in their sequence from `first_position`
// on, behind the block `parent` (zero at the start).
std::vector<BlockId> ChainIds(const ChainContext& context, std::span<const int32_t> tokens,
                              int64_t prompt_end = kOneForm, BlockId parent = {},
                              int64_t first_position = 0);

// The id under which a prefill leg serves the open tail of one request: rows
// [first_position, end of prompt). Known to both sides before anything is computed.
BlockId TailId(const RequestKey& request, uint32_t leg, int64_t first_position);

// The id under which a store serves the open tail of a live sequence. It names no attempt: whoever
// takes the request over asks for what an earlier attempt left.
BlockId ReplicaTailId(absl::string_view request_id, uint32_t branch, int64_t first_position);

// The id under which every process serves a block of its own making, for reachability probes.
BlockId ProbeId(uint64_t incarnation);

std::string PackIds(std::span<const BlockId> ids);  // 16 bytes each
StatusOr<std::vector<BlockId>> UnpackIds(absl::string_view packed, size_t ids_max);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_BLOCK_BLOCK_ID_H_
