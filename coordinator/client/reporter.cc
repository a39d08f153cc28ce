#include "coordinator/client/reporter.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/rpc_server.h"

namespace reprise {

Reporter::Reporter(ReporterOptions options, Fill fill, Answered answered)
    : options_(std::move(options)),
      fill_(std::move(fill)),
      answered_(std::move(answered)),
      stub_(v1::Coordinator::NewStub(ClusterChannel(options_.coordinator))),
      interval_ms_(options_.interval_ms),
      thread_("reporter", [this] { Loop(); }) {}

Reporter::~Reporter() { Stop(); }

void Reporter::Wake() {
  MutexLock lock(mu_);
  woken_ = true;
  wake_.NotifyOne();
}

void Reporter::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    wake_.NotifyOne();
  }
  thread_.Join();
}

bool Reporter::connected() const {
  MutexLock lock(mu_);
  return failures_ < 2;
}

void Reporter::Loop() {
  static LogEvery every(10 * kSecond);
  while (true) {
    const bool answered = ReportOnce(/*leaving=*/false);
    MutexLock lock(mu_);
    failures_ = answered ? 0 : failures_ + 1;
    if (failures_ == 2 && every.Allow()) {
      LogWarning("coordinator_unreachable", {{"address", options_.coordinator}});
    }
    const TimeNs until = RealClock().NowNs() + interval_ms_ * kMillisecond;
    while (!stopping_ && !woken_) {
      const TimeNs left = until - RealClock().NowNs();
      if (left <= 0 || !wake_.WaitFor(mu_, std::chrono::nanoseconds(left))) break;
    }
    woken_ = false;
    if (stopping_) break;
  }
  ReportOnce(/*leaving=*/true);
}

void Reporter::PrepareRequest(bool leaving) {
  if (forget_.exchange(false, std::memory_order_acq_rel)) stores_version_ = verdicts_version_ = 0;
  request_.clear_load();
  request_.clear_events();
  request_.clear_snapshot();
  request_.clear_requests();
  if (!request_.has_node()) *request_.mutable_node() = options_.node;
  request_.set_sequence(++sequence_);
  request_.set_leaving(leaving);
  request_.set_stores_version(stores_version_);
  request_.set_verdicts_version(verdicts_version_);
  if (options_.leader_epoch != nullptr) request_.set_leader_epoch(options_.leader_epoch->highest());
  fill_(&request_);
}

void Reporter::OnRefused(const grpc::Status& status) {
  const bool fenced = status.error_code() == grpc::StatusCode::ABORTED &&
                      absl::StartsWith(status.error_message(), "STALE_INCARNATION");
  if (!fenced) return;
  static LogEvery every(10 * kSecond);
  if (every.Allow())
    LogWarning("fenced",
               {{"coordinator", options_.coordinator}, {"message", status.error_message()}});
  if (options_.fenced) options_.fenced(absl::AbortedError(status.error_message()));
}

bool Reporter::ReportOnce(bool leaving) {
  PrepareRequest(leaving);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::milliseconds(leaving ? 200 : options_.call_timeout_ms));
  response_.Clear();
  const grpc::Status status = stub_->Report(&context, request_, &response_);
  if (!status.ok()) {
    OnRefused(status);
    return false;
  }
  if (response_.coordinator_incarnation() != coordinator_incarnation_) {
    coordinator_incarnation_ = response_.coordinator_incarnation();
    stores_version_ = verdicts_version_ = 0;  // equal to the former one's by chance, perhaps
  }
  if (response_.stores_version() != 0) stores_version_ = response_.stores_version();
  if (response_.verdicts_version() != 0) verdicts_version_ = response_.verdicts_version();
  if (response_.report_interval_ms() > 0) {
    MutexLock lock(mu_);
    interval_ms_ = response_.report_interval_ms();
  }
  answered_(response_);
  return true;
}

void FillKvPart(const kv::EventReporter::Part& part, v1::ReportRequest* request) {
  if (part.chunk != nullptr) {
    v1::KvSnapshot* snapshot = request->mutable_snapshot();
    snapshot->set_as_of(part.chunk->as_of);
    snapshot->set_chunk(part.chunk->chunk);
    snapshot->set_last(part.chunk->last);
    snapshot->set_ids(kv::PackIds(part.chunk->ids));
    return;
  }
  v1::KvEvents* events = request->mutable_events();
  events->set_first(part.events.first);
  for (const kv::KvEvent& event : part.events.events) {
    v1::KvEvent* out = events->add_events();
    out->set_id(event.id.bytes.data(), event.id.bytes.size());
    out->set_removed(event.removed);
  }
}

kv::EventReporter::Answer KvAnswer(const v1::ReportResponse& response) {
  return {.coordinator_incarnation = response.coordinator_incarnation(),
          .next_event = response.next_event(),
          .want_snapshot = response.want_snapshot()};
}

}  // namespace reprise
