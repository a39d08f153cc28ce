// Moves KV segments between nodes by content: a node fetches blocks by id from a peer and may
// subscribe to layers not computed yet; each layer arrives, is verified and is announced alone.
// The other way, a worker appends rows of live sequences to the stores that keep their replicas.
// One KvStream per process, owned by the role's server; it owns the transport and its threads.
//
// Threads: every method may be called from any thread, and all but the destructor and DescribeLanes
// also from callbacks. SegmentSource, FetchListener, TailSink and the handlers are called on the
// stream's own threads and must not block; the calls for one fetch never overlap, nor do those of
// the handlers.
//
// Invariants:
// 1. OnDone is called exactly once per fetch, and after it nothing writes to the destinations.
// 2. A segment is announced only after its checksum, which covers id, layer and position with the
//    payload, has matched in place; a mismatch ends the item with DATA_LOSS, never with data.
// 3. A pin returned by a source is released only when no transfer reads its bytes any more.
// 4. Messages that name another incarnation than the receiver's are refused.
// 5. Appends reach a store in the order they were given, whole or not at all; their payload is let
//    go only when no transfer reads it any more, however long a frozen peer takes.
#ifndef REPRISE_KVSTORE_STREAM_KV_STREAM_H_
#define REPRISE_KVSTORE_STREAM_KV_STREAM_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/ids.h"
#include "common/status.h"
#include "kvstore/block/block_id.h"
#include "kvstore/block/group_split.h"
#include "kvstore/block/kv_format.h"
#include "kvstore/block/kv_part.h"
#include "kvstore/stream/tail.h"

namespace reprise::kv {

// Where a peer listens; `key.incarnation` is the process meant, not whoever answers there now.
struct PeerAddress {
  NodeKey key;
  std::string host;  // numeric
  int port = 0;
};

// A group of ranks as others see it: who holds what, and where. `ranks` are in the group's order.
struct RankGroup {
  GroupSplit split;
  std::vector<PeerAddress> ranks;  // split.ranks() of them
};

// Who a message is about; receivers refuse attempts lower than the highest they saw of a request.
struct Fence {
  RequestKey request;
  uint32_t leg = 0;
};

// The bytes of one block at the serving side. Move-only; destroying it ends the use (unpins).
class SegmentPin {
 public:
  SegmentPin() = default;
  explicit SegmentPin(std::function<void()> release) : release_(std::move(release)) {}
  SegmentPin(SegmentPin&& other) noexcept : release_(std::exchange(other.release_, nullptr)) {}
  SegmentPin& operator=(SegmentPin&& other) noexcept {
    if (this != &other) {
      Release();
      release_ = std::exchange(other.release_, nullptr);
    }
    return *this;
  }
  ~SegmentPin() { Release(); }

