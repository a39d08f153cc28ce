// One rank's messages to and from one peer: order, matching, and which memory a payload lands in.
// A state machine without a socket; owned by the group member, on the transport's loop.
//
// Invariants:
// 1. Messages match in the order of their Post, by sequence; tag and size are compared before a
//    byte is written.
// 2. At most limits::kGroupWindow messages wait here unmatched; a peer that sends more is broken.
// 3. After Broken nothing is written or finished any more.
#ifndef REPRISE_WORKER_PARALLEL_PEER_CHANNEL_H_
#define REPRISE_WORKER_PARALLEL_PEER_CHANNEL_H_

#include <cstdint>
#include <deque>
#include <map>
#include <span>

#include "worker/parallel/group_wire.h"
#include "worker/parallel/peer_link.h"

namespace reprise::parallel {

class ChannelOutput {
 public:
  virtual ~ChannelOutput() = default;
  virtual void Emit(int peer, wire::Message message) = 0;
  // OnBulkSent follows when the payload has arrived.
  virtual void EmitBulk(int peer, uint64_t sequence, std::span<const uint8_t> payload) = 0;
  // One message of the batch is done with.
  virtual void Finished(BatchId batch) = 0;
  virtual void Broken(const Status& cause) = 0;
};

class PeerChannel {
 public:
  PeerChannel(int self, int peer, ChannelOutput* out) : self_(self), peer_(peer), out_(out) {}

  void PostSend(const CallTag& tag, std::span<const uint8_t> data, BatchId batch);
  void PostReceive(const CallTag& tag, std::span<uint8_t> data, BatchId batch);
  void OnData(wire::Data data);
  void OnReady(const wire::Ready& ready);
  void OnConsumed(uint64_t sequence);
  // Where the payload goes; null when none of this size is due.
  uint8_t* OnBulk(uint64_t sequence, size_t bytes);
  void OnBulkReceived(uint64_t sequence);
  void OnBulkSent(uint64_t sequence);
  // The peer makes no more calls.
  void OnBye();
  bool peer_left() const { return peer_left_; }
  bool WaitsIn(BatchId batch) const;

 private:
  struct Sending {
    uint64_t sequence = 0;
    CallTag tag;
    std::span<const uint8_t> data;
    BatchId batch = kNoBatch;
  };
  struct Receiving {
    uint64_t sequence = 0;
    CallTag tag;
    std::span<uint8_t> data;
    BatchId batch = kNoBatch;
    bool landing = false;  // its payload is being written
  };

  void Pump();
  void BeginBulk(const Sending& sending, const wire::Ready& ready);
  void TellReady();
  void Match();
  void TellConsumed();
  void Break(const Status& cause);
  void CheckLeft();

  const int self_;
  const int peer_;
  ChannelOutput* const out_;
  bool broken_ = false;
  bool peer_left_ = false;

  uint64_t next_send_ = 1;
  uint64_t peer_consumed_ = 0;
  std::deque<Sending> unsent_;                   // beyond the window
  std::map<uint64_t, Sending> large_;            // announced; their payload is not through
  std::map<uint64_t, wire::Ready> early_ready_;  // of messages not announced yet

  uint64_t next_receive_ = 1;
  uint64_t next_arrival_ = 1;
  uint64_t readied_ = 0;                    // receives up to it were looked at by TellReady
  uint64_t consumed_ = 0;                   // matched
  uint64_t told_ = 0;                       // of those, the peer knows
  std::deque<Receiving> awaited_;           // no message yet
  std::deque<wire::Data> arrived_;          // no receive yet
  std::map<uint64_t, Receiving> incoming_;  // matched; their payload is not through
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_PEER_CHANNEL_H_
