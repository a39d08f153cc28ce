// The messages of the stream protocol (PROTOCOL.md) as plain structs, encoded and decoded with
// every length checked against common/limits.h. Values; any thread.
//
// Invariants:
// 1. Decoding accepts exactly what encoding produces: Encode(Decode(bytes)) == bytes.
// 2. A decoded message satisfies every limit; its meaning (indices, incarnations) is the caller's.
#ifndef REPRISE_KVSTORE_STREAM_WIRE_H_
#define REPRISE_KVSTORE_STREAM_WIRE_H_

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "kvstore/block/block_id.h"
#include "kvstore/stream/kv_stream.h"
#include "kvstore/transport/transport.h"

namespace reprise::kv::wire {

inline constexpr uint16_t kProtocolVersion = 5;

// First on every connection, from the side that connected.
struct Hello {
  uint16_t version = kProtocolVersion;
  NodeKey self;
  NodeKey wanted;
  std::string format;  // KvFormat::CanonicalText
  bool operator==(const Hello&) const = default;
};

// The answer to a Hello that fits.
struct Welcome {
  uint16_t version = kProtocolVersion;
  NodeKey self;
  std::string format;
  bool operator==(const Welcome&) const = default;
};

struct Fetch {
  uint64_t fetch_id = 0;
  RequestKey request;  // an empty id: belongs to no request
  uint32_t leg = 0;
  bool subscribe = false;
  uint32_t timeout_ms = 0;
  KvPart part;  // of every block
  struct Item {
    BlockId id;
    int64_t first_position = 0;
    bool operator==(const Item&) const = default;
  };
  std::vector<Item> items;
  bool operator==(const Fetch&) const = default;
};

// These items of a fetch will not come; the source never had them or gave them up (NOT_FOUND).
struct ItemsMissing {
  uint64_t fetch_id = 0;
  std::vector<uint32_t> items;
  bool operator==(const ItemsMissing&) const = default;
};

// The source posts nothing more for this fetch. Code OK: it has sent everything.
struct FetchDone {
  uint64_t fetch_id = 0;
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string message;
  bool operator==(const FetchDone&) const = default;
};

struct Cancel {
  uint64_t fetch_id = 0;
  bool operator==(const Cancel&) const = default;
};

// The source posts nothing more for this fetch, whether it knew it or not.
struct CancelAck {
  uint64_t fetch_id = 0;
  bool operator==(const CancelAck&) const = default;
};

struct Offer {
  BlockOffer offer;
  bool operator==(const Offer& other) const;
};

// Ends the connection; the sender will not listen any more.
struct Refusal {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string message;
  bool operator==(const Refusal&) const = default;
};

// Rows for the replica tails of live sequences. Up to limits::kAppendInlineBytesMax of them ride in
// the message; more follow as the next payload of the connection, `bulk_bytes` of it.
struct Append {
  uint64_t append_id = 0;  // rises by one with every append of a connection, from 1
  std::vector<TailEntry> entries;
  uint32_t bulk_bytes = 0;
  std::string rows;  // empty when bulk_bytes is not zero
  bool operator==(const Append&) const = default;
};

// What the store holds now. Also: every append up to `answered` has its answers in this message or
// an earlier one.
struct Held {
  uint64_t answered = 0;
  struct Entry {
    RequestKey request;
    uint32_t branch = 0;
    int64_t rows = 0;
    absl::StatusCode code = absl::StatusCode::kOk;
    bool operator==(const Entry&) const = default;
  };
  std::vector<Entry> entries;
  bool operator==(const Held&) const = default;
};

struct Release {
  RequestKey request;
  bool operator==(const Release&) const = default;
};

struct QueryTails {
  uint64_t query_id = 0;
  RequestKey request;
  bool operator==(const QueryTails&) const = default;
};

// The answer to one QueryTails.
struct TailStates {
  uint64_t query_id = 0;
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string message;
  std::vector<TailState> states;
  bool operator==(const TailStates&) const = default;
};

using Message = std::variant<Hello, Welcome, Fetch, ItemsMissing, FetchDone, Cancel, CancelAck,
                             Offer, Refusal, Append, Held, Release, QueryTails, TailStates>;

// `receiver_incarnation`: whom the message is for (Hello says it in `wanted`, and carries 0).
struct Envelope {
  uint64_t receiver_incarnation = 0;
  Message message;
};

// Texts longer than their limit are cut; everything else is the caller's to keep in bounds.
std::string Encode(const Envelope& envelope);
StatusOr<Envelope> Decode(std::span<const uint8_t> bytes);

// What announces a run of consecutive layers of one item.
struct Bulk {
  uint64_t fetch_id = 0;
  uint64_t receiver_incarnation = 0;
  uint32_t item = 0;
  uint16_t first_layer = 0;
  uint16_t layers = 0;
  uint32_t attempt_n = 0;  // of the fetch's request
  uint32_t checksum = 0;   // RunChecksum of the segments' checksums
  bool operator==(const Bulk&) const = default;
};
BulkHeader EncodeBulk(const Bulk& bulk);
Bulk DecodeBulk(const BulkHeader& header);

// What announces the rows of the append just sent.
struct AppendBulk {
  uint64_t append_id = 0;
  uint64_t receiver_incarnation = 0;
  bool operator==(const AppendBulk&) const = default;
};
BulkHeader EncodeAppendBulk(const AppendBulk& bulk);
AppendBulk DecodeAppendBulk(const BulkHeader& header);

// One word for the whole run. The receiver computes every segment's checksum from the bytes in
// place, then this; it covers the header's other fields and the heads of the fetch's part too.
uint32_t RunChecksum(const Bulk& bulk, const Range& heads,
                     std::span<const uint32_t> segment_checksums);

}  // namespace reprise::kv::wire

#endif  // REPRISE_KVSTORE_STREAM_WIRE_H_
