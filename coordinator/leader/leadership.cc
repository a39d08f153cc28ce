#include "coordinator/leader/leadership.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "common/rpc_server.h"

namespace reprise::coordinator {
namespace {

// A peer that has not answered by the next beats but one is not waited for.
constexpr int64_t kBeatTimeoutMs = 300;

struct BeatCall {
  explicit BeatCall(Gate::Holder in) : inside(std::move(in)) {
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(kBeatTimeoutMs));
  }
  Gate::Holder inside;
  grpc::ClientContext context;
  v1::LeadRequest request;
  v1::LeadResponse response;
};

}  // namespace

struct Leadership::Peer {
  explicit Peer(const std::string& address)
      : stub(v1::Coordinator::NewStub(ClusterChannel(address))) {}
  const std::unique_ptr<v1::Coordinator::Stub> stub;
};

Leadership::Leadership(LeadershipOptions options, const Clock& clock, Changed changed)
    : options_(std::move(options)),
      clock_(clock),
      changed_(std::move(changed)),
      etcd_(options_.etcd),
      core_(options_.core, clock.NowNs()) {
  for (const std::string& peer : options_.peers) {
    if (peer != options_.core.address) peers_.push_back(std::make_unique<Peer>(peer));
  }
}

Leadership::~Leadership() { Stop(); }

void Leadership::Start() {
  thread_ = Thread("leader", [this] { Loop(); });
}

void Leadership::Stop() {
  stop_.Stop();
  thread_.Join();
  gate_.Close();
}

Leadership::View Leadership::ViewLocked() const {
  return {.leads = core_.state() == LeaderCore::State::kLeader,
          .epoch = core_.epoch(),
          .leader = core_.leader(),
          .elections = core_.elections(),
          .steps_down = core_.steps_down(),
          .failed = core_.failed()};
}

Leadership::View Leadership::view() const {
  MutexLock lock(mu_);
  return ViewLocked();
}

Status Leadership::CheckOrders() const {
  MutexLock lock(mu_);
  if (core_.MayOrder(clock_.NowNs())) return absl::OkStatus();
  if (core_.state() == LeaderCore::State::kLeader) {
    return absl::UnavailableError(absl::StrCat("not sure to be the leader: ", options_.core.name,
                                               " did not run for a while, epoch ", core_.epoch(),
                                               "; it listens to its peers first"));
  }
  if (!core_.leader()) {
    return absl::UnavailableError(
        absl::StrCat("not the leader: nobody is known to lead, epoch ", core_.epoch()));
  }
  return absl::UnavailableError(absl::StrCat("not the leader: ", core_.leader()->name, " at ",
                                             core_.leader()->address, ", epoch ", core_.epoch()));
}

template <typename Event>
std::vector<LeaderCommand> Leadership::Feed(const Event& event) {
  View view;
  std::vector<LeaderCommand> commands;
  bool changed = false;
  {
    MutexLock lock(mu_);
    event(core_, clock_.NowNs());
    commands = core_.TakeCommands();
    view = ViewLocked();
    const std::pair now(view.leads, view.epoch);
    changed = std::exchange(told_, now) != now;
  }
  if (changed) {
    LogInfo(view.leads ? "leads" : "follows",
            {{"epoch", view.epoch}, {"leader", view.leader ? view.leader->name : "unknown"}});
    changed_(view);
  }
  return commands;
}

// Beats and epochs bring no commands: only ticks and etcd's answers do.
uint64_t Leadership::OnBeat(const LeaderRecord& leader) {
  uint64_t epoch = 0;
  Feed([&](LeaderCore& core, TimeNs now) { epoch = core.OnBeat(leader, now); });
  return epoch;
}

void Leadership::OnEpoch(uint64_t epoch) {
  {
    MutexLock lock(mu_);
    if (epoch <= core_.epoch()) return;  // nearly always
  }
  Feed([&](LeaderCore& core, TimeNs now) { core.OnEpoch(epoch, now); });
}

void Leadership::Loop() {
  while (!stop_.WaitFor(options_.core.tick_interval_ns)) {
    Execute(Feed([](LeaderCore& core, TimeNs now) { core.OnTick(now); }));
  }
}

StatusOr<StoredLeader> Leadership::Read() {
  ASSIGN_OR_RETURN(const EtcdClient::Stored stored, etcd_.Read());
  StoredLeader leader{.revision = stored.revision, .record = {}};
  if (stored.revision != 0) {
    ASSIGN_OR_RETURN(leader.record, ParseLeader(stored.value));
  }
  return leader;
}

void Leadership::Execute(std::vector<LeaderCommand> commands) {
  static LogEvery every(10 * kSecond);
  for (const LeaderCommand& command : commands) {
    if (const auto* beat = std::get_if<BeatPeers>(&command)) {
      Beat(beat->record);
    } else if (const auto* take = std::get_if<TakeKey>(&command)) {
      Failpoint("coordinator.lead.candidate");
      const auto taken = etcd_.Swap(take->revision, FormatLeader(take->record));
      Execute(Feed([&](LeaderCore& core, TimeNs now) { core.OnTaken(taken, now); }));
      if (taken.ok() && *taken) Failpoint("coordinator.lead.elected");
    } else {
      const auto read = Read();
      if (!read.ok() && every.Allow()) {
        LogWarning("cannot_elect", {{"key", options_.etcd.key}, {"status", read.status()}});
      }
      Execute(Feed([&](LeaderCore& core, TimeNs now) { core.OnRead(read, now); }));
    }
  }
}

void Leadership::Beat(const LeaderRecord& record) {
  for (const std::unique_ptr<Peer>& peer : peers_) {
    auto inside = gate_.Enter();
    if (!inside) return;
    auto call = std::make_shared<BeatCall>(std::move(*inside));  // lives until its answer
    call->request.set_epoch(record.epoch);
    call->request.set_name(record.name);
    call->request.set_grpc_address(record.address);
    peer->stub->async()->Lead(&call->context, &call->request, &call->response,
                              [this, call](const grpc::Status& status) {
                                if (status.ok()) OnEpoch(call->response.epoch());
                              });
  }
}

}  // namespace reprise::coordinator
