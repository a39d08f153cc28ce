#include "kvstore/stream/stream_lane.h"

#include <utility>

#include "common/log.h"

namespace reprise::kv {
namespace {

// How long a shutdown waits for peers to take what is posted. After it the endpoints are closed by
// force: a peer that was only frozen may then read memory that has changed, and its checksum
// refuses it.
constexpr TimeNs kShutdownTimeoutNs = 3 * kSecond;

LaneContext WithTimers(LaneContext context, TimerQueue* timers) {
  context.timers = timers;
  return context;
}

}  // namespace

StreamLane::StreamLane(LaneContext context, const std::optional<ServerRole>& server)
    : context_(WithTimers(std::move(context), &timers_)), client_(context_), replicas_(context_) {
  if (server.has_value()) {
    server_ =
        std::make_unique<FetchServer>(context_, server->options, server->source, server->tails);
  }
}

bool StreamLane::Quiet() {
  const TimeNs now_ns = context_.Now();
  if (!quiet_deadline_ns_.has_value()) {
    quiet_deadline_ns_ = now_ns + kShutdownTimeoutNs;
    timers_.At(*quiet_deadline_ns_, [] {});  // wakes the loop then
    client_.CancelAll();
    replicas_.EndAll();
    if (server_ != nullptr) server_->EndAll();
  }
  if (client_.idle() && replicas_.idle() && (server_ == nullptr || server_->idle())) return true;
  if (now_ns < *quiet_deadline_ns_) return false;
  client_.CloseLinks();
  replicas_.CloseLinks();
  const StreamCounters& counters = *context_.counters;
  LogWarning(
      "kv_stream_closed_by_force",
      {{"posted_bytes", counters.posted_bytes.load(std::memory_order_relaxed)},
       {"append_posted_bytes", counters.append_posted_bytes.load(std::memory_order_relaxed)}});
  return true;
}

void StreamLane::OnAccepted(EndpointId endpoint) {
  if (server_ == nullptr || quiet_deadline_ns_.has_value()) {
    context_.transport->Close(endpoint);
  } else {
    server_->OnAccepted(endpoint);
  }
}

TimeNs StreamLane::OnWake(TimeNs now_ns) {
  const TimeNs next_ns = timers_.RunDue(now_ns);
  if (server_ != nullptr) server_->replicas().Flush();
  return next_ns;
}

void StreamLane::OnMessage(EndpointId endpoint, std::span<const uint8_t> message) {
  StatusOr<wire::Envelope> envelope = wire::Decode(message);
  const auto deliver = [&](auto& side) {
    if (envelope.ok()) {
      side.OnMessage(endpoint, *std::move(envelope));
    } else {
      side.OnMalformed(endpoint, envelope.status());
    }
  };
  if (server_ != nullptr && server_->Owns(endpoint)) {
    deliver(*server_);
  } else if (replicas_.Owns(endpoint)) {
    deliver(replicas_);
  } else {
    deliver(client_);
  }
}

Sink StreamLane::OnBulk(EndpointId endpoint, const BulkHeader& header, size_t bytes) {
  if (server_ != nullptr && server_->Owns(endpoint)) {
    return server_->OnBulk(endpoint, header, bytes);
  }
  if (replicas_.Owns(endpoint)) {
    replicas_.OnMalformed(endpoint, absl::InvalidArgumentError("a store sent a payload"));
    return {};
  }
  return client_.OnBulk(endpoint, wire::DecodeBulk(header), bytes);
}

void StreamLane::OnFailed(EndpointId endpoint, const Status& status) {
  if (server_ != nullptr && server_->Owns(endpoint)) {
    server_->OnFailed(endpoint);
  } else if (replicas_.Owns(endpoint)) {
    replicas_.OnFailed(endpoint, status);
  } else {
    client_.OnFailed(endpoint, status);
  }
}

}  // namespace reprise::kv
