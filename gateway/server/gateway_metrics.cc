#include "gateway/server/gateway_metrics.h"

namespace reprise::gateway {
namespace {

Counter& AddResumes(MetricsRegistry& registry, const char* how) {
  return registry.AddCounter("reprise_gateway_resumes_total",
                             "Requests that went on: attached to where they run, from a client's "
                             "transcript, or moved from a lost worker.",
                             {{"how", how}});
}

Histogram& AddRecovery(MetricsRegistry& registry, const char* phase) {
  return registry.AddHistogram("reprise_recovery_seconds",
                               "From the loss of a request's worker to the end of this phase.",
                               {{"phase", phase}}, LatencyBuckets());
}

}  // namespace

GatewayMetrics::GatewayMetrics(MetricsRegistry& r)
    : registry(r),
      active_streams(
          r.AddGauge("reprise_gateway_active_streams", "Generate streams open to clients.")),
      prompt_tokens(r.AddCounter("reprise_gateway_prompt_tokens_total",
                                 "Prompt tokens of accepted requests.")),
      generated_tokens(
          r.AddCounter("reprise_gateway_tokens_total", "Tokens accepted in order from workers.")),
      replacements(r.AddCounter("reprise_gateway_replacements_total",
                                "Attempts after the first: requests moved to another worker.")),
      duplicates(r.AddCounter("reprise_gateway_duplicate_tokens_total",
                              "Tokens received again, equal to what was delivered.")),
      gaps(r.AddCounter("reprise_gateway_gaps_total",
                        "Tokens or branch ends ahead of what was delivered.")),
      stale_events(r.AddCounter("reprise_gateway_stale_events_total",
                                "Events of another attempt, dropped.")),
      violations(r.AddCounter("reprise_gateway_violations_total",
                              "Workers that contradicted a request or what was delivered.")),
      place_refusals(r.AddCounter("reprise_gateway_place_refusals_total",
                                  "Placements the coordinator did not grant.")),
      refused_streams_max(r.AddCounter("reprise_gateway_refused_total",
                                       "Requests refused by a limit of this gateway.",
                                       {{"limit", "streams_max"}})),
      slow_readers(r.AddCounter("reprise_gateway_refused_total",
                                "Requests refused by a limit of this gateway.",
                                {{"limit", "stream_buffer_bytes"}})),
      unknown_requests(r.AddCounter("reprise_gateway_unknown_request_events_total",
                                    "Worker events of requests not running here.")),
      links_opened(
          r.AddCounter("reprise_gateway_links_opened_total", "Streams opened to workers.")),
      links_lost(
          r.AddCounter("reprise_gateway_links_lost_total", "Streams to workers that broke.")),
      ttft_seconds(r.AddHistogram("reprise_gateway_ttft_seconds",
                                  "From a request's arrival to its first token.", {},
                                  LatencyBuckets())),
      itl_seconds(r.AddHistogram("reprise_gateway_itl_seconds",
                                 "Between messages of tokens for one request.", {},
                                 LatencyBuckets())),
      resumes_attach(AddResumes(r, "attach")),
      resumes_transcript(AddResumes(r, "transcript")),
      resumes_replace(AddResumes(r, "replace")),
      recovery_place_seconds(AddRecovery(r, "place")),
      recovery_resume_seconds(AddRecovery(r, "resume")),
      stale_refused(r.AddCounter("reprise_stale_refused_total",
                                 "Messages of a replaced attempt or incarnation, refused.",
                                 {{"what", "event"}})) {}

void GatewayMetrics::CountResume(Resumed how) {
  switch (how) {
    case Resumed::kAttach:
      return resumes_attach.Increment();
    case Resumed::kTranscript:
      return resumes_transcript.Increment();
    case Resumed::kReplace:
      return resumes_replace.Increment();
  }
}

void GatewayMetrics::CountRequest(const Status& status) {
  registry
      .AddCounter("reprise_gateway_requests_total", "Requests by how they ended.",
                  {{"code", absl::StatusCodeToString(status.code())}})
      .Increment();
}

void GatewayMetrics::CountSession(const SessionCounters& counters) {
  replacements.Increment(static_cast<double>(counters.replacements));
  duplicates.Increment(static_cast<double>(counters.duplicates));
  gaps.Increment(static_cast<double>(counters.gaps));
  stale_events.Increment(static_cast<double>(counters.stale_events));
  stale_refused.Increment(static_cast<double>(counters.stale_events));
  violations.Increment(static_cast<double>(counters.violations));
  place_refusals.Increment(static_cast<double>(counters.refusals));
}

}  // namespace reprise::gateway
