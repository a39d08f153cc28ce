#include "kvstore/block/block_id.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace reprise::kv {
namespace {

BlockId Truncate(const Digest256& digest) {
  BlockId id;
  std::copy_n(digest.begin(), id.bytes.size(), id.bytes.begin());
  return id;
}

}  // namespace

std::string BlockId::Hex() const { return HexEncode(bytes); }

BlockId ChildId(const ChainContext& context, const BlockId& parent, std::span<const int32_t> tokens,
                absl::string_view derivation) {
  Sha256 hash;
  hash.Update(absl::string_view("reprise.block.v1"));
  hash.Update(std::span<const uint8_t>(context.format_digest));
  hash.UpdateU64le(context.tenant_salt.size());
  hash.Update(absl::string_view(context.tenant_salt));
  hash.Update(std::span<const uint8_t>(parent.bytes));
  hash.UpdateU64le(tokens.size());
  hash.Update(std::span<const uint8_t>(reinterpret_cast<const uint8_t*>(tokens.data()),
                                       tokens.size_bytes()));
  hash.UpdateU64le(derivation.size());
  hash.Update(derivation);
  return Truncate(hash.Finish());
}

std::string FormDerivation(const ChainContext& context, int64_t first_position,
                           int64_t prompt_end) {
  const int64_t prompt_rows = prompt_end - first_position;
  if (prompt_rows >= context.block_tokens) return "";
  return absl::StrCat("step@", std::max<int64_t>(prompt_rows, 0));
}

std::vector<BlockId> ChainIds(const ChainContext& context, std::span<const int32_t> tokens,
                              int64_t prompt_end, BlockId parent, int64_t first_position) {
  const size_t block = static_cast<size_t>(context.block_tokens);
  std::vector<BlockId> ids;
  ids.reserve(tokens.size() / block);
  for (size_t at = 0; at + block <= tokens.size(); at += block) {
    const int64_t position = first_position + static_cast<int64_t>(at);
    parent = ChildId(context, parent, tokens.subspan(at, block),
                     FormDerivation(context, position, prompt_end));
    ids.push_back(parent);
  }
  return ids;
}

BlockId TailId(const RequestKey& request, uint32_t leg, int64_t first_position) {
  Sha256 hash;
  hash.Update(absl::string_view("reprise.tail.v1"));
  hash.UpdateU64le(request.id.size());
  hash.Update(absl::string_view(request.id));
  hash.UpdateU64le(request.attempt.owner_epoch);
  hash.UpdateU64le(request.attempt.n);
  hash.UpdateU64le(leg);
  hash.UpdateU64le(static_cast<uint64_t>(first_position));
  return Truncate(hash.Finish());
}

BlockId ReplicaTailId(absl::string_view request_id, uint32_t branch, int64_t first_position) {
  Sha256 hash;
  hash.Update(absl::string_view("reprise.replica_tail.v1"));
  hash.UpdateU64le(request_id.size());
  hash.Update(request_id);
  hash.UpdateU64le(branch);
  hash.UpdateU64le(static_cast<uint64_t>(first_position));
  return Truncate(hash.Finish());
}

BlockId ProbeId(uint64_t incarnation) {
  Sha256 hash;
  hash.Update(absl::string_view("reprise.probe.v1"));
  hash.UpdateU64le(incarnation);
  return Truncate(hash.Finish());
}

std::string PackIds(std::span<const BlockId> ids) {
  std::string packed;
  packed.reserve(ids.size() * 16);
  for (const BlockId& id : ids) {
    packed.append(reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size());
  }
  return packed;
}

StatusOr<std::vector<BlockId>> UnpackIds(absl::string_view packed, size_t ids_max) {
  if (packed.size() % 16 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("block ids take 16 bytes each, found ", packed.size(), " bytes"));
  }
  if (packed.size() / 16 > ids_max) {
    return absl::InvalidArgumentError(
        absl::StrCat("found ", packed.size() / 16, " block ids, the limit is ", ids_max));
  }
  std::vector<BlockId> ids(packed.size() / 16);
  for (size_t i = 0; i < ids.size(); ++i) {
    std::memcpy(ids[i].bytes.data(), packed.data() + i * 16, 16);
  }
  return ids;
}

}  // namespace reprise::kv