 private:
  void Release() {
    if (release_) std::exchange(release_, nullptr)();
  }
  std::function<void()> release_;
};

// What a node can serve. Called on the stream's progress thread.
class SegmentSource {
 public:
  enum class State { kReady, kPending, kMissing };
  struct Block {
    State state = State::kMissing;
    // Segments, layers: those of the part that this node holds (StreamOptions::part).
    uint32_t layers_ready = 0;      // of a pending block: its first layers, readable now
    int64_t first_position = 0;     // of the block's first row in its sequence
    const uint8_t* data = nullptr;  // layers * segment_bytes, valid while `pin` lives
    // The layers were summed when they came, and are never summed here again: `checksums` has those
    // of the layers that are ready, Publish brings more. Unset: it may have some, of the first
    // layers, and the others are summed when sent, which is right only where the bytes were made.
    bool summed = false;
    std::vector<uint32_t> checksums;
    SegmentPin pin;
  };
  virtual ~SegmentSource() = default;
  // A pending block's later layers are announced by KvStream::Publish, or KvStream::Withdraw.
  virtual Block Find(const BlockId& id) = 0;
};

struct FetchItem {
  BlockId id;
  int64_t first_position = 0;
  uint8_t* destination = nullptr;  // a block as FetchSpec says; stays valid until OnDone
};

struct FetchSpec {
  PeerAddress source;
  Fence fence;
  std::vector<FetchItem> items;  // at most limits::kFetchItemsMax
  bool subscribe = false;        // wait for blocks the source holds as pending
  TimeNs timeout_ns = 0;         // > 0; the whole fetch
  // The blocks' format at the source, when it is not this node's own: one that a registered
  // conversion leads from (kv_convert.h). Bytes arrive as they are there.
  std::shared_ptr<const KvFormat> format = nullptr;
  // What of every block is fetched; absent: what this node holds. The source must hold it.
  std::optional<KvPart> part = std::nullopt;
  // The part that the destinations are laid out as, around `part`; absent: `part` itself.
  std::optional<KvPart> into = std::nullopt;
};

class FetchListener {
 public:
  virtual ~FetchListener() = default;
  // Layer `layer` (of the format) of items[item] has arrived and verified; `checksum` is its
  // CRC32C. When the fetched heads are not all that a destination has, `checksum` is what they add
  // to the sum of the destination's segment (the parts of crc32c.h). Layers of one item come in
  // ascending order.
  virtual void OnLayer(size_t item, uint32_t layer, uint32_t checksum) = 0;
  // `items` holds one status per item: OK, NOT_FOUND (missing there), DATA_LOSS, or the reason
  // the fetch as a whole ended (DEADLINE_EXCEEDED, CANCELLED, UNAVAILABLE, FAILED_PRECONDITION).
  virtual void OnDone(const std::vector<Status>& items) = 0;
};

// "I hold, or will hold, these blocks": lets a store subscribe to a worker.
struct BlockOffer {
  PeerAddress source;
  Fence fence;
  BlockId parent;  // of the first block; zero at the start of a sequence
  int64_t first_position = 0;
  std::string tenant_salt;
  int64_t prompt_end = kOneForm;  // of the sequence (block_id.h)
  std::vector<int32_t> tokens;    // a whole number of blocks; the receiver derives the ids itself
  // Whose replica the blocks belong to, with the request: the store leases them until it is
  // released. Absent: cache only.
  std::optional<uint32_t> branch;
  // The blocks lie in parts at the ranks of a group, of which `source` is one. Absent: whole,
  // there.
  std::optional<RankGroup> group = std::nullopt;
};

struct StreamOptions {
  NodeKey self;
  std::string listen_host = "127.0.0.1";
  int listen_port = 0;                        // 0: any
  KvFormat format;                            // of whole blocks, whoever holds which part of them
  std::optional<KvPart> part = std::nullopt;  // what this node holds of each; absent: all of it
  // Lets peers of another element codec read here, and this node there (kv_convert.h).
  bool convert_codecs = false;
  std::string devices = "lo";  // network devices the transport may use
  bool shared_memory = true;   // false: TCP only
  // Posted sends, all peers together; one peer has an eighth. Beyond it every peer may still have
  // one run (about 1 MiB) posted, so that a peer that stopped reading starves nobody.
  size_t inflight_bytes_max = size_t{256} << 20;
  // Test and bench only: caps the outgoing rate, 0 = none.
  int64_t throttle_bytes_per_s = 0;
};

struct StreamStats {
  uint64_t bytes_sent = 0;  // payload of segments
  uint64_t bytes_received = 0;
  uint64_t segments_sent = 0;
  uint64_t segments_received = 0;
  uint64_t checksum_failures = 0;
  uint64_t stale_refused = 0;  // wrong incarnation or lower attempt
  uint64_t malformed_refused = 0;
  uint64_t fetches_failed = 0;
  uint64_t peers = 0;
  uint64_t posted_bytes = 0;  // not terminal yet: the quarantined part of the arena
  uint64_t appends_sent = 0;
  uint64_t append_bytes_sent = 0;    // packed rows whose transfer is over
  uint64_t append_posted_bytes = 0;  // packed rows a transfer may still read
  uint64_t appends_received = 0;
  uint64_t append_bytes_received = 0;
  uint64_t append_staged_bytes = 0;  // received or being received, not taken yet
  uint64_t replicas_lost = 0;
};

using FetchHandle = uint64_t;

// A store that leaves an append unanswered for this long is lost. Judged time (timer_queue.h): what
// this process itself was kept from running does not count.
inline constexpr TimeNs kAppendAnswerTimeoutNs = 1500 * kMillisecond;

class KvStream {
 public:
  // `source` may be null (a pure client), `tails` too (no store). Both outlive the stream. Fails
  // when the address cannot be bound or the transport lacks a lane with failure reports.
  static StatusOr<std::unique_ptr<KvStream>> Create(const StreamOptions& options,
                                                    SegmentSource* source,
                                                    TailSink* tails = nullptr);
  // Cancels everything, waits until it is quiet, closes the endpoints.
  virtual ~KvStream() = default;

