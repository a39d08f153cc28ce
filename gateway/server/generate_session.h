// One Generate call: drives the request's SessionCore with what gRPC, the coordinator, the worker
// and the timer bring, and carries out its actions. Owns itself from Start to gRPC's OnDone.
//
// Threads: any. One lock guards the core and what is to be sent; everything that leaves (writes,
// calls, log lines) is done after it, writes by whoever claimed them, the rest one at a time in
// order.
//
// Invariants:
// 1. A refused call gets a status and no event; an accepted one gets Accepted first, one
//    BranchFinished per branch, and Finished last, then status OK. Only where the request goes on
//    without this stream (the gateway stops, the reader is too slow, another stream resumed it) an
//    accepted one ends with that status and no Finished.
// 2. The text of a branch is that of its tokens in order, then that of its BranchFinished; what the
//    client of a resumed request has counts, so its text goes on where it was.
// 3. Unread output beyond the limit ends the request with RESOURCE_EXHAUSTED; a reader that then
//    reads nothing for the grace period is cut off.
#ifndef REPRISE_GATEWAY_SERVER_GENERATE_SESSION_H_
#define REPRISE_GATEWAY_SERVER_GENERATE_SESSION_H_

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "gateway/generation/core/session_core.h"
#include "gateway/generation/request_validation.h"
#include "gateway/server/coordinator_link.h"
#include "gateway/server/gateway_metrics.h"
#include "gateway/server/placement_client.h"
#include "gateway/server/request_sink.h"
#include "gateway/server/session_messages.h"
#include "gateway/server/session_registry.h"
#include "gateway/server/stream_buffer.h"
#include "gateway/server/stream_slots.h"
#include "gateway/server/timer_queue.h"
#include "gateway/server/worker_links.h"
#include "gateway/text/detokenizer.h"
#include "reprise/v1/generation.grpc.pb.h"

