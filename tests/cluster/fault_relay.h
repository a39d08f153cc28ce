// One connection through the fault proxy: two sockets and the bytes between them. Owned by the
// proxy; its thread only.
#ifndef REPRISE_TESTS_CLUSTER_FAULT_RELAY_H_
#define REPRISE_TESTS_CLUSTER_FAULT_RELAY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

#include "common/clock.h"

namespace reprise::harness {

enum class Direction { kToServer = 0, kToClient = 1 };

struct Fault {
  bool black_hole = false;
  TimeNs delay_ns = 0;
  int64_t bytes_per_s = 0;  // 0: no limit
};

inline constexpr size_t kHeldBytesMax = size_t{1} << 20;

// The bytes of one direction between reading and writing. Pure: time comes in.
class HeldBytes {
 public:
  void Add(std::string bytes, TimeNs now, TimeNs delay_ns);
  // What may be written now; empty when nothing may. Valid until the next call.
  std::string Due(TimeNs now, const Fault& fault);
  void Written(size_t bytes);
  // When something may be written next; INT64_MAX: not without a change.
  TimeNs NextNs(const Fault& fault) const;
  size_t size() const { return size_; }

 private:
  struct Chunk {
    std::string bytes;
    TimeNs due_ns;
  };
  std::deque<Chunk> chunks_;
  size_t size_ = 0;
  TimeNs throttled_until_ns_ = 0;
};

class Relay {
 public:
  // Takes both sockets, non-blocking.
  Relay(int client, int server) : fds_{client, server} {}
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // Index 0 is the client's socket, 1 the server's; a direction reads from the socket of its index.
  int fd(int side) const { return fds_[static_cast<size_t>(side)]; }
  bool WantsRead(int side, const Fault& fault) const;
  bool WantsWrite(int side, const Fault& fault_to_it, TimeNs now);
  // False when the connection is broken.
  bool Read(int side, TimeNs now, const Fault& fault);
  bool Write(int side, TimeNs now, const Fault& fault_to_it, int64_t& written);
  TimeNs NextNs(int from, const Fault& fault) const;
  void EndReading(int side) { ways_[static_cast<size_t>(side)].ended = true; }
  bool finished() const { return ways_[0].closed && ways_[1].closed; }
  void SendReset();

 private:
  struct Way {
    HeldBytes held;
    bool ended = false;   // nothing more is read
    bool closed = false;  // and the other side was told
  };
  void CloseWhenEmpty(int from);

  std::array<int, 2> fds_;
  std::array<Way, 2> ways_;  // by the side that is read
};

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_CLUSTER_FAULT_RELAY_H_
