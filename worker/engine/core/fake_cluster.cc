#include "worker/engine/core/fake_cluster.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace reprise::worker {

FakeCluster::FakeCluster(uint64_t seed, TimeNs delay_max_ns)
    : delay_max_(delay_max_ns), random_(seed) {
  model_.vocab_size = 64;
  model_.context_tokens = 96;
  model_.layers = 2;
  model_.row_bytes = 8;
  model_.block_tokens = 4;
  model_.two_forms = seed % 2 == 0;
}

CoreSettings FakeCluster::Settings(const std::string& name) const {
  CoreSettings settings;
  settings.self = Node(name);
  settings.chain.format_digest = TimedFormat(model_).Digest();
  settings.chain.block_tokens = static_cast<int>(model_.block_tokens);
  settings.two_forms = model_.two_forms;
  settings.pages = 32;
  settings.vocab_size = model_.vocab_size;
  settings.context_tokens = model_.context_tokens;
  settings.chunk_tokens = 8;
  settings.running_max = 8;
  settings.waiting_max = 64;
  settings.row_bytes = static_cast<int64_t>(model_.layers) * model_.row_bytes;
  settings.link_latency_ns = 1;
  settings.append_rows = 1;
  return settings;
}

NodeRef FakeCluster::Node(const std::string& name) const { return NodeRef{{name, 7}, name, name}; }

void FakeCluster::AddWorker(const CoreSettings& settings) {
  Worker& worker = workers_[settings.self.key.name];
  worker.core = std::make_unique<WorkerCore>(settings);
  TimedOptions options;
  options.model = model_;
  worker.executor = std::move(*TimedExecutor::Create(options));
  worker.memory.assign(
      worker.executor->info().kv_format.block_bytes() * static_cast<size_t>(settings.pages), 0xEE);
  worker.executor->AttachPool(worker.memory.data(), settings.pages);
}

uint8_t* FakeCluster::Page(const std::string& name, PageId page) {
  Worker& worker = workers_.at(name);
  const size_t bytes = worker.executor->info().kv_format.block_bytes();
  return worker.memory.data() + static_cast<size_t>(page) * bytes;
}

void FakeCluster::After(TimeNs delay_ns, std::function<void()> action) {
  actions_.emplace(std::pair(now_ + delay_ns, next_action_++), std::move(action));
}

void FakeCluster::Send(const std::string& worker, Event event) {
  if (faults.duplicate > 0 && random_.Chance(faults.duplicate) &&
      (std::holds_alternative<Submit>(event) || std::holds_alternative<SubmitPrefill>(event))) {
    After(Delay(), [this, worker, copy = event] { Deliver(worker, copy); });
  }
  Deliver(worker, std::move(event));
}

void FakeCluster::Deliver(const std::string& name, Event event) {
  workers_.at(name).core->Handle(std::move(event), now_);
  Check(name);
  Pump(name);
}

void FakeCluster::Check(const std::string& name) {
  if (!workers_.at(name).core->Conserved() && trouble.empty()) {
    trouble = absl::StrCat("pages of ", name, " are not conserved");
  }
}

void FakeCluster::Pump(const std::string& name) {
  WorkerCore& core = *workers_.at(name).core;
  for (;;) {
    for (auto commands = core.TakeCommands(); !commands.empty(); commands = core.TakeCommands()) {
      for (Command& command : commands) Execute(name, std::move(command));
    }
    std::optional<StepPlan> plan = core.PlanStep(now_);
    Check(name);
    const bool planned = plan.has_value();
    if (planned) Run(name, std::move(*plan));
    std::vector<Command> commands = core.TakeCommands();
    if (commands.empty()) return;
    for (Command& command : commands) Execute(name, std::move(command));
  }
}

