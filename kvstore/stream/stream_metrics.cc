#include "kvstore/stream/stream_metrics.h"

namespace reprise::kv {

void AddStreamMetrics(MetricsRegistry* metrics, const KvStream* stream) {
  const auto counter = [&](const char* name, const char* help, uint64_t StreamStats::*field) {
    metrics->RegisterCallbackCounter(
        name, help, [stream, field] { return static_cast<double>(stream->stats().*field); });
  };
  counter("reprise_kv_bytes_sent_total", "Payload bytes of KV segments sent.",
          &StreamStats::bytes_sent);
  counter("reprise_kv_bytes_received_total", "Payload bytes of KV segments received and verified.",
          &StreamStats::bytes_received);
  counter("reprise_kv_segments_sent_total", "KV segments sent.", &StreamStats::segments_sent);
  counter("reprise_kv_segments_received_total", "KV segments received and verified.",
          &StreamStats::segments_received);
  counter("reprise_kv_checksum_failures_total", "KV segments that arrived damaged.",
          &StreamStats::checksum_failures);
  counter("reprise_kv_stale_refused_total",
          "Messages refused for another incarnation or a lower attempt.",
          &StreamStats::stale_refused);
  counter("reprise_kv_malformed_refused_total", "Messages refused as malformed.",
          &StreamStats::malformed_refused);
  counter("reprise_kv_fetches_failed_total", "Fetches with an item that failed.",
          &StreamStats::fetches_failed);
  const auto gauge = [&](const char* name, const char* help, uint64_t StreamStats::*field) {
    metrics->RegisterCallbackGauge(
        name, help, [stream, field] { return static_cast<double>(stream->stats().*field); });
  };
  gauge("reprise_kv_peers", "Connected stream peers.", &StreamStats::peers);
  gauge("reprise_kv_posted_bytes", "Bytes under a transfer that is not terminal.",
        &StreamStats::posted_bytes);
}

}  // namespace reprise::kv
