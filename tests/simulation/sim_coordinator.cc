#include "tests/simulation/sim_coordinator.h"

namespace reprise::sim {
namespace {

coordinator::CoreOptions OptionsOf(const Context& context, uint64_t incarnation) {
  coordinator::CoreOptions options;
  options.incarnation = incarnation;
  options.requests.epoch_base = static_cast<uint64_t>(context.world.now() / kMicrosecond);
  options.placement.remote_prefill_min_tokens = 12;
  options.placement.replica_stores = 1;
  // The simulated model is small, so are the weights of its choices.
  options.placement.running_tokens = 4;
  options.placement.waiting_tokens = 16;
  options.placement.mixed_prefill_tokens = 16;
  options.placement.waiting_without_room_max = 6;
  return options;
}

}  // namespace

SimCoordinator::SimCoordinator(Context& context, uint64_t incarnation)
    : context_(context),
      pid_(context.world.Spawn("coordinator")),
      core_(OptionsOf(context, incarnation), context.world.now()) {
  Tick();
}

void SimCoordinator::Tick() {
  core_.OnTick(context_.world.now());
  for (const coordinator::MembershipChange& change : core_.TakeChanges()) {
    context_.world.Trace("coordinator: ", change.key.name, "#", change.key.incarnation, " ",
                         coordinator::StateName(change.from), " -> ",
                         coordinator::StateName(change.to), " ", change.reason);
  }
  context_.world.After(50 * kMillisecond, {"tick", pid_, pid_, 0}, [this] { Tick(); });
}

StatusOr<coordinator::ReportAnswer> SimCoordinator::OnReport(const coordinator::Report& report) {
  return core_.OnReport(report, context_.world.now());
}

std::variant<coordinator::Placement, coordinator::Refusal> SimCoordinator::OnPlace(
    const coordinator::PlaceQuery& query) {
  return core_.OnPlace(query, context_.world.now());
}

}  // namespace reprise::sim