// The whole step happens at its end, so whatever its plan points to had to stay.
void FakeCluster::Run(const std::string& name, StepPlan plan) {
  const size_t bytes = workers_.at(name).executor->info().kv_format.block_bytes();
  for (const StepPlan::PageCopy& copy : plan.copies) {
    std::memcpy(Page(name, copy.to), Page(name, copy.from), bytes);
  }
  After(1 + step_ns + Delay(), [this, name, plan = std::move(plan)] {
    TimedExecutor& executor = *workers_.at(name).executor;
    StepDone done;
    done.status = executor.RunAndSample(plan.items, plan.samples, nullptr, &done.samples);
    if (!done.status.ok() && trouble.empty()) trouble = std::string(done.status.message());
    Deliver(name, std::move(done));
  });
}

void FakeCluster::Execute(const std::string& name, Command command) {
  if (on_command) on_command(command);
  if (auto* fetch = std::get_if<StartFetch>(&command)) {
    Begin(name, std::move(*fetch));
  } else if (const auto* cancel = std::get_if<CancelFetch>(&command)) {
    After(Delay(), [this, key = TransferKey{name, cancel->fetch}] {
      EndWaiting(key, absl::CancelledError("cancelled"));
    });
  } else if (auto* call = std::get_if<CallPrefill>(&command)) {
    Call(name, std::move(*call));
  } else if (const auto* release = std::get_if<ReleasePrefill>(&command)) {
    After(Delay(), [this, order = *release] {
      Deliver(order.node.key.name, CancelPrefill{order.key, order.leg});
    });
  } else if (const auto* accept = std::get_if<AcceptPrefill>(&command)) {
    const auto caller = callers_.find({name, accept->key, accept->leg});
    if (caller == callers_.end()) return;
    After(Delay(), [this, to = caller->second, event = PrefillStarted{accept->key, accept->leg}] {
      Deliver(to, event);
    });
  } else if (auto* reply = std::get_if<ReplyPrefill>(&command)) {
    const auto caller = callers_.find({name, reply->key, reply->leg});
    if (caller == callers_.end()) return;
    After(Delay(), [this, to = caller->second,
                    event = PrefillReply{reply->key, reply->leg, reply->status, reply->first,
                                         reply->cached_tokens}] { Deliver(to, event); });
  } else if (const auto* list = std::get_if<ListBlock>(&command)) {
    workers_.at(name).directory[list->id] = {list->page, list->state != ListBlock::State::kPending};
    ServeWaiters(name, list->id);
  } else if (const auto* unlist = std::get_if<UnlistBlock>(&command)) {
    Unlist(name, *unlist);
  } else if (const auto* offer = std::get_if<OfferBlocks>(&command)) {
    Offer(name, *offer);
  } else if (const auto* append = std::get_if<AppendRows>(&command)) {
    Append(name, *append);
  } else if (const auto* query = std::get_if<QueryTails>(&command)) {
    Query(name, *query);
  } else if (const auto* out = std::get_if<SwapOut>(&command)) {
    Swap(name, *out);
  } else if (const auto* in = std::get_if<SwapIn>(&command)) {
    Swap(name, *in);
  } else if (const auto* done = std::get_if<ReleaseReplicas>(&command)) {
    After(Lane(name, done->store.key.name) - now_, [this, order = *done] {
      if (FakeStore* const store = Alive(order.store.key)) store->Release(order.key);
    });
  } else if (const auto* emit = std::get_if<Emit>(&command)) {
    Outcome& outcome = outcomes_[emit->key];
    for (const BranchToken& token : emit->tokens) outcome.tokens[token.branch].push_back(token);
    for (const BranchEnd& end : emit->ended) outcome.ended[end.branch] = end.reason;
    if (emit->done) outcome.dones.push_back(*emit->done);
    if (on_emit) on_emit(*emit);
  }
}

TimeNs FakeCluster::SwapDelay(const std::string& name, size_t pages) {
  TimeNs& until = workers_.at(name).swapping_until;
  until = std::max(until, now_) + 1 + swap_ns * static_cast<TimeNs>(pages) + Delay();
  return until - now_;
}

