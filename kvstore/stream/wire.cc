#include "kvstore/stream/wire.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "common/bytes.h"
#include "common/crc32c.h"
#include "common/limits.h"

namespace reprise::kv::wire {
namespace {

using Writer = ByteWriter<std::string>;

constexpr size_t kItemBytes = 16 + 8;
constexpr uint32_t kPartHeadsMax = 1 << 20;  // of any format
constexpr size_t kPeerAddressBytesMin = 4 + 8 + 4 + 2;
constexpr uint32_t kNoBranch = UINT32_MAX;  // of an offer that replicates nothing
constexpr size_t kRequestKeyBytesMin = 4 + 8 + 4;
// With empty texts; one token.
constexpr size_t kTailEntryBytesMin = kRequestKeyBytesMin + 4 + 4 + 4 + 16 + 8 + 4 + 4 + 4;
constexpr size_t kHeldEntryBytesMin = kRequestKeyBytesMin + 4 + 8 + 1;
constexpr size_t kTailStateBytesMin = 4 + 8 + 16 + 8 + 4;

// ---- Shared fields. ----

void Put(Writer& out, const NodeKey& key) { out.PrefixedText(key.name).U64(key.incarnation); }
NodeKey GetNodeKey(ByteReader& in) {
  NodeKey key;
  key.name = std::string(in.PrefixedText("node name", limits::kNodeNameBytesMax));
  key.incarnation = in.U64("incarnation");
  return key;
}

void Put(Writer& out, const RequestKey& key) {
  out.PrefixedText(key.id).U64(key.attempt.owner_epoch).U32(key.attempt.n);
}
RequestKey GetRequestKey(ByteReader& in) {
  RequestKey key;
  key.id = std::string(in.PrefixedText("request id", limits::kRequestIdBytesMax));
  key.attempt.owner_epoch = in.U64("owner epoch");
  key.attempt.n = in.U32("attempt");
  return key;
}

void Put(Writer& out, const PeerAddress& address) {
  Put(out, address.key);
  out.PrefixedText(address.host).U16(static_cast<uint16_t>(address.port));
}
PeerAddress GetPeerAddress(ByteReader& in) {
  PeerAddress address;
  address.key = GetNodeKey(in);
  address.host = std::string(in.PrefixedText("host", limits::kHostBytesMax));
  address.port = in.U16("port");
  return address;
}

void Put(Writer& out, const Range& range) { out.U32(range.begin).U32(range.end); }
Range GetRange(ByteReader& in, const char* field, uint32_t end_max) {
  Range range;
  range.begin = in.U32(field);
  range.end = in.U32(field);
  if (range.begin >= range.end || range.end > end_max) {
    in.Fail(
        absl::StrCat(field, " are [", range.begin, ", ", range.end, "), the limit is ", end_max));
  }
  return range;
}

// A group of ranks, or none: zero stages.
void Put(Writer& out, const std::optional<RankGroup>& group) {
  if (!group.has_value()) {
    out.U32(0);
    return;
  }
  const GroupSplit& split = group->split;
  out.U32(split.pipeline).U32(split.tensor).U32(split.context).U32(split.stripe_leaves);
  out.U32(static_cast<uint32_t>(group->ranks.size()));
  for (const PeerAddress& rank : group->ranks) Put(out, rank);
}
std::optional<RankGroup> GetGroup(ByteReader& in) {
  RankGroup group;
  GroupSplit& split = group.split;
  split.pipeline = in.U32("pipeline stages");
  if (split.pipeline == 0) return std::nullopt;
  split.tensor = in.U32("tensor ranks");
  split.context = in.U32("context ranks");
  split.stripe_leaves = in.U32("leaves of a stripe");
  group.ranks.resize(in.Count("ranks", limits::kGroupRanksMax, kPeerAddressBytesMin));
  const uint64_t tiles = uint64_t{split.pipeline} * split.tensor;
  if (tiles > limits::kGroupRanksMax || tiles * split.context != group.ranks.size() ||
      group.ranks.empty() || split.stripe_leaves == 0) {
    in.Fail(absl::StrCat("a group of ", split.pipeline, " x ", split.context, " x ", split.tensor,
                         " ranks names ", group.ranks.size()));
  }
  for (PeerAddress& rank : group.ranks) {
    if (in.ok()) rank = GetPeerAddress(in);
  }
  return group;
}

std::string GetFormat(ByteReader& in) {
  return std::string(in.PrefixedText("KV format", limits::kFormatTextBytesMax));
}

template <size_t kBytes>
std::array<uint8_t, kBytes> GetArray(ByteReader& in, const char* field) {
  std::array<uint8_t, kBytes> array{};
  const auto bytes = in.Bytes(field, kBytes);
  std::copy(bytes.begin(), bytes.end(), array.begin());
  return array;
}

bool GetBool(ByteReader& in, const char* field) {
  const uint8_t value = in.U8(field);
  if (value > 1) in.Fail(absl::StrCat(field, " is ", value, ", expected 0 or 1"));
  return value == 1;
}

absl::StatusCode GetCode(ByteReader& in) {
  const uint8_t value = in.U8("status code");
  if (value > static_cast<uint8_t>(absl::StatusCode::kUnauthenticated)) {
    in.Fail(absl::StrCat("status code ", value, " is unknown"));
  }
  return static_cast<absl::StatusCode>(value);
}

void PutText(Writer& out, absl::string_view text) {
  out.PrefixedText(text.substr(0, limits::kStreamErrorBytesMax));
}
std::string GetText(ByteReader& in) {
  return std::string(in.PrefixedText("message", limits::kStreamErrorBytesMax));
}

void PutTokens(Writer& out, const std::vector<int32_t>& tokens) {
  out.U32(static_cast<uint32_t>(tokens.size()));
  for (const int32_t token : tokens) out.I32(token);
}
std::vector<int32_t> GetTokens(ByteReader& in, size_t tokens_max) {
  std::vector<int32_t> tokens(in.Count("tokens", static_cast<uint32_t>(tokens_max), 4));
  for (int32_t& token : tokens) {
    token = in.I32("token");
    if (token < 0) in.Fail("a token id is negative");
  }
  return tokens;
}

int64_t GetPosition(ByteReader& in) {
  const int64_t position = in.I64("position");
  if (position < 0) in.Fail("a position is negative");
  return position;
}

uint32_t CheckBranch(ByteReader& in, uint32_t branch) {
  if (branch >= limits::kBranchesMax) {
    in.Fail(absl::StrCat("branch ", branch, ", the limit is ", limits::kBranchesMax));
  }
  return branch;
}

uint32_t GetBranch(ByteReader& in) { return CheckBranch(in, in.U32("branch")); }

// ---- One pair of functions per message; the type byte is its index in Message. ----

void Put(Writer& out, const Hello& m) {
  out.U16(m.version);
  Put(out, m.self);
  Put(out, m.wanted);
  out.PrefixedText(m.format);
}
void Get(ByteReader& in, Hello& m) {
  m.version = in.U16("version");
  m.self = GetNodeKey(in);
  m.wanted = GetNodeKey(in);
  m.format = GetFormat(in);
}

void Put(Writer& out, const Welcome& m) {
  out.U16(m.version);
  Put(out, m.self);
  out.PrefixedText(m.format);
}
void Get(ByteReader& in, Welcome& m) {
  m.version = in.U16("version");
  m.self = GetNodeKey(in);
  m.format = GetFormat(in);
}

void Put(Writer& out, const Fetch& m) {
  out.U64(m.fetch_id);
  Put(out, m.request);
  out.U32(m.leg).U8(m.subscribe ? 1 : 0).U32(m.timeout_ms);
  Put(out, m.part.layers);
  Put(out, m.part.heads);
  out.U32(static_cast<uint32_t>(m.items.size()));
  for (const Fetch::Item& item : m.items) out.Bytes(item.id.bytes).I64(item.first_position);
}
void Get(ByteReader& in, Fetch& m) {
  m.fetch_id = in.U64("fetch id");
  m.request = GetRequestKey(in);
  m.leg = in.U32("leg");
  m.subscribe = GetBool(in, "subscribe");
  m.timeout_ms = in.U32("timeout");
  m.part.layers = GetRange(in, "layers", limits::kLayersMax);
  m.part.heads = GetRange(in, "heads", kPartHeadsMax);
  m.items.resize(in.Count("items", limits::kFetchItemsMax, kItemBytes));
  for (Fetch::Item& item : m.items) {
    item.id.bytes = GetArray<16>(in, "block id");
    item.first_position = GetPosition(in);
  }
  if (m.items.empty()) in.Fail("a fetch has no items");
}

void Put(Writer& out, const ItemsMissing& m) {
  out.U64(m.fetch_id).U32(static_cast<uint32_t>(m.items.size()));
  for (const uint32_t item : m.items) out.U32(item);
}
void Get(ByteReader& in, ItemsMissing& m) {
  m.fetch_id = in.U64("fetch id");
  m.items.resize(in.Count("missing items", limits::kFetchItemsMax, 4));
  for (uint32_t& item : m.items) item = in.U32("missing item");
}

void Put(Writer& out, const FetchDone& m) {
  out.U64(m.fetch_id).U8(static_cast<uint8_t>(m.code));
  PutText(out, m.message);
}
void Get(ByteReader& in, FetchDone& m) {
  m.fetch_id = in.U64("fetch id");
  m.code = GetCode(in);
  m.message = GetText(in);
}

void Put(Writer& out, const Cancel& m) { out.U64(m.fetch_id); }
void Get(ByteReader& in, Cancel& m) { m.fetch_id = in.U64("fetch id"); }

void Put(Writer& out, const CancelAck& m) { out.U64(m.fetch_id); }
void Get(ByteReader& in, CancelAck& m) { m.fetch_id = in.U64("fetch id"); }

void Put(Writer& out, const Offer& m) {
  const BlockOffer& offer = m.offer;
  Put(out, offer.source);
  Put(out, offer.fence.request);
  out.U32(offer.fence.leg).Bytes(offer.parent.bytes).I64(offer.first_position);
  out.PrefixedText(offer.tenant_salt).I64(offer.prompt_end);
  out.U32(offer.branch.value_or(kNoBranch));
  Put(out, offer.group);
  PutTokens(out, offer.tokens);
}
void Get(ByteReader& in, Offer& m) {
  BlockOffer& offer = m.offer;
  offer.source = GetPeerAddress(in);
  offer.fence.request = GetRequestKey(in);
  offer.fence.leg = in.U32("leg");
  offer.parent.bytes = GetArray<16>(in, "parent id");
  offer.first_position = GetPosition(in);
  offer.tenant_salt = std::string(in.PrefixedText("tenant salt", limits::kTenantSaltBytesMax));
  offer.prompt_end = GetPosition(in);
  const uint32_t branch = in.U32("branch");
  if (branch != kNoBranch) offer.branch = CheckBranch(in, branch);
  offer.group = GetGroup(in);
  offer.tokens = GetTokens(in, limits::kPromptTokensMax);
}

void Put(Writer& out, const Refusal& m) {
  out.U8(static_cast<uint8_t>(m.code));
  PutText(out, m.message);
}
void Get(ByteReader& in, Refusal& m) {
  m.code = GetCode(in);
  m.message = GetText(in);
}

void Put(Writer& out, const TailEntry& entry) {
  Put(out, entry.request);
  out.U32(entry.branch).PrefixedText(entry.tenant_salt).I64(entry.prompt_end);
  out.Bytes(entry.parent.bytes).I64(entry.first_position).U32(entry.checksum);
  PutTokens(out, entry.tokens);
}
void Get(ByteReader& in, TailEntry& entry) {
  entry.request = GetRequestKey(in);
  if (entry.request.id.empty()) in.Fail("an append names no request");
  entry.branch = GetBranch(in);
  entry.tenant_salt = std::string(in.PrefixedText("tenant salt", limits::kTenantSaltBytesMax));
  entry.prompt_end = GetPosition(in);
  entry.parent.bytes = GetArray<16>(in, "parent id");
  entry.first_position = GetPosition(in);
  entry.checksum = in.U32("checksum");
  entry.tokens = GetTokens(in, limits::kBlockTokensMax);
  if (entry.tokens.empty()) in.Fail("an append has an entry without rows");
}

void Put(Writer& out, const Append& m) {
  out.U64(m.append_id).U32(static_cast<uint32_t>(m.entries.size()));
  for (const TailEntry& entry : m.entries) Put(out, entry);
  out.U32(m.bulk_bytes).PrefixedText(m.rows);
}
void Get(ByteReader& in, Append& m) {
  m.append_id = in.U64("append id");
  m.entries.resize(in.Count("append entries", limits::kAppendEntriesMax, kTailEntryBytesMin));
  for (TailEntry& entry : m.entries) {
    if (in.ok()) Get(in, entry);
  }
  if (m.entries.empty()) in.Fail("an append has no entries");
  m.bulk_bytes = in.U32("bulk bytes");
  if (m.bulk_bytes > limits::kAppendBytesMax) {
    in.Fail(absl::StrCat("an append of ", m.bulk_bytes, " bytes, the limit is ",
                         limits::kAppendBytesMax));
  }
  m.rows = std::string(in.PrefixedText("rows", limits::kAppendInlineBytesMax));
  if (m.rows.empty() == (m.bulk_bytes == 0)) in.Fail("an append has its rows here or apart");
}

void Put(Writer& out, const Held& m) {
  out.U64(m.answered).U32(static_cast<uint32_t>(m.entries.size()));
  for (const Held::Entry& entry : m.entries) {
    Put(out, entry.request);
    out.U32(entry.branch).I64(entry.rows).U8(static_cast<uint8_t>(entry.code));
  }
}
void Get(ByteReader& in, Held& m) {
  m.answered = in.U64("answered append");
  m.entries.resize(in.Count("held entries", limits::kHeldEntriesMax, kHeldEntryBytesMin));
  for (Held::Entry& entry : m.entries) {
    if (!in.ok()) return;
    entry.request = GetRequestKey(in);
    entry.branch = GetBranch(in);
    entry.rows = in.I64("held rows");
    if (entry.rows < 0) in.Fail("a number of held rows is negative");
    entry.code = GetCode(in);
  }
}

void Put(Writer& out, const Release& m) { Put(out, m.request); }
void Get(ByteReader& in, Release& m) { m.request = GetRequestKey(in); }

void Put(Writer& out, const QueryTails& m) {
  out.U64(m.query_id);
  Put(out, m.request);
}
void Get(ByteReader& in, QueryTails& m) {
  m.query_id = in.U64("query id");
  m.request = GetRequestKey(in);
}

void Put(Writer& out, const TailStates& m) {
  out.U64(m.query_id).U8(static_cast<uint8_t>(m.code));
  PutText(out, m.message);
  out.U32(static_cast<uint32_t>(m.states.size()));
  for (const TailState& state : m.states) {
    out.U32(state.branch).I64(state.blocks_held);
    out.Bytes(state.parent.bytes).I64(state.first_position).I64(state.prompt_end);
    PutTokens(out, state.tokens);
  }
}
void Get(ByteReader& in, TailStates& m) {
  m.query_id = in.U64("query id");
  m.code = GetCode(in);
  m.message = GetText(in);
  m.states.resize(in.Count("tail states", limits::kBranchesMax, kTailStateBytesMin));
  for (TailState& state : m.states) {
    state.branch = GetBranch(in);
    state.blocks_held = in.I64("blocks held");
    if (state.blocks_held < 0) in.Fail("a number of blocks is negative");
    state.parent.bytes = GetArray<16>(in, "parent id");
    state.first_position = GetPosition(in);
    state.prompt_end = GetPosition(in);
    state.tokens = GetTokens(in, limits::kBlockTokensMax);
  }
}

template <size_t kIndex = 0>
bool GetAny(ByteReader& in, size_t type, Message& message) {
  if constexpr (kIndex < std::variant_size_v<Message>) {
    if (type == kIndex) {
      Get(in, message.emplace<kIndex>());
      return true;
    }
    return GetAny<kIndex + 1>(in, type, message);
  } else {
    return false;
  }
}

}  // namespace

bool Offer::operator==(const Offer& other) const {
  const auto ranks = [](const BlockOffer& o) {
    std::vector<std::tuple<NodeKey, std::string, int>> of;
    for (const PeerAddress& r : o.group.value_or(RankGroup{}).ranks) {
      of.emplace_back(r.key, r.host, r.port);
    }
    return of;
  };
  const auto split = [](const BlockOffer& o) { return o.group.value_or(RankGroup{}).split; };
  if (offer.group.has_value() != other.offer.group.has_value() ||
      !(split(offer) == split(other.offer)) || ranks(offer) != ranks(other.offer)) {
    return false;
  }
  const auto fields = [](const BlockOffer& o) {
    return std::tie(o.source.key, o.source.host, o.source.port, o.fence.request, o.fence.leg,
                    o.parent, o.first_position, o.tenant_salt, o.prompt_end, o.branch, o.tokens);
  };
  return fields(offer) == fields(other.offer);
}

std::string Encode(const Envelope& envelope) {
  std::string bytes;
  Writer out(bytes);
  out.U8(static_cast<uint8_t>(envelope.message.index())).U64(envelope.receiver_incarnation);
  std::visit([&out](const auto& message) { Put(out, message); }, envelope.message);
  return bytes;
}

StatusOr<Envelope> Decode(std::span<const uint8_t> bytes) {
  if (bytes.size() > limits::kStreamMessageBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("a stream message has ", bytes.size(),
                                                   " bytes, the limit is ",
                                                   limits::kStreamMessageBytesMax));
  }
  ByteReader in(bytes);
  Envelope envelope;
  const size_t type = in.U8("message type");
  envelope.receiver_incarnation = in.U64("receiver incarnation");
  RETURN_IF_ERROR(in.status());
  if (!GetAny(in, type, envelope.message)) {
    return absl::InvalidArgumentError(absl::StrCat("message type ", type, " is unknown"));
  }
  RETURN_IF_ERROR(in.Finish());
  return envelope;
}

