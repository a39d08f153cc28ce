#include "gateway/server/coordinator_link.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "common/grpc_status.h"
#include "common/limits.h"
#include "common/rpc_server.h"

namespace reprise::gateway {
namespace {

constexpr TimeNs kModelRefreshNs = 2 * kSecond;
constexpr int64_t kSmallCallMs = 1000;
constexpr int64_t kRetryAfterMs = 1000;
constexpr absl::string_view kNotTheLeader = "not the leader";
// Between rounds of the coordinators without a leader; an election takes most of a second.
constexpr TimeNs kBackoffFirstNs = 20 * kMillisecond;
constexpr TimeNs kBackoffMaxNs = 200 * kMillisecond;

// One unary call: lives until its callback has run.
template <typename Request, typename Response>
struct Call {
  Call(Gate::Holder in, Request r, int64_t timeout_ms)
      : inside(std::move(in)), request(std::move(r)) {
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
  }
  Gate::Holder inside;
  grpc::ClientContext context;
  Request request;
  Response response;
};

template <typename Request, typename Response>
auto MakeCall(Gate::Holder inside, Request request, int64_t timeout_ms) {
  return std::make_shared<Call<Request, Response>>(std::move(inside), std::move(request),
                                                   timeout_ms);
}

}  // namespace

// A placement on its way: tried at one coordinator after the other until one that leads answers.
struct CoordinatorLink::Placing final : public TimerQueue::Client,
                                        public std::enable_shared_from_this<Placing> {
  Placing(CoordinatorLink& owner, Gate::Holder in) : link(owner), inside(std::move(in)) {}
  void OnTimer(TimeNs) override {
    if (const auto self = std::move(waiting)) link.Try(self);
  }

  CoordinatorLink& link;
  const Gate::Holder inside;
  v1::PlaceRequest request;
  Placed placed;
  TimeNs until = 0;
  size_t door = 0;
  size_t tries = 0;
  TimeNs backoff_ns = kBackoffFirstNs;
  std::unique_ptr<grpc::ClientContext> context;  // of this try
  v1::PlaceResponse response;
  std::shared_ptr<Placing> waiting;  // itself, while only the timer knows it
};

CoordinatorLink::CoordinatorLink(CoordinatorLinkOptions options, SessionRegistry& registry,
                                 WorkerLinks& links, TimerQueue& timers, GatewayMetrics& metrics)
    : options_(std::move(options)),
      registry_(registry),
      links_(links),
      timers_(timers),
      metrics_(metrics),
      no_model_(absl::UnavailableError(absl::StrCat("coordinator unreachable: no answer yet from ",
                                                    absl::StrJoin(options_.addresses, ", ")))) {
  for (const std::string& address : options_.addresses) {
    auto& door = *doors_.emplace_back(std::make_unique<Door>());
    door.address = address;
    door.channel = ClusterChannel(address);
    door.stub = v1::Coordinator::NewStub(door.channel);
  }
}

CoordinatorLink::~CoordinatorLink() { Stop(); }

void CoordinatorLink::Start(const v1::NodeInfo& self) {
  for (const auto& door : doors_) {
    door->reporter = std::make_unique<Reporter>(
        ReporterOptions{.coordinator = door->address, .node = self},
        [this, door = door.get()](v1::ReportRequest* request) { FillReport(*door, request); },
        [this, door = door.get()](const v1::ReportResponse& response) {
          OnAnswered(*door, response);
        });
  }
}

void CoordinatorLink::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  for (const auto& door : doors_) {
    if (door->reporter != nullptr) door->reporter->Stop();
  }
  gate_.Close();
}

// Placements -------------------------------------------------------------------------------------

void CoordinatorLink::Place(v1::PlaceRequest request, int64_t timeout_ms, Placed placed) {
  auto inside = gate_.Enter();
  if (!inside) {
    placed(absl::UnavailableError("the gateway is stopping"), {});
    return;
  }
  const auto placing = std::make_shared<Placing>(*this, std::move(*inside));
  placing->request = std::move(request);
  placing->placed = std::move(placed);
  placing->until = RealClock().NowNs() + NsFromMs(std::min(timeout_ms, options_.place_timeout_ms));
  {
    MutexLock lock(mu_);
    placing->door = leader_;
  }
  Try(placing);
}

