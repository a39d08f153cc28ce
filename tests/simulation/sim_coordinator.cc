#include "tests/simulation/sim_coordinator.h"

#include <utility>

#include "tests/simulation/journal.h"

namespace reprise::sim {
namespace {

coordinator::CoreOptions OptionsOf(const Context& context, uint64_t incarnation, bool grouped) {
  coordinator::CoreOptions options;
  options.standby = grouped;
  options.incarnation = incarnation;
  options.requests.epoch_base = static_cast<uint64_t>(context.world.now() / kMicrosecond);
  options.placement.remote_prefill_min_tokens = 12;
  options.placement.replica_stores = static_cast<int32_t>(1 + context.world.seed() % 2);
  // The simulated model is small, so are the weights of its choices.
  options.placement.running_tokens = 4;
  options.placement.waiting_tokens = 16;
  options.placement.mixed_prefill_tokens = 16;
  options.placement.waiting_without_room_max = 6;
  return options;
}

}  // namespace

SimCoordinator::SimCoordinator(Context& context, size_t index, uint64_t incarnation, SimEtcd* etcd)
    : context_(context),
      index_(index),
      pid_(context.world.Spawn(absl::StrCat("coordinator", index))),
      etcd_(etcd),
      core_(OptionsOf(context, incarnation, etcd != nullptr), Now()) {
  if (etcd != nullptr) {
    coordinator::LeaderOptions options;
    options.name = absl::StrCat("coordinator", index);
    options.address = absl::StrCat("coordinator", index, ":1");
    options.seed = incarnation;
    leader_.emplace(options, Now());
  }
  Tick();
}

void SimCoordinator::Tick() {
  core_.OnTick(Now());
  if (leader_) {
    leader_->OnTick(Now());
    Settle();
  }
  for (const coordinator::MembershipChange& change : core_.TakeChanges()) {
    context_.world.Trace("coordinator: ", change.key.name, "#", change.key.incarnation, " ",
                         coordinator::StateName(change.from), " -> ",
                         coordinator::StateName(change.to), " ", change.reason);
  }
  context_.world.After(50 * kMillisecond, {"tick", pid_, pid_, 0}, [this] { Tick(); });
}

// Orders ----------------------------------------------------------------------------------------

StatusOr<coordinator::ReportAnswer> SimCoordinator::OnReport(const coordinator::Report& report) {
  if (leader_) {
    leader_->OnEpoch(report.leader_epoch, Now());
    Settle();
  }
  if (!context_.mutated(Mutation::kEpochGoesOn)) return core_.OnReport(report, Now());
  coordinator::Report meant = report;
  for (coordinator::RequestReport& request : meant.requests) {
    request.attempt = Meant({request.request_id, request.attempt});
  }
  return core_.OnReport(meant, Now());
}

// Of the planted bug: which attempt of the core an attempt it was made to grant stands for.
Attempt SimCoordinator::Meant(const RequestKey& shown) const {
  const auto found = shown_.find(shown);
  return found == shown_.end() ? shown.attempt : found->second;
}

SimCoordinator::Placed SimCoordinator::PlaceCountingOn(const coordinator::PlaceQuery& query) {
  coordinator::PlaceQuery meant = query;
  if (query.previous) meant.previous = Meant({query.request_id, *query.previous});
  Placed placed = core_.OnPlace(meant, Now());
  auto* const placement = std::get_if<coordinator::Placement>(&placed);
  if (placement == nullptr || !query.previous || query.attach) return placed;
  const Attempt shown{query.previous->owner_epoch, query.previous->n + 1};
  shown_[{query.request_id, shown}] = std::exchange(placement->attempt, shown);
  return placed;
}

StatusOr<SimCoordinator::Placed> SimCoordinator::OnPlace(const coordinator::PlaceQuery& query) {
  if (!leads()) return absl::UnavailableError("not the leader");
  Placed placed = context_.mutated(Mutation::kEpochGoesOn) ? PlaceCountingOn(query)
                                                           : core_.OnPlace(query, Now());
  if (const auto* placement = std::get_if<coordinator::Placement>(&placed)) {
    context_.journal->Granted(query.request_id, placement->attempt, pid_);
  }
  return placed;
}

Status SimCoordinator::OnDrain(const std::string& node, int64_t deadline_ms) {
  if (!leads()) return absl::UnavailableError("not the leader");
  return core_.OnDrain(node, deadline_ms).status();
}

// Leadership -------------------------------------------------------------------------------------

uint64_t SimCoordinator::OnBeat(const coordinator::LeaderRecord& leader) {
  const uint64_t epoch = leader_->OnBeat(leader, Now());
  Settle();
  return epoch;
}

void SimCoordinator::Settle() {
  const std::pair now{leader_->state() == coordinator::LeaderCore::State::kLeader,
                      leader_->epoch()};
  if (now != told_) {
    told_ = now;
    context_.world.Trace("coordinator", index_, now.first ? " leads" : " follows", " in epoch ",
                         now.second);
    if (now.first) {
      context_.journal->Led(now.second, pid_);
      core_.Lead(now.second, Now());
    } else {
      core_.Follow(now.second);
    }
  }
  for (const coordinator::LeaderCommand& command : leader_->TakeCommands()) {
    std::visit([this](const auto& typed) { Do(typed); }, command);
  }
}

void SimCoordinator::Do(const coordinator::ReadKey&) {
  context_.network.Call({
      .label = {"etcd_read", pid_, etcd_->pid(), 0},
      .timeout = 500 * kMillisecond,
      .serve = [this]() -> Network::Reply {
        return [this, stored = etcd_->Read()] {
          leader_->OnRead(stored, Now());
          Settle();
        };
      },
      .failed =
          [this](const Status& status) {
            leader_->OnRead(status, Now());
            Settle();
          },
  });
}

void SimCoordinator::Do(const coordinator::TakeKey& command) {
  context_.network.Call({
      .label = {"etcd_take", pid_, etcd_->pid(), command.record.epoch},
      .timeout = 500 * kMillisecond,
      .serve = [this, command]() -> Network::Reply {
        return [this, taken = etcd_->Take(command)] {
          leader_->OnTaken(taken, Now());
          Settle();
        };
      },
      .failed =
          [this](const Status& status) {
            leader_->OnTaken(status, Now());
            Settle();
          },
  });
}

void SimCoordinator::Do(const coordinator::BeatPeers& command) {
  for (SimCoordinator* const peer : context_.coordinators) {
    if (peer == nullptr || peer == this) continue;
    context_.network.Call({
        .label = {"beat", pid_, peer->pid(), command.record.epoch},
        .timeout = 500 * kMillisecond,
        .repeatable = true,
        .serve = [this, peer, record = command.record]() -> Network::Reply {
          return [this, epoch = peer->OnBeat(record)] {
            leader_->OnEpoch(epoch, Now());
            Settle();
          };
        },
        .failed = [](const Status&) {},
    });
  }
}

}  // namespace reprise::sim
