// The messages between the ranks of a group, encoded and decoded with every length checked. Values;
// any thread.
//
// Invariants:
// 1. Decoding accepts exactly what encoding produces: Encode(*Decode(bytes)) == bytes.
// 2. A decoded message satisfies every limit; what it means is the caller's to check.
#ifndef REPRISE_WORKER_PARALLEL_GROUP_WIRE_H_
#define REPRISE_WORKER_PARALLEL_GROUP_WIRE_H_

#include <cstdint>
#include <span>
#include <string>
#include <variant>

#include "common/status.h"
#include "kvstore/transport/transport.h"
#include "worker/parallel/peer_link.h"

namespace reprise::parallel::wire {

inline constexpr uint16_t kProtocolVersion = 1;

// Which group's, and which of its lives.
struct GroupKey {
  uint64_t group = 0;
  uint64_t epoch = 0;
  bool operator==(const GroupKey&) const = default;
};

// First on a connection, from the higher rank, which dials the lower.
struct Hello {
  uint16_t version = kProtocolVersion;
  uint32_t size = 0;
  uint32_t from = 0;
  uint32_t to = 0;
  bool operator==(const Hello&) const = default;
};
// The answer to a Hello that fits.
struct Welcome {
  bool operator==(const Welcome&) const = default;
};
// The group will not run with the sender: the cause. The answer to a Hello that does not fit, too.
struct Abort {
  absl::StatusCode code = absl::StatusCode::kUnknown;
  std::string message;
  bool operator==(const Abort&) const = default;
};
// The sender's communicator is gone; it neither sends nor receives any more.
struct Bye {
  bool operator==(const Bye&) const = default;
};
// One message of the pair: `sequence` rises by one from 1. `payload` is all of it, or empty when
// `bytes` is over limits::kGroupInlineBytesMax: then it follows apart once the receiver is ready.
struct Data {
  uint64_t sequence = 0;
  CallTag tag;
  uint64_t bytes = 0;
  std::string payload;
  bool operator==(const Data&) const = default;
};
// The receiver has memory for that large message of the pair.
struct Ready {
  uint64_t sequence = 0;
  CallTag tag;
  uint64_t bytes = 0;
  bool operator==(const Ready&) const = default;
};
// The receiver keeps no message up to this sequence any more.
struct Consumed {
  uint64_t sequence = 0;
  bool operator==(const Consumed&) const = default;
};

using Message = std::variant<Hello, Welcome, Abort, Bye, Data, Ready, Consumed>;
struct Envelope {
  GroupKey key;
  Message message;
};

// Texts longer than their limit are cut.
std::string Encode(const Envelope& envelope);
StatusOr<Envelope> Decode(std::span<const uint8_t> bytes);

// What announces the payload of a large message.
struct Bulk {
  GroupKey key;
  uint64_t sequence = 0;
  bool operator==(const Bulk&) const = default;
};
kv::BulkHeader EncodeBulk(const Bulk& bulk);
Bulk DecodeBulk(const kv::BulkHeader& header);

}  // namespace reprise::parallel::wire

#endif  // REPRISE_WORKER_PARALLEL_GROUP_WIRE_H_
