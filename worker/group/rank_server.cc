#include "worker/group/rank_server.h"

#include <algorithm>
#include <utility>

#include "common/bind_address.h"
#include "common/grpc_status.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/random.h"
#include "common/rpc_server.h"
#include "worker/parallel/group_shape.h"

namespace reprise::worker {
StatusOr<std::unique_ptr<RankServer>> RankServer::Start(const RankServerOptions& options,
                                                        MetricsRegistry* metrics) {
  if (options.rank >= static_cast<int32_t>(options.split.ranks())) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", options.rank, " is not one of the ",
                                                   options.split.ranks(), " of ",
                                                   parallel::GroupShapeText(options.split)));
  }
  ASSIGN_OR_RETURN(auto host, parallel::MakeUcxGroupHost(options.transport));
  std::unique_ptr<RankServer> server(new RankServer(options, std::move(host)));
  RETURN_IF_ERROR(server->Preload());
  if (metrics != nullptr) server->AddMetrics(metrics);
  server->thread_ = Thread("rank_step", [s = server.get()] { s->Loop(); });
  return server;
}

RankServer::RankServer(const RankServerOptions& options, std::unique_ptr<parallel::GroupHost> host)
    : options_(options), incarnation_(RandomU64() | 1), host_(std::move(host)) {}

RankServer::~RankServer() { Stop(); }

void RankServer::Stop() {
  std::optional<std::stop_source> end;
  {
    MutexLock lock(mu_);
    stopping_ = true;
    end.emplace(end_);
    changed_.NotifyAll();
  }
  end->request_stop();
  thread_.Join();
  MutexLock lock(mu_);
  if (!order_) return;
  order_->reactor->Finish(ToGrpc(absl::UnavailableError("the rank stops")));
  order_.reset();
}

std::string RankServer::group_address() const {
  return HostPort{options_.transport.host, static_cast<uint16_t>(host_->port())}.ToString();
}

Status RankServer::Preload() {
  if (options_.rank >= 0) return Prepare(static_cast<uint32_t>(options_.rank));
  for (uint32_t rank = 1; rank < options_.split.ranks(); ++rank) RETURN_IF_ERROR(Prepare(rank));
  return absl::OkStatus();
}

Status RankServer::Prepare(uint32_t rank) {
  const kv::RankPlace at = kv::PlaceOf(options_.split, rank);
  const Place place{at.stage, at.tensor};
  if (models_.contains(place)) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::unique_ptr<RankModel> model,
                   RankModel::Load(options_.model, options_.on, options_.split, rank));
  MutexLock lock(mu_);
  models_.emplace(place, std::move(model));
  ready_.clear();
  for (uint32_t r = 1; r < options_.split.ranks(); ++r) {
    const kv::RankPlace other = kv::PlaceOf(options_.split, r);
    if (models_.contains({other.stage, other.tensor})) ready_.push_back(r);
  }
  return absl::OkStatus();
}

void RankServer::AddMetrics(MetricsRegistry* metrics) {
  const auto counter = [&](const char* name, const char* help, const std::atomic<uint64_t>& value) {
    metrics->RegisterCallbackCounter(name, help, [&value] {
      return static_cast<double>(value.load(std::memory_order_relaxed));
    });
  };
  counter("reprise_rank_epochs_total", "Epochs of groups that this process joined.", epochs_);
  counter("reprise_rank_steps_total", "Steps computed with a group.", counters_.steps);
  counter("reprise_rank_rows_total", "Positions whose KV rows this rank computed.", counters_.rows);
  counter("reprise_rank_pages_loaded_total", "Pages given by the driver.", counters_.pages_loaded);
}

grpc::ServerUnaryReactor* RankServer::Look(grpc::CallbackServerContext* context,
                                           const v1::LookRequest*, v1::LookResponse* response) {
  response->set_name(options_.name);
  response->set_incarnation(incarnation_);
  response->set_group_address(group_address());
  MutexLock lock(mu_);
  response->set_owner(owner_);
  for (const uint32_t rank : ready_) response->add_places_ready(rank);
  return Answer(context, absl::OkStatus());
}

StatusOr<RankServer::Order> RankServer::Parse(const v1::JoinRequest& request) const {
  Order order;
  if (request.owner().empty() || request.owner().size() > limits::kNodeNameBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("owner has ", request.owner().size(),
                                                   " bytes, allowed are 1 to ",
                                                   limits::kNodeNameBytesMax));
  }
  ASSIGN_OR_RETURN(order.spec.split, parallel::ParseGroupShape(request.shape()));
  order.spec.split.stripe_leaves = request.stripe_leaves();
  if (!(order.spec.split == options_.split)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the group is ", parallel::GroupShapeText(order.spec.split), " in stripes of ",
        request.stripe_leaves(), ", this process serves ", parallel::GroupShapeText(options_.split),
        " in stripes of ", options_.split.stripe_leaves));
  }
  if (request.rank() == 0 || request.rank() >= order.spec.split.ranks()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rank is ", request.rank(), ", allowed are 1 to ", order.spec.split.ranks() - 1));
  }
  if (static_cast<uint32_t>(request.addresses_size()) != order.spec.split.ranks()) {
    return absl::InvalidArgumentError(absl::StrCat(request.addresses_size(), " addresses for ",
                                                   order.spec.split.ranks(), " ranks"));
  }
  for (const std::string& address : request.addresses()) {
    ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
    order.spec.addresses.push_back({at.host, at.port});
  }
  if (request.pages() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("pages is ", request.pages()));
  }
  order.spec.group = request.group();
  order.spec.epoch = request.epoch();
  order.spec.rank = request.rank();
  order.owner = request.owner();
  order.generation = request.generation();
  order.terms = {.format_text = request.format_text(),
                 .tensor_sums = {request.tensor_sums().begin(), request.tensor_sums().end()},
                 .pages = request.pages()};
  return order;
}

