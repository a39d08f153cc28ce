#include "worker/parallel/group_wire.h"

#include <algorithm>

#include "common/bytes.h"
#include "common/limits.h"

namespace reprise::parallel::wire {
namespace {

using Writer = ByteWriter<std::string>;

void Put(Writer& out, const CallTag& tag) {
  out.U8(static_cast<uint8_t>(tag.op)).U32(tag.call).U32(tag.step).U64(tag.call_bytes);
}
CallTag GetTag(ByteReader& in) {
  CallTag tag;
  const uint8_t op = in.U8("operation");
  if (op >= kOps) in.Fail(absl::StrCat("operation ", op, " is unknown"));
  tag.op = static_cast<Op>(op);
  tag.call = in.U32("call");
  tag.step = in.U32("step");
  tag.call_bytes = in.U64("bytes of the call");
  return tag;
}

void Put(Writer& out, const Hello& m) { out.U16(m.version).U32(m.size).U32(m.from).U32(m.to); }
void Get(ByteReader& in, Hello& m) {
  m.version = in.U16("version");
  m.size = in.U32("ranks");
  m.from = in.U32("sender's rank");
  m.to = in.U32("receiver's rank");
  if (m.size > limits::kGroupRanksMax || m.from >= m.size || m.to >= m.from) {
    in.Fail(absl::StrCat("rank ", m.from, " dials rank ", m.to, " of ", m.size, ", the limit is ",
                         limits::kGroupRanksMax));
  }
}

void Put(Writer&, const Welcome&) {}
void Get(ByteReader&, Welcome&) {}

void Put(Writer& out, const Abort& m) {
  out.U8(static_cast<uint8_t>(m.code));
  out.PrefixedText(absl::string_view(m.message).substr(0, limits::kStreamErrorBytesMax));
}
void Get(ByteReader& in, Abort& m) {
  const uint8_t code = in.U8("status code");
  if (code == 0 || code > static_cast<uint8_t>(absl::StatusCode::kUnauthenticated)) {
    in.Fail(absl::StrCat("status code ", code, " is no error"));
  }
  m.code = static_cast<absl::StatusCode>(code);
  m.message = std::string(in.PrefixedText("message", limits::kStreamErrorBytesMax));
}

void Put(Writer&, const Bye&) {}
void Get(ByteReader&, Bye&) {}

void Put(Writer& out, const Data& m) {
  out.U64(m.sequence);
  Put(out, m.tag);
  out.U64(m.bytes).Bytes(AsBytes(m.payload));
}
void Get(ByteReader& in, Data& m) {
  m.sequence = in.U64("sequence");
  m.tag = GetTag(in);
  m.bytes = in.U64("bytes");
  if (m.bytes > limits::kGroupInlineBytesMax) return;
  m.payload = std::string(AsText(in.Bytes("payload", m.bytes)));
}

void Put(Writer& out, const Ready& m) {
  out.U64(m.sequence);
  Put(out, m.tag);
  out.U64(m.bytes);
}
void Get(ByteReader& in, Ready& m) {
  m.sequence = in.U64("sequence");
  m.tag = GetTag(in);
  m.bytes = in.U64("bytes");
  if (m.bytes <= limits::kGroupInlineBytesMax) {
    in.Fail(absl::StrCat("ready for ", m.bytes, " bytes, which travel in a message"));
  }
}

void Put(Writer& out, const Consumed& m) { out.U64(m.sequence); }
void Get(ByteReader& in, Consumed& m) { m.sequence = in.U64("sequence"); }

template <size_t kIndex = 0>
bool GetAny(ByteReader& in, size_t type, Message& message) {
  if constexpr (kIndex < std::variant_size_v<Message>) {
    if (type != kIndex) return GetAny<kIndex + 1>(in, type, message);
    Get(in, message.emplace<kIndex>());
    return true;
  } else {
    return false;
  }
}

}  // namespace

std::string Encode(const Envelope& envelope) {
  std::string bytes;
  Writer out(bytes);
  out.U8(static_cast<uint8_t>(envelope.message.index()));
  out.U64(envelope.key.group).U64(envelope.key.epoch);
  std::visit([&out](const auto& message) { Put(out, message); }, envelope.message);
  return bytes;
}

StatusOr<Envelope> Decode(std::span<const uint8_t> bytes) {
  ByteReader in(bytes);
  Envelope envelope;
  const size_t type = in.U8("message type");
  envelope.key.group = in.U64("group");
  envelope.key.epoch = in.U64("epoch");
  RETURN_IF_ERROR(in.status());
  if (!GetAny(in, type, envelope.message)) {
    return absl::InvalidArgumentError(absl::StrCat("message type ", type, " is unknown"));
  }
  RETURN_IF_ERROR(in.Finish());
  return envelope;
}

kv::BulkHeader EncodeBulk(const Bulk& bulk) {
  std::string bytes;
  Writer(bytes).U64(bulk.key.group).U64(bulk.key.epoch).U64(bulk.sequence);
  kv::BulkHeader header{};
  std::copy(bytes.begin(), bytes.end(), header.begin());
  return header;
}

Bulk DecodeBulk(const kv::BulkHeader& header) {
  ByteReader in{std::span<const uint8_t>(header)};
  Bulk bulk;
  bulk.key.group = in.U64("group");
  bulk.key.epoch = in.U64("epoch");
  bulk.sequence = in.U64("sequence");
  return bulk;
}

}  // namespace reprise::parallel::wire
