#include "tests/simulation/sim_worker.h"

#include <algorithm>
#include <utility>

#include "tests/simulation/sim_store.h"

namespace reprise::sim {
namespace {

constexpr TimeNs kDrainDeadline = 3 * kSecond;
constexpr int32_t kSwapHostSlots = 24;
constexpr int32_t kSwapDiskSlots = 48;

worker::CoreSettings SettingsOf(const Context& context, const NodeKey& key,
                                const WorkerSize& size) {
  worker::CoreSettings settings;
  settings.self.key = key;
  settings.chain = context.chain;
  settings.pages = size.pages;
  settings.vocab_size = context.model.vocab_size;
  settings.context_tokens = context.model.context_tokens;
  settings.chunk_tokens = size.chunk_tokens;
  settings.running_max = 12;
  settings.waiting_max = 24;
  settings.local_suffix_tokens = 6;
  settings.can_decode = size.can_decode;
  settings.fetch_timeout_ns = 3 * kSecond;
  settings.leg_timeout_ns = 15 * kSecond;
  settings.leg_linger_ns = 5 * kSecond;
  settings.failure_domain = key.name;
  settings.two_forms = context.model.two_forms;
  settings.row_bytes = static_cast<int64_t>(context.model.row_bytes) * context.model.layers;
  // Small enough for a slow store to be felt.
  settings.append_bytes_max = 24 * settings.row_bytes;
  settings.swap_host_slots = kSwapHostSlots;
  settings.swap_disk_slots = kSwapDiskSlots;
  // As for a link worth using: the simulated prefill is slow.
  settings.prefill_tokens_per_s = 200;
  return settings;
}

}  // namespace

SimWorker::SimWorker(Context& context, const NodeKey& key, const WorkerSize& size,
                     const Peers& peers)
    : context_(context),
      world_(context.world),
      key_(key),
      pid_(context.world.Spawn(key.name)),
      size_(size),
      peers_(peers),
      core_(SettingsOf(context, key, size)),
      pool_(static_cast<size_t>(size.pages) * context.block_bytes()),
      reporters_(context.coordinators.size(), kv::EventReporter(&events_)),
      pins_(static_cast<size_t>(size.pages)),
      unlisted_(static_cast<size_t>(size.pages)),
      stream_(context, key, pid_, [this](const kv::BlockId& id) { return Find(id); }),
      replicas_(
          context, key, pid_,
          [this](const NodeKey& store, std::vector<kv::HeldRows> held) {
            OnHeld(store, std::move(held));
          },
          [this](const NodeKey& store, const Status& why) {
            world_.Trace(key_.name, ": replica at ", store.name, " lost: ", why.message());
            Handle(worker::ReplicaLost{store, why});
          }),
      reports_(
          context, pid_, info(),
          {.fill =
               [this](size_t index, coordinator::Report& report) {
                 const worker::PagePool::Counts& pages = core_.pages();
                 report.load.running = core_.running();
                 report.load.waiting = core_.waiting();
                 report.load.queued_prefill_tokens = core_.queued_prefill_tokens();
                 report.load.blocks_total = pages.total;
                 report.load.blocks_free = pages.free;
                 report.load.blocks_cached = pages.cached;
                 report.load.blocks_quarantined = pages.quarantined;
                 report.load.progress = progress_;
                 report.load.busy = core_.step_in_flight();
                 report.load.stranded_bytes =
                     core_.stranded_pages() * static_cast<int64_t>(context_.block_bytes());
                 report.leaving = core_.draining();
                 for (const RequestKey& request : core_.Decoding()) {
                   coordinator::RequestReport told{.request_id = request.id,
                                                   .attempt = request.attempt};
                   told.decoding = true;
                   if (const auto digest = digests_.find(request.id); digest != digests_.end()) {
                     told.handle_digest = digest->second;
                   }
                   report.requests.push_back(std::move(told));
                 }
                 FillKv(reporters_[index].Prepare(), report);
               },
           .answered =
               [this](size_t index, const coordinator::ReportAnswer& answer) {
                 reporters_[index].OnAnswer(KvAnswer(answer));
                 return reporters_[index].behind();
               },
           .ordered = [this](size_t, const coordinator::ReportAnswer& answer) { Obey(answer); }}) {
  reports_.Start();
}

coordinator::NodeInfo SimWorker::info() const {
  coordinator::NodeInfo info;
  info.ref.key = key_;
  info.role = coordinator::Role::kWorker;
  info.failure_domain = key_.name;
  info.can_prefill = true;
  info.can_decode = size_.can_decode;
  info.model.name = "timed";
  info.model.format_digest = context_.chain.format_digest;
  info.model.block_tokens = context_.chain.block_tokens;
  info.model.vocab_size = context_.model.vocab_size;
  info.model.context_tokens = context_.model.context_tokens;
  return info;
}

// Events and commands ----------------------------------------------------------------------------

void SimWorker::Handle(worker::Event event) {
  core_.Handle(std::move(event), Now());
  Pump();
}

bool SimWorker::RunCommands() {
  std::vector<worker::Command> commands = core_.TakeCommands();
  for (const worker::Command& command : commands) {
    std::visit([this](const auto& typed) { Run(typed); }, command);
  }
  const std::vector<worker::PageId> quiet = std::exchange(quiet_, {});
  for (const worker::PageId page : quiet) core_.Handle(worker::PageQuiet{page}, Now());
  return !commands.empty() || !quiet.empty();
}

void SimWorker::Pump() {
  for (;;) {
    while (RunCommands()) {
    }
    if (core_.step_in_flight()) break;
    std::optional<worker::StepPlan> plan = core_.PlanStep(Now());
    const bool commands = RunCommands();
    if (plan) StartStep(*std::move(plan));
    if (!plan && !commands) break;
  }
  ArmTick();
}

void SimWorker::ArmTick() {
  const std::optional<TimeNs> next = core_.NextTick();
  if (!next) return;
  const uint64_t tick = ++tick_;
  const TimeNs delay = std::max<TimeNs>(0, *next - Now());
  world_.After(delay, {"worker_tick", pid_, pid_, 0}, [this, tick] {
    if (tick == tick_) Handle(worker::Tick{});
  });
}

void SimWorker::Run(const worker::StartFetch& command) {
  KvFetch spec;
  spec.source = command.source.key;
  spec.request = command.key;
  spec.subscribe = command.subscribe;
  spec.timeout = command.timeout_ns;
  for (const auto& item : command.items) {
    spec.items.push_back({item.id, item.first_position, PageData(item.page)});
  }
  spec.done = [this, id = command.fetch](const std::vector<Status>& items) {
    fetches_.erase(id);
    for (const Status& status : items) world_.Trace(key_.name, ": fetched ", status.ToString());
    Handle(worker::FetchDone{id, items});
  };
  fetches_[command.fetch] = stream_.Fetch(std::move(spec));
}

void SimWorker::Run(const worker::CancelFetch& command) {
  const auto found = fetches_.find(command.fetch);
  if (found != fetches_.end()) stream_.Cancel(found->second);
}

void SimWorker::Run(const worker::CallPrefill& command) {
  const LegKey leg{command.leg.key, command.leg.leg};
  const auto fail = [this, leg] {
    if (legs_called_.erase(leg) == 0) return;
    Handle(worker::PrefillReply{leg.first, leg.second, absl::UnavailableError("leg lost"), {}, 0});
  };
  SimWorker* const peer = peers_.worker(command.node.key);
  if (peer == nullptr) {
    legs_called_[leg] = 0;
    world_.After(kMillisecond, {"refused", pid_, pid_, 0}, fail);
    return;
  }
  const StreamId call = context_.network.Connect("leg", {pid_, fail},
                                                 {peer->pid_, [peer, leg] {
                                                    // The caller left.
                                                    peer->OnCancelPrefill({leg.first, leg.second});
                                                  }});
  legs_called_[leg] = call;
  int64_t deadline_ms = 0;
  if (command.leg.deadline_ns != 0) {
    deadline_ms = std::max<int64_t>(1, (command.leg.deadline_ns - Now()) / kMillisecond);
  }
  const Label back{"leg_answer", peer->pid_, pid_, Digest().Key(leg.first).value()};
  LegCaller caller;
  caller.started = [this, call, back, leg] {
    context_.network.Send(call, back, [this, leg] {
      if (legs_called_.contains(leg)) Handle(worker::PrefillStarted{leg.first, leg.second});
    });
  };
  caller.reply = [this, call, back, leg](const worker::PrefillReply& reply) {
    context_.network.Send(call, back, [this, call, leg, reply] {
      context_.network.Close(call);
      if (legs_called_.erase(leg) > 0) Handle(reply);
    });
  };
  context_.network.Send(call, {"prefill", pid_, peer->pid_, Digest().Key(leg.first).value()},
                        [peer, order = command.leg, deadline_ms, caller] {
                          peer->OnPrefill(order, deadline_ms, caller);
                        });
}

void SimWorker::OnPrefill(worker::SubmitPrefill leg, int64_t deadline_ms, LegCaller caller) {
  leg.deadline_ns = deadline_ms == 0 ? 0 : Now() + NsFromMs(deadline_ms);
  legs_served_[{leg.key, leg.leg}] = std::move(caller);
  Handle(std::move(leg));
}

void SimWorker::Run(const worker::ReleasePrefill& command) {
  SimWorker* const peer = peers_.worker(command.node.key);
  if (peer == nullptr) return;
  context_.network.Datagram(
      {"release", pid_, peer->pid_, Digest().Key(command.key).U64(command.leg).value()},
      [peer, cancel = worker::CancelPrefill{command.key, command.leg}] {
        peer->OnCancelPrefill(cancel);
      });
}

void SimWorker::Run(const worker::AcceptPrefill& command) {
  const auto found = legs_served_.find({command.key, command.leg});
  if (found != legs_served_.end()) found->second.started();
}

void SimWorker::Run(const worker::ReplyPrefill& command) {
  const auto found = legs_served_.find({command.key, command.leg});
  if (found == legs_served_.end()) return;
  found->second.reply(
      {command.key, command.leg, command.status, command.first, command.cached_tokens});
  legs_served_.erase(found);
}

// Requests ---------------------------------------------------------------------------------------

void SimWorker::Run(const worker::Emit& command) {
  const std::string& id = command.key.id;
  if (command.stores) replica_sets_[id] = *command.stores;
  const auto link = link_of_.find(command.key);
  if (link != link_of_.end()) {
    context_.on_emit(command, replica_sets_[id]);
    worker::Emit told = command;
    if (told.attached && told.attached->deadline_ns != 0) {
      // What is left: clocks are each process's own.
      told.attached->deadline_ns = std::max(kMillisecond, told.attached->deadline_ns - Now());
    }
    SendTo(link->second, std::move(told));
  }
  if (command.done) link_of_.erase(command.key);
}

void SimWorker::SendTo(StreamId link, std::optional<worker::Emit> emit) {
  const auto deliver = links_.find(link);
  if (deliver == links_.end()) return;
  deliver->second({progress_, core_.step_in_flight(), std::move(emit)});
}

void SimWorker::OnLinkOpened(StreamId link, Deliver deliver) { links_[link] = std::move(deliver); }

bool SimWorker::Serves(StreamId link) const {
  return std::any_of(link_of_.begin(), link_of_.end(),
                     [link](const auto& entry) { return entry.second == link; });
}

// While the stream has requests, something is heard of this worker.
void SimWorker::Beat(StreamId link) {
  if (!links_.contains(link) || !Serves(link)) {
    beating_.erase(link);
    return;
  }
  SendTo(link, std::nullopt);
  world_.After(limits::kServeHeartbeatMs * kMillisecond, {"beat", pid_, pid_, link},
               [this, link] { Beat(link); });
}

void SimWorker::OnLinkLost(StreamId link) {
  links_.erase(link);
  std::vector<RequestKey> orphans;
  for (const auto& [request, their_link] : link_of_) {
    if (their_link == link) orphans.push_back(request);
  }
  for (const RequestKey& request : orphans) OnDetach(request);
}

void SimWorker::OnDetach(const RequestKey& request) {
  link_of_.erase(request);
  Handle(worker::Orphan{request});
}

// False: the order is of a leader long replaced.
bool SimWorker::Obeys(StreamId link, const RequestKey& key, uint64_t epoch) {
  if (reports_.SawEpoch(epoch)) return true;
  worker::Emit emit;
  emit.key = key;
  emit.done = worker::Done{absl::UnavailableError("placed by a leader long replaced"), 0};
  SendTo(link, std::move(emit));
  return false;
}

void SimWorker::OnSubmit(StreamId link, worker::Submit submit, int64_t deadline_ms,
                         uint64_t epoch) {
  if (!Obeys(link, submit.key, epoch)) return;
  context_.journal->Owned(submit.key, pid_);
  link_of_[submit.key] = link;
  if (beating_.insert(link).second) Beat(link);
  replica_sets_[submit.key.id] = submit.stores;
  digests_.erase(submit.key.id);
  if (!submit.resume_handle.empty()) digests_[submit.key.id] = DigestOfHandle(submit.resume_handle);
  if (context_.mutated(Mutation::kTailUnchecked)) submits_[submit.key.id] = submit;
  stream_.NoteAttempt(submit.key);
  submit.deadline_ns = deadline_ms == 0 ? 0 : Now() + NsFromMs(deadline_ms);
  Handle(std::move(submit));
}

void SimWorker::OnAttach(StreamId link, const worker::Attach& attach, uint64_t epoch) {
  if (!Obeys(link, attach.key, epoch)) return;
  context_.journal->Owned(attach.key, pid_);
  link_of_[attach.key] = link;
  if (beating_.insert(link).second) Beat(link);
  Handle(attach);
}

void SimWorker::Drain(TimeNs deadline) {
  if (core_.draining()) return;
  world_.Trace(key_.name, " drains");
  Handle(worker::Drain{Now() + deadline});
}

void SimWorker::Obey(const coordinator::ReportAnswer& answer) {
  if (answer.drain)
    Drain(answer.drain_deadline_ms == 0 ? kDrainDeadline : NsFromMs(answer.drain_deadline_ms));
  if (answer.verdicts) {
    for (const coordinator::Verdict& verdict : answer.verdicts->items) {
      replicas_.GiveUp(verdict.node, absl::UnavailableError(verdict.reason));
    }
  }
  if (!answer.stores) return;
  worker::LiveStores live;
  for (const coordinator::StoreInfo& store : answer.stores->items) {
    live.stores.push_back({{store.ref.key, "", ""}, store.failure_domain});
  }
  Handle(std::move(live));
}

// Checks -----------------------------------------------------------------------------------------

void SimWorker::Check() {
  worst_lag_ = std::max(worst_lag_, core_.Lag(Now()).ns);
  if (core_.Conserved()) return;
  const worker::PagePool::Counts& pages = core_.pages();
  world_.Fail(absl::StrCat(key_.name, ": pages are not conserved: used ", pages.used, " free ",
                           pages.free, " cached ", pages.cached, " quarantined ", pages.quarantined,
                           " total ", pages.total, ", violations ", core_.violations()));
}

void SimWorker::CheckQuiet() {
  const worker::PagePool::Counts& pages = core_.pages();
  const bool quiet = core_.idle() && pages.used == 0 && pages.quarantined == 0 &&
                     stream_.fetches() == 0 && stream_.serving() == 0 && fetches_.empty() &&
                     replica_orders_.empty() && core_.stranded_pages() == 0;
  if (quiet) return;
  world_.Fail(absl::StrCat(key_.name, " is not quiet: idle ", core_.idle(), ", pages used ",
                           pages.used, " quarantined ", pages.quarantined, ", ", stream_.fetches(),
                           " fetches, ", stream_.serving(), " served"));
}

}  // namespace reprise::sim