// Bytes are read and written at the end, so a page let go too early shows.
void FakeCluster::Swap(const std::string& name, const SwapOut& order) {
  After(SwapDelay(name, order.items.size()), [this, name, order] {
    Worker& worker = workers_.at(name);
    const size_t bytes = worker.executor->info().kv_format.block_bytes();
    SwapDone done{order.swap, absl::OkStatus(), false};
    if (random_.Chance(faults.fail_copy)) {
      done.status = absl::ResourceExhaustedError("no space left");
      done.disk = random_.Chance(0.5);
    }
    for (const SwapItem& item : order.items) {
      Worker::Copy& copy = worker.slots[item.slot];
      copy.ticket = done.status.ok() ? item.ticket : 0;
      const uint8_t* const page = Page(name, item.page);
      copy.bytes.assign(page, page + bytes);
    }
    Deliver(name, done);
  });
}

void FakeCluster::Swap(const std::string& name, const SwapIn& order) {
  After(SwapDelay(name, order.items.size()), [this, name, order] {
    FetchDone done{order.fetch, {}};
    for (const SwapItem& item : order.items) {
      const Worker::Copy& copy = workers_.at(name).slots[item.slot];
      const bool right = copy.ticket == item.ticket && !random_.Chance(faults.lose_copy);
      done.items.push_back(right ? absl::OkStatus() : absl::DataLossError("another copy"));
      // What does not verify may have been written all the same.
      if (!copy.bytes.empty())
        std::copy(copy.bytes.begin(), copy.bytes.end(), Page(name, item.page));
    }
    Deliver(name, done);
  });
}

void FakeCluster::Unlist(const std::string& name, const UnlistBlock& command) {
  Worker& worker = workers_.at(name);
  const auto listed = worker.directory.find(command.id);
  if (listed != worker.directory.end() && listed->second.page == command.page) {
    worker.directory.erase(listed);
    ServeWaiters(name, command.id);
  }
  if (worker.pins[command.page] > 0) {
    worker.retired[command.page] = true;
  } else {
    worker.core->Handle(PageQuiet{command.page}, now_);
    Check(name);
  }
}

void FakeCluster::Unpin(const std::string& name, PageId page) {
  Worker& worker = workers_.at(name);
  if (--worker.pins[page] > 0 || !std::exchange(worker.retired[page], false)) return;
  Deliver(name, PageQuiet{page});
}

void FakeCluster::Call(const std::string& caller, CallPrefill call) {
  const std::string target = call.node.key.name;
  const bool refused = random_.Chance(faults.refuse_call);
  if (refused) {
    After(Delay(), [this, caller, key = call.leg.key, leg = call.leg.leg] {
      Deliver(caller, PrefillReply{key, leg, absl::UnavailableError("broken call"), {}, 0});
    });
    if (random_.Chance(0.5)) return;
  } else {
    callers_[{target, call.leg.key, call.leg.leg}] = caller;
  }
  After(Delay(), [this, target, leg = std::move(call.leg)] { Send(target, leg); });
}

void FakeCluster::Begin(const std::string& name, StartFetch order) {
  const TransferKey key{name, order.fetch};
  Transfer& transfer = transfers_[key];
  transfer.to = name;
  transfer.from = order.source.key.name;
  transfer.results.resize(order.items.size());
  transfer.waiting.resize(order.items.size());
  transfer.open = order.items.size();
  const size_t items = order.items.size();
  After(order.timeout_ns, [this, key] { EndWaiting(key, absl::DeadlineExceededError("late")); });
  transfer.order = std::move(order);
  for (size_t item = 0; item < items; ++item) {
    After(Delay(), [this, key, item] { Serve(key, item); });
  }
}