void CoordinatorLink::Try(const std::shared_ptr<Placing>& placing) {
  const Door& door = *doors_[placing->door];
  int64_t timeout_ms = std::max<int64_t>(1, (placing->until - RealClock().NowNs()) / kMillisecond);
  if (doors_.size() > 1) timeout_ms = std::min(timeout_ms, options_.try_timeout_ms);
  ++placing->tries;
  placing->response.Clear();
  placing->context = std::make_unique<grpc::ClientContext>();
  placing->context->set_deadline(std::chrono::system_clock::now() +
                                 std::chrono::milliseconds(timeout_ms));
  door.stub->async()->Place(
      placing->context.get(), &placing->request, &placing->response,
      [this, placing](const grpc::Status& status) { OnAnswer(placing, status); });
}

Status CoordinatorLink::JudgeAnswer(const Placing& placing, const grpc::Status& status) {
  const Door& door = *doors_[placing.door];
  if (status.ok()) {
    if (TakeEpoch(placing.response.leader_epoch())) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(door.address, " leads no more, its epoch is ",
                                               placing.response.leader_epoch()));
  }
  // The coordinator's own refusals come over a channel that works.
  const bool away = status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ||
                    (status.error_code() == grpc::StatusCode::UNAVAILABLE &&
                     door.channel->GetState(false) != GRPC_CHANNEL_READY);
  const bool follows = status.error_code() == grpc::StatusCode::UNAVAILABLE &&
                       absl::StartsWith(status.error_message(), kNotTheLeader);
  if (!away && !follows) return absl::OkStatus();
  return WithRetryAfter(
      absl::UnavailableError(
          absl::StrCat("coordinator unreachable: ", door.address, ": ", status.error_message())),
      kRetryAfterMs);
}

void CoordinatorLink::OnAnswer(const std::shared_ptr<Placing>& placing,
                               const grpc::Status& status) {
  const Status judged = JudgeAnswer(*placing, status);
  if (!judged.ok()) {
    TryNext(placing, judged);
    return;
  }
  {
    MutexLock lock(mu_);
    leader_ = placing->door;
  }
  placing->placed(FromGrpc(status), std::move(placing->response));
}

void CoordinatorLink::TryNext(const std::shared_ptr<Placing>& placing, const Status& why) {
  const size_t next = LeaderAfter(placing->door, why.message());
  bool stopping = false;
  {
    MutexLock lock(mu_);
    if (leader_ == placing->door) leader_ = next;
    stopping = stopping_;
  }
  placing->door = next;
  // A round without a leader: one is being elected.
  const bool round = placing->tries % doors_.size() == 0;
  const TimeNs at = RealClock().NowNs() + (round ? placing->backoff_ns : 0);
  if (doors_.size() == 1 || stopping || at >= placing->until) {
    placing->placed(why, {});
    return;
  }
  if (!round) {
    Try(placing);
    return;
  }
  placing->backoff_ns = std::min(2 * placing->backoff_ns, kBackoffMaxNs);
  placing->waiting = placing;
  timers_.Move(timers_.NewKey(), TimerQueue::kNone, at, placing);
}

// The one that a follower names, else the next in order.
size_t CoordinatorLink::LeaderAfter(size_t door, absl::string_view refusal) const {
  for (size_t i = 0; i < doors_.size(); ++i) {
    if (i != door && absl::EndsWith(refusal, absl::StrCat(" at ", doors_[i]->address))) return i;
  }
  return (door + 1) % doors_.size();
}

bool CoordinatorLink::TakeEpoch(uint64_t epoch) {
  {
    MutexLock lock(mu_);
    if (epoch >= leader_epoch_) {
      leader_epoch_ = epoch;
      return true;
    }
  }
  metrics_.stale_leader_refused.Increment();
  return false;
}

// Reports ----------------------------------------------------------------------------------------

StatusOr<std::shared_ptr<const ModelSnapshot>> CoordinatorLink::model() const {
  MutexLock lock(mu_);
  if (model_ == nullptr) return WithRetryAfter(no_model_, kRetryAfterMs);
  return model_;
}