BulkHeader EncodeBulk(const Bulk& bulk) {
  std::string bytes;
  Writer(bytes)
      .U64(bulk.fetch_id)
      .U64(bulk.receiver_incarnation)
      .U32(bulk.item)
      .U16(bulk.first_layer)
      .U16(bulk.layers)
      .U32(bulk.attempt_n)
      .U32(bulk.checksum);
  BulkHeader header;
  std::copy_n(bytes.begin(), header.size(), header.begin());
  return header;
}

Bulk DecodeBulk(const BulkHeader& header) {
  ByteReader in{std::span<const uint8_t>(header)};
  Bulk bulk;
  bulk.fetch_id = in.U64("fetch id");
  bulk.receiver_incarnation = in.U64("receiver incarnation");
  bulk.item = in.U32("item");
  bulk.first_layer = in.U16("first layer");
  bulk.layers = in.U16("layers");
  bulk.attempt_n = in.U32("attempt");
  bulk.checksum = in.U32("checksum");
  return bulk;
}

BulkHeader EncodeAppendBulk(const AppendBulk& bulk) {
  std::string bytes;
  Writer(bytes).U64(bulk.append_id).U64(bulk.receiver_incarnation);
  BulkHeader header{};
  std::copy_n(bytes.begin(), bytes.size(), header.begin());
  return header;
}

AppendBulk DecodeAppendBulk(const BulkHeader& header) {
  ByteReader in{std::span<const uint8_t>(header)};
  AppendBulk bulk;
  bulk.append_id = in.U64("append id");
  bulk.receiver_incarnation = in.U64("receiver incarnation");
  return bulk;
}

uint32_t RunChecksum(const Bulk& bulk, const Range& heads,
                     std::span<const uint32_t> segment_checksums) {
  Bulk covered = bulk;
  covered.checksum = 0;
  const BulkHeader header = EncodeBulk(covered);
  std::string words;
  Writer out(words);
  Put(out, heads);
  for (const uint32_t checksum : segment_checksums) out.U32(checksum);
  return Crc32c(words.data(), words.size(), Crc32c(header.data(), header.size()));
}

}  // namespace reprise::kv::wire
