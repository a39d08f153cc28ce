#include "gateway/server/placement_client.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/clock.h"
#include "common/grpc_status.h"
#include "common/rpc_server.h"

namespace reprise::gateway {
namespace {

constexpr int64_t kRetryAfterMs = 1000;
constexpr absl::string_view kNotTheLeader = "not the leader";
// Between rounds of the coordinators without a leader; an election takes most of a second.
constexpr TimeNs kBackoffFirstNs = 20 * kMillisecond;
constexpr TimeNs kBackoffMaxNs = 200 * kMillisecond;

}  // namespace

// A placement on its way: tried at one coordinator after the other until one that leads answers.
struct PlacementClient::Placing final : public TimerQueue::Client,
                                        public std::enable_shared_from_this<Placing> {
  Placing(PlacementClient& owner, Gate::Holder in) : client(owner), inside(std::move(in)) {}
  void OnTimer(TimeNs) override {
    if (const auto self = std::move(waiting)) client.Try(self);
  }

  PlacementClient& client;
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

PlacementClient::PlacementClient(PlacementOptions options, TimerQueue& timers,
                                 LeaderEpoch& leader_epoch)
    : options_(std::move(options)), timers_(timers), leader_epoch_(leader_epoch) {
  for (const std::string& address : options_.coordinators) {
    Door door{.address = address, .channel = ClusterChannel(address), .stub = nullptr};
    door.stub = v1::Coordinator::NewStub(door.channel);
    doors_.push_back(std::move(door));
  }
}

PlacementClient::~PlacementClient() { Stop(); }

void PlacementClient::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  gate_.Close();
}

void PlacementClient::Place(v1::PlaceRequest request, int64_t timeout_ms, Placed placed) {
  auto inside = gate_.Enter();
  if (!inside) {
    placed(absl::UnavailableError("the gateway is stopping"), {});
    return;
  }
  const auto placing = std::make_shared<Placing>(*this, std::move(*inside));
  placing->request = std::move(request);
  placing->placed = std::move(placed);
  placing->until = RealClock().NowNs() + NsFromMs(std::min(timeout_ms, options_.timeout_ms));
  {
    MutexLock lock(mu_);
    placing->door = leader_;
  }
  Try(placing);
}

void PlacementClient::Try(const std::shared_ptr<Placing>& placing) {
  const Door& door = doors_[placing->door];
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

Status PlacementClient::JudgeAnswer(const Placing& placing, const grpc::Status& status) {
  const Door& door = doors_[placing.door];
  if (status.ok()) {
    if (leader_epoch_.Take(placing.response.leader_epoch())) return absl::OkStatus();
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

void PlacementClient::OnAnswer(const std::shared_ptr<Placing>& placing,
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

void PlacementClient::TryNext(const std::shared_ptr<Placing>& placing, const Status& why) {
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
size_t PlacementClient::LeaderAfter(size_t door, absl::string_view refusal) const {
  for (size_t i = 0; i < doors_.size(); ++i) {
    if (i != door && absl::EndsWith(refusal, absl::StrCat(" at ", doors_[i].address))) return i;
  }
  return (door + 1) % doors_.size();
}

}  // namespace reprise::gateway
