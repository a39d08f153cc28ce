// The gateway's Prometheus series, made once at start. Owned by the gateway; any thread.
#ifndef REPRISE_GATEWAY_SERVER_GATEWAY_METRICS_H_
#define REPRISE_GATEWAY_SERVER_GATEWAY_METRICS_H_

#include "common/metrics.h"
#include "common/status.h"
#include "gateway/generation/core/session_core.h"

namespace reprise::gateway {

struct GatewayMetrics {
  explicit GatewayMetrics(MetricsRegistry& registry);

  // One more request ended (or was refused) with this code.
  void CountRequest(const Status& status);
  void CountResume(Resumed how);
  // What one request's life cycle saw.
  void CountSession(const SessionCounters& counters);

  MetricsRegistry& registry;
  Gauge& active_streams;
  Counter& prompt_tokens;
  Counter& generated_tokens;
  Counter& replacements;
  Counter& duplicates;
  Counter& gaps;
  Counter& stale_events;
  Counter& violations;
  Counter& place_refusals;
  Counter& refused_streams_max;
  Counter& slow_readers;
  Counter& unknown_requests;
  Counter& links_opened;
  Counter& links_lost;
  Histogram& ttft_seconds;
  Histogram& itl_seconds;
  Counter& resumes_attach;
  Counter& resumes_transcript;
  Counter& resumes_replace;
  Histogram& recovery_place_seconds;
  Histogram& recovery_resume_seconds;
  Counter& stale_refused;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_GATEWAY_METRICS_H_
