#include "gateway/server/coordinator_link.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "common/grpc_status.h"
#include "common/limits.h"
#include "common/rpc_server.h"

namespace reprise::gateway {
namespace {

constexpr TimeNs kModelRefreshNs = 2 * kSecond;
constexpr int64_t kSmallCallMs = 1000;
constexpr int64_t kRetryAfterMs = 1000;

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

CoordinatorLink::CoordinatorLink(CoordinatorLinkOptions options, SessionRegistry& registry,
                                 WorkerLinks& links)
    : options_(std::move(options)),
      registry_(registry),
      links_(links),
      channel_(ClusterChannel(options_.address)),
      stub_(v1::Coordinator::NewStub(channel_)),
      no_model_(absl::UnavailableError(
          absl::StrCat("coordinator unreachable: no answer yet from ", options_.address))) {}

CoordinatorLink::~CoordinatorLink() { Stop(); }

void CoordinatorLink::Start(const v1::NodeInfo& self) {
  reporter_ = std::make_unique<Reporter>(
      ReporterOptions{.coordinator = options_.address, .node = self},
      [this](v1::ReportRequest* request) { FillReport(request); },
      [this](const v1::ReportResponse& response) { OnAnswered(response); });
}

void CoordinatorLink::Stop() {
  if (reporter_ != nullptr) reporter_->Stop();
  gate_.Close();
}

Status CoordinatorLink::Unreachable(const grpc::Status& status) const {
  return WithRetryAfter(
      absl::UnavailableError(absl::StrCat("coordinator unreachable: ", options_.address, ": ",
                                          status.error_message())),
      kRetryAfterMs);
}

void CoordinatorLink::Place(v1::PlaceRequest request, int64_t timeout_ms, Placed placed) {
  auto inside = gate_.Enter();
  if (!inside) {
    placed(absl::UnavailableError("the gateway is stopping"), {});
    return;
  }
  auto call = MakeCall<v1::PlaceRequest, v1::PlaceResponse>(
      std::move(*inside), std::move(request), std::min(timeout_ms, options_.place_timeout_ms));
  stub_->async()->Place(&call->context, &call->request, &call->response,
                        [this, call, placed = std::move(placed)](const grpc::Status& status) {
                          // The coordinator's own refusals come over a channel that works.
                          const bool away =
                              status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED ||
                              (status.error_code() == grpc::StatusCode::UNAVAILABLE &&
                               channel_->GetState(false) != GRPC_CHANNEL_READY);
                          if (away) {
                            placed(Unreachable(status), {});
                          } else {
                            placed(FromGrpc(status), std::move(call->response));
                          }
                        });
}

StatusOr<std::shared_ptr<const ModelSnapshot>> CoordinatorLink::model() const {
  MutexLock lock(mu_);
  if (model_ == nullptr) return WithRetryAfter(no_model_, kRetryAfterMs);
  return model_;
}

// A fresh coordinator learns whom we serve once; later requests it places itself.
void CoordinatorLink::FillReport(v1::ReportRequest* request) {
  request->mutable_load()->set_running(static_cast<int32_t>(registry_.size()));
  if (!tell_requests_) return;
  registry_.ForEach([&](const std::string& id, RequestSink& sink) {
    if (request->requests_size() >= static_cast<int>(limits::kReportRequestsMax)) return;
    const auto attempt = sink.running_attempt();
    if (!attempt) return;
    v1::RequestReport* report = request->add_requests();
    report->set_request_id(id);
    report->mutable_attempt()->set_owner_epoch(attempt->owner_epoch);
    report->mutable_attempt()->set_n(attempt->n);
  });
}

void CoordinatorLink::OnAnswered(const v1::ReportResponse& response) {
  if (response.coordinator_incarnation() != coordinator_) {
    coordinator_ = response.coordinator_incarnation();
    tell_requests_ = true;
  } else {
    tell_requests_ = false;
  }
  RefreshModel();
  AskVerdicts();
}

void CoordinatorLink::RefreshModel() {
  const TimeNs now = RealClock().NowNs();
  if (model().ok() && now < model_asked_ + kModelRefreshNs) return;
  model_asked_ = now;
  auto inside = gate_.Enter();
  if (!inside) return;
  v1::GetModelRequest request;
  request.set_name(options_.model);
  auto call = MakeCall<v1::GetModelRequest, v1::ModelInfo>(std::move(*inside), std::move(request),
                                                           kSmallCallMs);
  stub_->async()->GetModel(&call->context, &call->request, &call->response,
                           [this, call](const grpc::Status& status) {
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

void CoordinatorLink::AskVerdicts() {
  if (links_.workers().empty()) return;
  auto inside = gate_.Enter();
  if (!inside) return;
  auto call =
      MakeCall<v1::GetStatusRequest, v1::ClusterStatus>(std::move(*inside), {}, kSmallCallMs);
  stub_->async()->GetStatus(&call->context, &call->request, &call->response,
                            [this, call](const grpc::Status& status) {
                              if (status.ok()) TakeVerdicts(call->response);
                            });
}

// A frozen worker breaks no stream: the coordinator's word does. A worker it does not know is left
// alone, since a fresh coordinator knows nobody.
void CoordinatorLink::TakeVerdicts(const v1::ClusterStatus& status) {
  for (const NodeKey& worker : links_.workers()) {
    bool dead = false;
    bool alive = false;
    for (const v1::NodeStatus& node : status.nodes()) {
      if (node.node().ref().name() != worker.name) continue;
      const bool same = node.node().ref().incarnation() == worker.incarnation;
      if (same && node.state() != "dead") alive = true;
      // A newer incarnation that lives means the one we speak to does not count any more.
      if (same ? node.state() == "dead" : node.state() == "live") dead = true;
    }
    if (dead && !alive)
      links_.Fail(worker, absl::UnavailableError("the coordinator judged it dead"));
  }
}

}  // namespace reprise::gateway
