// What the ranks of a group do together: point-to-point exchange and collectives, in host memory.
// A communicator belongs to one rank of one epoch of a group; whoever runs the rank owns it.
//
// Threads: one thread makes all calls; Abort, status and the destructor's wait aside, which any
// thread may call (the destructor only after the last call has returned).
//
// Invariants:
// 1. Every rank makes the same collective calls, in the same order, with sizes that agree. Messages
//    of a pair of ranks match in the order in which they were posted. A rank that disagrees is
//    INVALID_ARGUMENT naming both calls, on every rank.
// 2. A call ends by its deadline (an instant of RealClock) plus what it takes to make its memory
//    quiet: DEADLINE_EXCEEDED; UNAVAILABLE when a peer died or left; ABORTED when somebody aborted.
// 3. After any error the communicator is dead: each later call returns that status, and every other
//    rank's current and later calls fail as well. Only a new epoch of the group helps.
// 4. Once a call has returned an error, no memory ever given to the communicator is written again,
//    that of exchanges still in flight included. A stopped peer may still read what was being sent
//    to it; the bytes go nowhere.
// 5. Sums are functions of the operands alone: each element is added on exactly one rank, by the
//    tree of TreeSum over ranks, denormals flushed as in the kernels; so all ranks hold equal bits.
#ifndef REPRISE_WORKER_PARALLEL_COMMUNICATOR_H_
#define REPRISE_WORKER_PARALLEL_COMMUNICATOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "common/clock.h"
#include "common/status.h"

namespace reprise::parallel {

enum class Op : uint8_t {
  kPointToPoint,
  kBarrier,
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kAllToAll,
};
inline constexpr size_t kOps = 6;
const char* OpName(Op op);

// Payload of calls begun so far, by operation; what a rank keeps for itself is not sent.
struct OpStats {
  uint64_t calls = 0;
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
};
using CommunicatorStats = std::array<OpStats, kOps>;  // by Op

// Floats as they travel.
inline std::span<const uint8_t> FloatBytes(std::span<const float> floats) {
  return {reinterpret_cast<const uint8_t*>(floats.data()), floats.size_bytes()};
}
inline std::span<uint8_t> FloatBytes(std::span<float> floats) {
  return {reinterpret_cast<uint8_t*>(floats.data()), floats.size_bytes()};
}

// A message to one rank and a message from another (or the same), under way together.
struct Exchange {
  int to = -1;  // -1: nothing is sent
  std::span<const uint8_t> send;
  int from = -1;  // -1: nothing is received
  std::span<uint8_t> receive;
};
using ExchangeId = uint64_t;

// The part of n elements that rank r of `size` owns in a reduction: [n r / size, n (r+1) / size).
struct Chunk {
  size_t begin = 0;
  size_t end = 0;
  size_t size() const { return end - begin; }
};
Chunk ChunkOf(size_t n, int rank, int size);

class Communicator {
 public:
  // Waits until the memory of unfinished exchanges is quiet; peers that still need this rank fail.
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // OK until something failed.
  virtual Status status() const = 0;
  // Kills the communicators of all ranks with ABORTED and this reason. Any thread; does not wait.
  virtual void Abort(const Status& reason) = 0;
  virtual const CommunicatorStats& stats() const = 0;  // of the calling thread

  // ---- Point to point: never to oneself. ----
  // The memory belongs to the communicator until Wait returns. Several may be under way.
  virtual StatusOr<ExchangeId> Start(const Exchange& exchange) = 0;
  // Once for each started exchange, in any order.
  virtual Status Wait(ExchangeId exchange, TimeNs deadline_ns) = 0;
  Status Send(int to, std::span<const uint8_t> data, TimeNs deadline_ns);
  Status Recv(int from, std::span<uint8_t> data, TimeNs deadline_ns);

  // ---- Collectives. ----
  // No rank's returns before every rank's was called.
  virtual Status Barrier(TimeNs deadline_ns) = 0;
  // data [n]: the sum over ranks replaces it. A rank sends about 2 (P-1)/P of it.
  virtual Status AllReduce(std::span<float> data, TimeNs deadline_ns) = 0;
  // data [n], mine [ChunkOf(n, rank, size)]: the own part of the sum over ranks.
  virtual Status ReduceScatter(std::span<const float> data, std::span<float> mine,
                               TimeNs deadline_ns) = 0;
  // sizes [size], in bytes: rank r brings sizes[r], and all [sum of sizes] is the ranks' in order.
  // `mine` may be its own place in `all`; otherwise they do not overlap.
  virtual Status AllGather(std::span<const uint8_t> mine, std::span<const size_t> sizes,
                           std::span<uint8_t> all, TimeNs deadline_ns) = 0;
  // send_sizes, receive_sizes [size], in bytes, of consecutive parts of send and receive: part r
  // goes to (comes from) rank r. send_sizes[r] here is receive_sizes[rank] there. No overlap.
  virtual Status AllToAll(std::span<const uint8_t> send, std::span<const size_t> send_sizes,
                          std::span<uint8_t> receive, std::span<const size_t> receive_sizes,
                          TimeNs deadline_ns) = 0;
  // Equal sizes: `all` is `size` times as long as `mine`; send and receive are cut in `size` parts.
  Status AllGather(std::span<const uint8_t> mine, std::span<uint8_t> all, TimeNs deadline_ns);
  Status AllToAll(std::span<const uint8_t> send, std::span<uint8_t> receive, TimeNs deadline_ns);
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_COMMUNICATOR_H_