Status RankServer::Admit(const Order& order) {
  if (stopping_) return absl::UnavailableError("the rank stops");
  if (!owner_.empty() && owner_ != order.owner) {
    return absl::ResourceExhaustedError(
        absl::StrCat("this process is a rank of ", owner_, ", not free for ", order.owner));
  }
  if (owner_.empty()) return absl::OkStatus();
  if (order.generation < generation_ ||
      (order.generation == generation_ && order.spec.epoch <= epoch_)) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", order.spec.epoch, " of process ", order.generation, " of ",
                     order.owner, " comes after epoch ", epoch_, " of ", generation_));
  }
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* RankServer::Join(grpc::CallbackServerContext* context,
                                           const v1::JoinRequest* request,
                                           v1::JoinResponse* response) {
  StatusOr<Order> order = Parse(*request);
  if (!order.ok()) return Answer(context, order.status());
  grpc::ServerUnaryReactor* reactor = nullptr;
  std::optional<std::stop_source> end;
  {
    MutexLock lock(mu_);
    if (const Status status = Admit(*order); !status.ok()) return Answer(context, status);
    if (order_) order_->reactor->Finish(ToGrpc(absl::AbortedError("a later epoch has begun")));
    owner_ = order->owner;
    generation_ = order->generation;
    epoch_ = order->spec.epoch;
    reactor = context->DefaultReactor();
    order->reactor = reactor;
    order->response = response;
    order_ = *std::move(order);
    end.emplace(end_);
    changed_.NotifyAll();
  }
  end->request_stop();
  return reactor;
}

StatusOr<RankModel*> RankServer::MakeReady(const Order& order, int64_t* load_ms) {
  const TimeNs start = RealClock().NowNs();
  const kv::RankPlace at = kv::PlaceOf(options_.split, order.spec.rank);
  const bool ready = models_.contains({at.stage, at.tensor});
  RETURN_IF_ERROR(Prepare(order.spec.rank));
  if (!ready) *load_ms = std::max<int64_t>(1, (RealClock().NowNs() - start) / kMillisecond);
  RankModel* const model = models_.at({at.stage, at.tensor}).get();
  RETURN_IF_ERROR(model->CheckTerms(order.terms));
  RETURN_IF_ERROR(model->AttachPool(order.terms.pages));
  return model;
}

Status RankServer::EndReason() const {
  MutexLock lock(mu_);
  return stopping_ ? absl::UnavailableError("a rank stops")
                   : absl::AbortedError("a later epoch has begun");
}

Status RankServer::Serve(const Order& order, RankModel& model, const std::stop_token& end) {
  ASSIGN_OR_RETURN(GroupLinks joined,
                   JoinLinks(*host_, order.spec, RealClock().NowNs() + options_.connect_ns, end,
                             model.link_maker()));
  RankFollower follower(model, joined, counters_);
  RETURN_IF_ERROR(model.SetLinks(joined));
  epochs_.fetch_add(1, std::memory_order_relaxed);
  LogInfo("rank_joined",
          {{"owner", order.owner}, {"epoch", order.spec.epoch}, {"rank", order.spec.rank}});
  Status ended;
  {
    const std::stop_callback on_end(end, [&] { joined.Abort(EndReason()); });
    ended = follower.Follow();
  }
  joined.Abort(ended);
  joined = {};  // before the follower, whose memory it may still use
  return ended;
}

void RankServer::Loop() {
  for (;;) {
    Order order;
    std::stop_token end;
    {
      MutexLock lock(mu_);
      while (!order_ && !stopping_) changed_.Wait(mu_);
      if (stopping_) return;
      order = *std::exchange(order_, std::nullopt);
      end_ = std::stop_source();
      end = end_.get_token();
    }
    int64_t load_ms = 0;
    const StatusOr<RankModel*> model = MakeReady(order, &load_ms);
    order.response->set_load_ms(load_ms);
    order.reactor->Finish(ToGrpc(model.status()));
    const Status ended = model.ok() ? Serve(order, **model, end) : model.status();
    LogInfo("rank_free", {{"owner", order.owner}, {"epoch", order.spec.epoch}, {"status", ended}});
    MutexLock lock(mu_);
    if (!order_) owner_.clear();
  }
}

}  // namespace reprise::worker
