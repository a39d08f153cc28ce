// Rows of a live sequence on their way to the stores that keep its replica: what a worker appends,
// what a store answers, and the interface a store takes appends by. Values, and one interface that
// is called on a stream thread.
//
// A sequence is one branch of one request; its rows are [0, n) for n tokens. Whole blocks of it
// reach a store by offers; rows behind them are appended to the open block, its *tail*, which the
// store seals by itself when it is full.
#ifndef REPRISE_KVSTORE_STREAM_TAIL_H_
#define REPRISE_KVSTORE_STREAM_TAIL_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "kvstore/block/block_id.h"

namespace reprise::kv {

// Consecutive rows of one sequence inside one block.
struct TailEntry {
  RequestKey request;
  uint32_t branch = 0;
  std::string tenant_salt;
  int64_t prompt_end = kOneForm;  // of the sequence (block_id.h)
  BlockId parent;                 // id of the block before the rows' block; zero for the first
  int64_t first_position = 0;     // of the first row
  std::vector<int32_t> tokens;    // of these rows, at least one
  uint32_t checksum = 0;          // of the packed rows, by PackTail (tail_pack.h)
  bool operator==(const TailEntry&) const = default;
};

// Packed rows, the entries' one after the other; destroyed when no transfer reads them any more.
class TailPayload {
 public:
  virtual ~TailPayload() = default;
  virtual std::span<const uint8_t> bytes() const = 0;
};

struct TailAppend {
  std::vector<TailEntry> entries;           // 1 to limits::kAppendEntriesMax
  std::shared_ptr<const TailPayload> rows;  // shared: with every transfer that reads it
};

// What a store holds of a sequence: the first `rows` rows, and how it stands. Every entry of an
// append is answered by one, in order; others come whenever the number changes.
//   OK                   as far as `rows`
//   ABORTED              a later attempt has begun: this owner is fenced
//   NOT_FOUND            the sequence was released or dropped
//   RESOURCE_EXHAUSTED   no room for the rows (or for another append); nothing held was hurt
//   OUT_OF_RANGE         the rows do not follow what is held: go on at `rows`
//   DATA_LOSS            the rows arrived damaged: send them again
//   INVALID_ARGUMENT     the rows contradict what this same attempt sent before
//   UNAVAILABLE          an offered block could not be fetched: offer it again
//   FAILED_PRECONDITION  the node keeps no tails
struct HeldRows {
  RequestKey request;
  uint32_t branch = 0;
  int64_t rows = 0;  // -1: the answer did not come from the store (it could not be asked)
  Status status;
};

// What a store holds of a sequence, for a worker that takes it over. The tail may lie behind a gap:
// it is of use only when `parent` is the reader's own id of the block before it and `prompt_end`
// its own too. Its bytes are fetched under ReplicaTailId(request id, branch, first_position), with
// `subscribe` set: rows may be on their way into it; the bytes behind its rows are unspecified. The
// fetch's attempt fences the earlier owner, so that the rows stay as this says.
struct TailState {
  uint32_t branch = 0;
  int64_t blocks_held = 0;        // leading complete blocks
  BlockId parent;                 // of the open tail
  int64_t first_position = 0;     // of the open tail's block
  int64_t prompt_end = kOneForm;  // of the sequence, as its owner said
  std::vector<int32_t> tokens;    // of the open tail; empty: there is none
  bool operator==(const TailState&) const = default;
};

// The serving side of replication, implemented by a store. Called on the stream's progress thread,
// never two calls at once; none may block on the network.
class TailSink {
 public:
  virtual ~TailSink() = default;
  // `rows` holds the entries' packed rows one after the other and is valid during the call. Their
  // sizes fit; their checksums are the sink's to verify, in the pass in which it takes the rows.
  // Answers every entry, in order.
  virtual std::vector<HeldRows> OnAppend(const NodeKey& from, std::span<const TailEntry> entries,
                                         std::span<const uint8_t> rows) = 0;
  // The owner of the request lets go of what is held for it.
  virtual void OnRelease(const NodeKey& from, const RequestKey& request) = 0;
  // One state per sequence held; ABORTED for a fenced attempt. The asker owns the request from now.
  virtual StatusOr<std::vector<TailState>> OnQuery(const NodeKey& from,
                                                   const RequestKey& request) = 0;
  // A fetch named this attempt of a request; comes before the fetch's first Find.
  virtual void OnFence(const RequestKey& request) = 0;
  // The connection over which this peer appended, offered or asked has ended.
  virtual void OnPeerLost(const NodeKey& peer) = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_TAIL_H_
