// Moves small messages and large payloads between processes: the only face the KV stream shows to a
// network. A Transport is one event loop on one thread; its owner (the KV stream) creates it,
// starts it with a handler and stops it.
//
// Threads: Post, NowNs and Register from any thread; Start and Stop from the owner; everything else
// from the loop, that is from handler calls and posted functions.
//
// Invariants:
// 1. No handler method and no completion runs inside a call of a Transport method.
// 2. Every completion handed to SendBulk or returned in a Sink runs exactly once, before Stop
//    returns. Until then the transport may read (or write) the memory.
// 3. A payload is written only into memory the handler named for it.
// 4. Messages and payload announcements of one endpoint arrive in the order they were sent.
// 5. After Close(e) or OnFailed(e) the handler hears nothing of e except completions.
#ifndef REPRISE_KVSTORE_TRANSPORT_TRANSPORT_H_
#define REPRISE_KVSTORE_TRANSPORT_TRANSPORT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "common/clock.h"
#include "common/status.h"

namespace reprise::kv {

// One direction-less connection; never zero, never used again after it ends.
using EndpointId = uint64_t;

// What announces a payload: small, because user headers beyond about 90 bytes break UCX's short
// active messages over shared memory.
inline constexpr size_t kBulkHeaderBytes = 32;
using BulkHeader = std::array<uint8_t, kBulkHeaderBytes>;

using Completion = std::function<void(const Status&)>;

// Where an announced payload goes; a null destination refuses it.
struct Sink {
  uint8_t* destination = nullptr;
  Completion done;
};

class TransportHandler {
 public:
  virtual ~TransportHandler() = default;
  virtual void OnAccepted(EndpointId endpoint) = 0;
  // `message` is valid during the call only.
  virtual void OnMessage(EndpointId endpoint, std::span<const uint8_t> message) = 0;
  // A payload of `bytes` waits at the other side; it is pulled into the sink.
  virtual Sink OnBulk(EndpointId endpoint, const BulkHeader& header, size_t bytes) = 0;
  // The peer died, closed, or was never reached.
  virtual void OnFailed(EndpointId endpoint, const Status& status) = 0;
  // Called after every burst of work; returns when it wants to be called next at the latest
  // (INT64_MAX: never).
  virtual TimeNs OnWake(TimeNs now_ns) = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;

  // Calls `handler` from now on; it outlives Stop.
  virtual void Start(TransportHandler* handler) = 0;
  // Runs the loop until quiet() (asked on the loop) holds, then closes every endpoint, waits for
  // the completions still due and ends. Only the first call has an effect.
  virtual void Stop(std::function<bool()> quiet) = 0;

  // Where others connect to; 0 when this transport does not listen.
  virtual int port() const = 0;

  // `host` is a numeric address. Failures that take time come as OnFailed.
  virtual StatusOr<EndpointId> Connect(const std::string& host, int port) = 0;
  // Dropped when the endpoint is closed or fails.
  virtual void Send(EndpointId endpoint, std::string message) = 0;
  // `payload` stays unchanged until `done`; a refusal by the receiver is ABORTED.
  virtual void SendBulk(EndpointId endpoint, const BulkHeader& header,
                        std::span<const uint8_t> payload, Completion done) = 0;
  // At once, without waiting for what is posted: that completes with CANCELLED.
  virtual void Close(EndpointId endpoint) = 0;
  virtual StatusOr<std::string> DescribeLanes(EndpointId endpoint) = 0;

  // Runs `function` on the loop; functions of one thread run in order. Dropped after Stop.
  virtual void Post(std::function<void()> function) = 0;
  virtual TimeNs NowNs() const = 0;
  // A hint that payloads come from or go to this memory; it stays mapped until Stop.
  virtual Status Register(void* base, size_t bytes) = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_TRANSPORT_TRANSPORT_H_
