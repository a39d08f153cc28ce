// What the two sides of a stream share on one event loop. Owned by the lane; the counters are read
// from any thread, the rest is the loop's.
#ifndef REPRISE_KVSTORE_STREAM_LANE_CONTEXT_H_
#define REPRISE_KVSTORE_STREAM_LANE_CONTEXT_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "common/ids.h"
#include "kvstore/block/block_id.h"
#include "kvstore/block/kv_convert.h"
#include "kvstore/block/kv_format.h"
#include "kvstore/block/kv_part.h"
#include "kvstore/stream/timer_queue.h"
#include "kvstore/stream/wire.h"
#include "kvstore/transport/transport.h"

namespace reprise::kv {

struct StreamCounters {
  std::atomic<uint64_t> bytes_sent{0};
  std::atomic<uint64_t> bytes_received{0};
  std::atomic<uint64_t> segments_sent{0};
  std::atomic<uint64_t> segments_received{0};
  std::atomic<uint64_t> checksum_failures{0};
  std::atomic<uint64_t> stale_refused{0};
  std::atomic<uint64_t> malformed_refused{0};
  std::atomic<uint64_t> fetches_failed{0};
  std::atomic<uint64_t> peers{0};
  std::atomic<uint64_t> posted_bytes{0};
  std::atomic<uint64_t> appends_sent{0};
  std::atomic<uint64_t> append_bytes_sent{0};
  std::atomic<uint64_t> append_posted_bytes{0};
  std::atomic<uint64_t> appends_received{0};
  std::atomic<uint64_t> append_bytes_received{0};
  std::atomic<uint64_t> append_staged_bytes{0};
  std::atomic<uint64_t> replicas_lost{0};
};

struct LaneContext {
  NodeKey self;
  KvFormat format;          // of whole blocks
  std::string format_text;  // canonical
  bool convert_codecs = false;
  KvPart part;  // what this node holds of them; the rest of the sizes are the part's
  size_t segment_bytes = 0;
  uint32_t layers = 0;
  uint32_t block_tokens = 1;
  Transport* transport = nullptr;
  TimerQueue* timers = nullptr;
  StreamCounters* counters = nullptr;

  // Of one row in all layers.
  size_t packed_row_bytes() const { return segment_bytes / block_tokens * layers; }
  TimeNs Now() const { return transport->NowNs(); }
  void Send(EndpointId to, uint64_t receiver_incarnation, wire::Message message) const {
    transport->Send(to, wire::Encode({receiver_incarnation, std::move(message)}));
  }
};

// Fit to read blocks from: the same bytes mean the same, or a registered conversion away.
inline Status CheckFormat(const LaneContext& context, const std::string& theirs) {
  if (context.format_text == theirs) return absl::OkStatus();
  const StatusOr<KvFormat> format = ParseFormat(theirs);
  if (!format.ok()) {
    return FormatsDiffer(format.status().message(), context.format_text, theirs);
  }
  return CheckExchange(context.format, *format, context.convert_codecs);
}

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_LANE_CONTEXT_H_