void FakeCluster::Serve(const TransferKey& key, size_t item) {
  const auto entry = transfers_.find(key);
  if (entry == transfers_.end()) return;
  Transfer& transfer = entry->second;
  transfer.waiting[item] = false;
  if (!transfer.ended.ok()) return Settle(key, item, transfer.ended);
  if (FakeStore* const store = Alive(transfer.order.source.key)) {
    const StartFetch::Item& order = transfer.order.items[item];
    const std::vector<uint8_t>* const bytes = store->Find(order.id);
    if (bytes == nullptr) return Settle(key, item, absl::NotFoundError("missing"));
    After(Delay(), [this, key, item, block = *bytes, to = order.page] {
      std::memcpy(Page(key.first, to), block.data(), block.size());
      Settle(key, item, absl::OkStatus());
    });
    return;
  }
  const auto source = workers_.find(transfer.from);
  if (source == workers_.end() || random_.Chance(faults.lose_item)) {
    return Settle(key, item, absl::DataLossError("lost"));
  }
  const StartFetch::Item& order = transfer.order.items[item];
  const auto listed = source->second.directory.find(order.id);
  if (listed == source->second.directory.end()) {
    return Settle(key, item, absl::NotFoundError("missing"));
  }
  if (!listed->second.ready) {
    if (!transfer.order.subscribe) return Settle(key, item, absl::NotFoundError("pending"));
    transfer.waiting[item] = true;
    return;
  }
  const PageId page = listed->second.page;
  ++source->second.pins[page];
  After(Delay(), [this, key, item, from = transfer.from, page, to = order.page] {
    const size_t bytes = workers_.at(from).executor->info().kv_format.block_bytes();
    std::memcpy(Page(key.first, to), Page(from, page), bytes);
    Unpin(from, page);
    Settle(key, item, absl::OkStatus());
  });
}

void FakeCluster::Settle(const TransferKey& key, size_t item, Status status) {
  Transfer& transfer = transfers_.at(key);
  transfer.results[item] = std::move(status);
  if (--transfer.open > 0) return;
  After(Delay(), [this, key] {
    FetchDone done{key.second, transfers_.at(key).results};
    transfers_.erase(key);
    Deliver(key.first, std::move(done));
  });
}

void FakeCluster::EndWaiting(const TransferKey& key, const Status& status) {
  const auto ending = transfers_.find(key);
  if (ending == transfers_.end()) return;
  ending->second.ended = status;
  for (size_t item = 0;; ++item) {
    const auto entry = transfers_.find(key);
    if (entry == transfers_.end() || item >= entry->second.waiting.size()) return;
    if (!entry->second.waiting[item]) continue;
    entry->second.waiting[item] = false;
    Settle(key, item, status);
  }
}

void FakeCluster::ServeWaiters(const std::string& source, const kv::BlockId& id) {
  for (auto& [key, transfer] : transfers_) {
    if (transfer.from != source) continue;
    for (size_t item = 0; item < transfer.waiting.size(); ++item) {
      if (!transfer.waiting[item] || transfer.order.items[item].id != id) continue;
      transfer.waiting[item] = false;
      After(Delay(), [this, key = key, item] { Serve(key, item); });
    }
  }
}

bool FakeCluster::Next() {
  std::optional<TimeNs> tick;
  std::string ticking;
  for (const auto& [name, worker] : workers_) {
    const std::optional<TimeNs> at = worker.core->NextTick();
    if (at && (!tick || *at < *tick)) {
      tick = at;
      ticking = name;
    }
  }
  if (actions_.empty() && !tick) return false;
  if (tick && (actions_.empty() || *tick <= actions_.begin()->first.first)) {
    now_ = std::max(now_, *tick);
    Deliver(ticking, Tick{});
    return true;
  }
  auto action = actions_.extract(actions_.begin());
  now_ = std::max(now_, action.key().first);
  action.mapped()();
  return true;
}

void FakeCluster::RunToEnd() {
  while (trouble.empty() && Next()) {
  }
}

bool FakeCluster::RunUntil(const std::function<bool()>& done) {
  while (!done()) {
    if (!trouble.empty() || !Next()) return false;
  }
  return true;
}

int64_t FakeCluster::HeldPages() const {
  int64_t held = 0;
  for (const auto& [name, worker] : workers_) {
    held += worker.core->pages().used + worker.core->pages().quarantined;
    held += worker.core->swap_use().host_slots + worker.core->swap_use().disk_slots;
  }
  return held;
}

}  // namespace reprise::worker