  virtual PeerAddress address() const = 0;

  // Memory that will be fetched into or served from; speeds transfers up, never required.
  virtual Status Register(void* base, size_t bytes) = 0;

  // Errors only for a malformed spec; anything later comes through the listener, which the stream
  // keeps alive until OnDone.
  virtual StatusOr<FetchHandle> Fetch(FetchSpec spec, std::shared_ptr<FetchListener> listener) = 0;
  // Two-sided: the source is told; OnDone(CANCELLED) follows once the destinations are quiet.
  // No effect on an unknown or ended fetch.
  virtual void CancelFetch(FetchHandle fetch) = 0;

  // The source's first `layers_ready` layers of a pending block are complete. `checksums` are
  // of the first of them: of all when the block is `summed`, else of those that are known.
  virtual void Publish(const BlockId& id, uint32_t layers_ready,
                       std::vector<uint32_t> checksums) = 0;
  // A pending block will never be complete: subscribers get NOT_FOUND.
  virtual void Withdraw(const BlockId& id) = 0;

  // Best effort: lost offers cost a later recompute, nothing else.
  virtual void Offer(const PeerAddress& peer, BlockOffer offer) = 0;
  // Called for every valid offer, on a stream thread. Set before peers know the address.
  virtual void OnOffer(std::function<void(BlockOffer)> handler) = 0;

  // Best effort and without waiting: OnHeld says what the store made of it. A store that does not
  // answer an append for kAppendAnswerTimeoutNs is lost. Beyond limits::kAppendsPerPeerMax appends
  // or kAppendBytesPerPeerMax bytes without an answer, an append is not sent and answered with
  // RESOURCE_EXHAUSTED; a malformed one with INVALID_ARGUMENT.
  virtual void Append(const PeerAddress& store, TailAppend append) = 0;
  // Best effort: a store that never hears it lets go when this node's connection has been gone for
  // long enough.
  virtual void Release(const PeerAddress& store, const RequestKey& request) = 0;
  // Answered exactly once: OK with one entry per sequence held, or why not (deadline, link).
  virtual void QueryTails(const PeerAddress& store, const RequestKey& request, TimeNs timeout_ns,
                          std::function<void(const Status&, std::vector<TailState>)> done) = 0;
  // What stores say they hold. Set before the first append.
  virtual void OnHeld(
      std::function<void(const NodeKey& store, std::vector<HeldRows> held)> handler) = 0;
  // The link to a store that was offered or appended to broke, could not be made, or went silent.
  // Its answers may be missing; the next append tries a new link. Set before the first append.
  virtual void OnReplicaLost(
      std::function<void(const NodeKey& store, const Status& status)> handler) = 0;
  // The store's side: tells a peer that appended, offered or asked. Dropped when it is gone.
  virtual void TellHeld(const NodeKey& owner, std::vector<HeldRows> held) = 0;

  // Fetches the block that every stream serves of itself, ProbeId(incarnation), and verifies it.
  // Answered exactly once. `peer` may be this very stream.
  virtual void Probe(const PeerAddress& peer, TimeNs timeout_ns,
                     std::function<void(const Status&)> done) = 0;

  // Raises the lowest attempt accepted for a request.
  virtual void FenceRequest(const RequestKey& request) = 0;

  virtual StreamStats stats() const = 0;
  // Human-readable lanes of the endpoint to `peer`, for tests; NOT_FOUND when not connected.
  virtual StatusOr<std::string> DescribeLanes(const NodeKey& peer) const = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_KV_STREAM_H_
