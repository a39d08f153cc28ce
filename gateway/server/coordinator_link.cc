#include "gateway/server/coordinator_link.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/grpc_status.h"
#include "common/limits.h"
#include "common/rpc_server.h"

namespace reprise::gateway {
namespace {

constexpr TimeNs kModelRefreshNs = 2 * kSecond;
constexpr int64_t kModelTimeoutMs = 1000;
constexpr int64_t kRetryAfterMs = 1000;

// Lives until its callback has run.
struct ModelCall {
  ModelCall(Gate::Holder in, const std::string& model) : inside(std::move(in)) {
    request.set_name(model);
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(kModelTimeoutMs));
  }
  Gate::Holder inside;
  grpc::ClientContext context;
  v1::GetModelRequest request;
  v1::ModelInfo response;
};

}  // namespace

CoordinatorLink::CoordinatorLink(CoordinatorLinkOptions options, SessionRegistry& registry,
                                 WorkerLinks& links, LeaderEpoch& leader_epoch)
    : options_(std::move(options)),
      registry_(registry),
      links_(links),
      leader_epoch_(leader_epoch),
      peers_(options_.coordinators.size()),
      no_model_(absl::UnavailableError(absl::StrCat("coordinator unreachable: no answer yet from ",
                                                    absl::StrJoin(options_.coordinators, ", ")))) {
  for (size_t i = 0; i < peers_.size(); ++i) {
    peers_[i].stub = v1::Coordinator::NewStub(ClusterChannel(options_.coordinators[i]));
  }
}

CoordinatorLink::~CoordinatorLink() { Stop(); }

void CoordinatorLink::Start(const v1::NodeInfo& self) {
  ReporterGroupHandlers handlers;
  handlers.fill = [this](size_t index, v1::ReportRequest* request) { FillReport(index, request); };
  handlers.answered = [this](size_t index, const v1::ReportResponse& response) {
    OnAnswered(index, response);
    return false;
  };
  handlers.ordered = [this](size_t, const v1::ReportResponse& word) {
    for (const v1::Verdict& verdict : word.verdicts()) TakeVerdict(verdict);
  };
  reports_ = std::make_unique<ReporterGroup>(
      ReporterGroupOptions{.coordinators = options_.coordinators, .node = self},
      std::move(handlers), leader_epoch_);
}

void CoordinatorLink::Stop() {
  if (reports_ != nullptr) reports_->Stop();
  gate_.Close();
}

StatusOr<std::shared_ptr<const ModelSnapshot>> CoordinatorLink::model() const {
  MutexLock lock(mu_);
  if (model_ == nullptr) return WithRetryAfter(no_model_, kRetryAfterMs);
  return model_;
}

// A fresh coordinator learns whom we serve once; later requests it places itself.
void CoordinatorLink::FillReport(size_t index, v1::ReportRequest* request) {
  request->mutable_load()->set_running(static_cast<int32_t>(registry_.size()));
  if (!peers_[index].tell_requests) return;
  registry_.ForEach([&](const std::string&, RequestSink& sink) {
    if (request->requests_size() >= static_cast<int>(limits::kReportRequestsMax)) return;
    if (auto report = sink.report()) *request->add_requests() = *std::move(report);
  });
}

void CoordinatorLink::OnAnswered(size_t index, const v1::ReportResponse& response) {
  Peer& peer = peers_[index];
  peer.tell_requests = response.coordinator_incarnation() != peer.incarnation;
  peer.incarnation = response.coordinator_incarnation();
  RefreshModel(*peer.stub);
}

// A frozen worker breaks no stream: the coordinator's word does.
void CoordinatorLink::TakeVerdict(const v1::Verdict& verdict) {
  links_.Fail(
      {verdict.node().name(), verdict.node().incarnation()},
      absl::UnavailableError(absl::StrCat("the coordinator gave it up: ", verdict.reason())),
      verdict.reason() == "stuck" ? Loss::kCrash : Loss::kOther);
}

void CoordinatorLink::RefreshModel(v1::Coordinator::Stub& coordinator) {
  const TimeNs now = RealClock().NowNs();
  {
    MutexLock lock(mu_);
    if (model_ != nullptr && now < model_asked_ + kModelRefreshNs) return;
    model_asked_ = now;
  }
  auto inside = gate_.Enter();
  if (!inside) return;
  const auto call = std::make_shared<ModelCall>(std::move(*inside), options_.model);
  coordinator.async()->GetModel(
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