// A fresh coordinator learns whom we serve once; later requests it places itself.
void CoordinatorLink::FillReport(const Door& door, v1::ReportRequest* request) {
  request->mutable_load()->set_running(static_cast<int32_t>(registry_.size()));
  request->set_verdicts_version(door.verdicts_known);
  {
    MutexLock lock(mu_);
    request->set_leader_epoch(leader_epoch_);
  }
  if (!door.tell_requests) return;
  registry_.ForEach([&](const std::string&, RequestSink& sink) {
    if (request->requests_size() >= static_cast<int>(limits::kReportRequestsMax)) return;
    if (auto report = sink.report()) *request->add_requests() = *std::move(report);
  });
}

void CoordinatorLink::OnAnswered(Door& door, const v1::ReportResponse& response) {
  door.tell_requests = response.coordinator_incarnation() != door.incarnation;
  if (door.tell_requests) {
    door.incarnation = response.coordinator_incarnation();
    door.verdicts_known = 0;
  }
  if (!TakeEpoch(response.leader_epoch())) return;
  RefreshModel(door);
  if (response.standby()) {
    door.verdicts_known = 0;
    return;
  }
  if (response.verdicts_version() != 0) door.verdicts_known = response.verdicts_version();
  for (const v1::Verdict& verdict : response.verdicts()) TakeVerdict(verdict);
}

// A frozen worker breaks no stream: the coordinator's word does.
void CoordinatorLink::TakeVerdict(const v1::Verdict& verdict) {
  links_.Fail(
      {verdict.node().name(), verdict.node().incarnation()},
      absl::UnavailableError(absl::StrCat("the coordinator gave it up: ", verdict.reason())),
      verdict.reason() == "stuck" ? Loss::kCrash : Loss::kOther);
}

void CoordinatorLink::RefreshModel(const Door& door) {
  const TimeNs now = RealClock().NowNs();
  {
    MutexLock lock(mu_);
    if (model_ != nullptr && now < model_asked_ + kModelRefreshNs) return;
    model_asked_ = now;
  }
  auto inside = gate_.Enter();
  if (!inside) return;
  v1::GetModelRequest request;
  request.set_name(options_.model);
  auto call = MakeCall<v1::GetModelRequest, v1::ModelInfo>(std::move(*inside), std::move(request),
                                                           kSmallCallMs);
  door.stub->async()->GetModel(
      &call->context, &call->request, &call->response, [this, call](const grpc::Status& status) {
        if (status.ok()) {
          TakeModel(call->response);
          return;
        }
        MutexLock lock(mu_);
        no_model_ = absl::UnavailableError(
            absl::StrCat("no model is served yet: ", status.error_message()));
      });
}

void CoordinatorLink::TakeModel(const v1::ModelInfo& info) {
  auto snapshot = std::make_shared<ModelSnapshot>();
  Status status;
  if (info.format_digest().size() != snapshot->chain.format_digest.size()) {
    status = absl::UnavailableError(absl::StrCat("the coordinator's format digest has ",
                                                 info.format_digest().size(), " bytes"));
  } else if (info.block_tokens() < 1 || info.block_tokens() > limits::kBlockTokensMax) {
    status = absl::UnavailableError(
        absl::StrCat("the coordinator's block has ", info.block_tokens(), " tokens"));
  } else if (options_.folder_vocab != 0 && options_.folder_vocab != info.vocab_size()) {
    status = absl::UnavailableError(absl::StrCat("this gateway's model folder has a vocabulary of ",
                                                 options_.folder_vocab, ", the cluster's model \"",
                                                 info.name(), "\" one of ", info.vocab_size()));
  }
  if (status.ok()) {
    snapshot->info = info;
    snapshot->served = {.name = info.name(),
                        .vocab_size = info.vocab_size(),
                        .context_tokens = info.context_tokens(),
                        .defaults = options_.defaults};
    std::memcpy(snapshot->chain.format_digest.data(), info.format_digest().data(),
                snapshot->chain.format_digest.size());
    snapshot->chain.block_tokens = info.block_tokens();
  }
  MutexLock lock(mu_);
  no_model_ = status;
  model_ = status.ok() ? std::move(snapshot) : nullptr;
}

}  // namespace reprise::gateway