namespace reprise::gateway {

// What all requests share. Outlives them.
struct SessionContext {
  SessionRegistry& registry;
  TimerQueue& timers;
  WorkerLinks& links;
  CoordinatorLink& coordinator;
  PlacementClient& placements;
  GatewayMetrics& metrics;
  const Tokenizer* tokenizer = nullptr;  // null: text deltas stay empty
  StreamSlots& slots;
  size_t stream_buffer_bytes_max = 0;
  TimeNs slow_reader_grace_ns = 0;
  int32_t attempts_max = 0;
};

class GenerateSession final : public grpc::ServerWriteReactor<v1::GenerateEvent>,
                              public RequestSink,
                              public TimerQueue::Client,
                              public std::enable_shared_from_this<GenerateSession> {
 public:
  // Leaves shared.slots, which the caller entered, in OnDone. `request` has its prompt, id and
  // seed.
  static grpc::ServerWriteReactor<v1::GenerateEvent>* Start(
      const SessionContext& shared, grpc::CallbackServerContext* call, ValidatedRequest request,
      std::shared_ptr<const ModelSnapshot> model, TimeNs arrived);

  GenerateSession(const SessionContext& shared, grpc::CallbackServerContext* call,
                  ValidatedRequest request, std::shared_ptr<const ModelSnapshot> model,
                  TimeNs arrived);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void OnWorkerEvent(const v1::RequestEvent& event, TimeNs now) override;
  void OnLinkLost(uint64_t link, const Status& status, Loss loss) override;
  void CancelByClient() override;
  void Abort(const Status& status) override;
  std::optional<v1::RequestReport> report() override;

  void OnTimer(TimeNs now) override;

 private:
  enum class WriteStep { kNone, kWrite, kFinish, kWriteAndFinish };
  using Effect = std::function<void()>;

  struct Outcome {
    WriteStep step = WriteStep::kNone;
    bool run_effects = false;
  };

  // Runs `event` on the core and carries out what follows.
  template <typename Event>
  void Handle(TimeNs now, Event&& event);
  // Turns actions_ into what is to be sent; Carry then does what needs no lock.
  Outcome Apply(TimeNs now) REQUIRES(mu_);
  void Carry(const Outcome& outcome);
  void ApplyTokens(TimeNs now) REQUIRES(mu_);
  void ApplyBranchEnd(const BranchEnd& end) REQUIRES(mu_);
  void ApplyAccept() REQUIRES(mu_);
  void ApplyCommands(TimeNs now) REQUIRES(mu_);
  void ApplyFinish(const SessionEnd& finish, TimeNs now) REQUIRES(mu_);
  void ApplyTimer() REQUIRES(mu_);
  void CountRecovery() REQUIRES(mu_);
  void AdoptAttached(const v1::Attached& attached) REQUIRES(mu_);
  void PrepareBranches(size_t branches) REQUIRES(mu_);
  RequestFacts facts() const REQUIRES(mu_) { return {request_, *model_, handle_, replicas_}; }
  Attempt attempt() const REQUIRES(mu_);
  Status Register();
  WriteStep ClaimWrite() REQUIRES(mu_);
  void Perform(WriteStep step);
  void RunEffects();
  // A Submit or an Attach: from here on the link's loss is ours.
  void SendFirst(const v1::NodeRef& worker, v1::ServeRequest message);
  void Tell(const NodeKey& worker, v1::ServeRequest message);
  void OnPlaceAnswer(uint64_t ask, const Status& status, v1::PlaceResponse response);
  void LogFinish(const SessionEnd& finish, TimeNs first_token, TimeNs now) const;

  const SessionContext shared_;
  grpc::CallbackServerContext* const call_;
  const std::shared_ptr<const ModelSnapshot> model_;
  const TimeNs arrived_;
  const std::string id_;
  const std::string handle_;
  const uint64_t timer_key_;
  std::shared_ptr<GenerateSession> self_;  // from Start to OnDone
  bool registered_ = false;                // constant after Start
  v1::GenerateEvent writing_;              // belongs to gRPC while a write runs

  Mutex mu_;
  ValidatedRequest request_ GUARDED_BY(mu_);  // without input: complete once attached
  SessionCore core_ GUARDED_BY(mu_);
  Actions actions_ GUARDED_BY(mu_);
  StreamBuffer buffer_ GUARDED_BY(mu_);
  std::vector<Detokenizer> text_ GUARDED_BY(mu_);            // by branch; empty without a tokenizer
  const v1::RequestEvent* event_ GUARDED_BY(mu_) = nullptr;  // being handled: alternatives
  std::vector<TokenEvent> tokens_scratch_ GUARDED_BY(mu_);
  std::vector<BranchEnd> ended_scratch_ GUARDED_BY(mu_);
  std::vector<bool> branch_reported_ GUARDED_BY(mu_);
  v1::PlaceResponse placed_ GUARDED_BY(mu_);  // of the running attempt
  NodeRefs replicas_ GUARDED_BY(mu_);         // stores that may hold tails of the request
  uint64_t link_ GUARDED_BY(mu_) = 0;         // serial number; 0: none
  std::deque<Effect> effects_ GUARDED_BY(mu_);
  bool effects_running_ GUARDED_BY(mu_) = false;
  TimeNs timer_at_ GUARDED_BY(mu_) = TimerQueue::kNone;
  TimeNs cut_off_at_ GUARDED_BY(mu_) = TimerQueue::kNone;
  TimeNs first_token_ GUARDED_BY(mu_) = 0;
  TimeNs last_tokens_ GUARDED_BY(mu_) = 0;
  Status refusal_ GUARDED_BY(mu_);  // of a call that ends without Finished
  bool write_running_ GUARDED_BY(mu_) = false;
  bool ended_ GUARDED_BY(mu_) = false;   // nothing more will be added to buffer_
  bool gone_ GUARDED_BY(mu_) = false;    // nobody reads
  bool closed_ GUARDED_BY(mu_) = false;  // Finish has been claimed
  bool done_ GUARDED_BY(mu_) = false;    // call_ is not valid any more
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_GENERATE_SESSION_H_
