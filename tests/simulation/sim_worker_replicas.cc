// What a simulated worker's replicator thread does: orders to stores one after the other, rows
// packed from pages some time after they were ordered.
#include <algorithm>
#include <utility>

#include "kvstore/stream/tail_pack.h"
#include "tests/simulation/sim_worker.h"

namespace reprise::sim {

void SimWorker::Run(const worker::AppendRows& command) {
  std::vector<kv::TailEntry> entries;
  packing_[command.append] = Pack(command, &entries);
  QueueReplicaOrder(command);
  if (!context_.mutated(Mutation::kPackedEarly)) return;
  world_.After(0, {"packed", pid_, pid_, command.append},
               [this, append = command.append] { Handle(worker::RowsPacked{append}); });
}

void SimWorker::Run(const worker::ReleaseReplicas& command) {
  if (!context_.mutated(Mutation::kReleaseForgotten)) QueueReplicaOrder(command);
}

void SimWorker::QueueReplicaOrder(ReplicaOrder order) {
  replica_orders_.push_back(std::move(order));
  if (replica_orders_.size() == 1) NextReplicaOrder();
}

void SimWorker::NextReplicaOrder() {
  auto takes = static_cast<TimeNs>(world_.random().Below(300 * kMicrosecond));
  if (context_.faults.delays && world_.random().Chance(0.05)) takes += 20 * kMillisecond;
  world_.After(takes, {"replicate", pid_, pid_, replica_orders_.front().index()}, [this] {
    const ReplicaOrder order = std::move(replica_orders_.front());
    replica_orders_.pop_front();
    if (!replica_orders_.empty()) NextReplicaOrder();
    std::visit([this](const auto& typed) { Do(typed); }, order);
  });
}

void SimWorker::Do(const worker::OfferBlocks& order) {
  kv::StoreCore::Offer offer;
  offer.source = key_;
  offer.request = order.key;
  if (!order.leg) offer.branch = order.branch;
  offer.parent = order.parent;
  offer.first_position = order.first_position;
  offer.tenant_salt = order.tenant;
  offer.prompt_end = order.prompt_end;
  offer.tokens = order.tokens;
  replicas_.Offer(order.store.key, std::move(offer));
}

std::vector<uint8_t> SimWorker::Pack(const worker::AppendRows& append,
                                     std::vector<kv::TailEntry>* entries) {
  std::vector<uint8_t> rows;
  for (const worker::AppendRows::Entry& from : append.entries) {
    kv::TailEntry& entry = entries->emplace_back();
    entry.request = from.key;
    entry.branch = from.branch;
    entry.tenant_salt = from.tenant;
    entry.prompt_end = from.prompt_end;
    entry.parent = from.parent;
    entry.first_position = from.first_position;
    entry.tokens = from.tokens;
    const auto in_block = static_cast<uint32_t>(from.first_position % context_.model.block_tokens);
    const size_t bytes = kv::PackedBytes(context_.format, from.tokens.size());
    rows.resize(rows.size() + bytes);
    const auto checksum =
        kv::PackTail(context_.format, {PageData(from.page), context_.block_bytes()},
                     {in_block, static_cast<uint32_t>(from.tokens.size())}, kv::TailSeed(entry),
                     std::span<uint8_t>(rows).last(bytes));
    if (!checksum.ok()) world_.Fail(checksum.status().ToString());
    entry.checksum = checksum.value_or(0);
  }
  return rows;
}

void SimWorker::Do(const worker::AppendRows& order) {
  std::vector<kv::TailEntry> entries;
  std::vector<uint8_t> rows = Pack(order, &entries);
  if (packing_.extract(order.append).mapped() != rows) {
    return world_.Fail(
        absl::StrCat("pages of ", key_.name, " changed while an append packed them"));
  }
  for (const kv::TailEntry& entry : entries) {
    world_.Trace(key_.name, " appends ", entry.tokens.size(), " rows of ", entry.request.id, ".",
                 entry.branch, " from ", entry.first_position, " at ", order.store.key.name);
  }
  replicas_.Append(order.store.key, std::move(entries), std::move(rows));
  if (!context_.mutated(Mutation::kPackedEarly)) Handle(worker::RowsPacked{order.append});
}

void SimWorker::Do(const worker::ReleaseReplicas& order) {
  world_.Trace(key_.name, " releases ", order.key.id, " at ", order.store.key.name);
  replicas_.Release(order.store.key, order.key);
}

void SimWorker::Do(const worker::QueryTails& order) {
  replicas_.Query(order.store.key, order.key, order.timeout_ns,
                  [this, query = order.query, id = order.key.id](
                      const Status& status, std::vector<kv::TailState> states) {
                    if (const auto at = submits_.find(id); at != submits_.end()) {
                      for (kv::TailState& state : states) PretendOurs(at->second, &state);
                    }
                    Handle(worker::TailsFound{query, status, std::move(states)});
                  });
}

// The planted bug: nobody looked whether the tail is of this request's tokens.
void SimWorker::PretendOurs(const worker::Submit& submit, kv::TailState* state) const {
  if (state->tokens.empty() || state->branch >= submit.branches.size()) return;
  std::vector<int32_t> tokens = submit.prompt;
  const std::vector<int32_t>& emitted = submit.branches[state->branch].emitted;
  tokens.insert(tokens.end(), emitted.begin(), emitted.end());
  const auto first = static_cast<size_t>(state->first_position);
  if (first >= tokens.size()) return;
  const size_t rows = std::min<size_t>(context_.model.block_tokens, tokens.size() - first);
  state->tokens.assign(tokens.begin() + static_cast<std::ptrdiff_t>(first),
                       tokens.begin() + static_cast<std::ptrdiff_t>(first + rows));
}

void SimWorker::OnHeld(const NodeKey& store, std::vector<kv::HeldRows> held) {
  if (context_.mutated(Mutation::kWatermarkPlusOne)) {
    for (kv::HeldRows& rows : held) ++rows.rows;
  }
  Handle(worker::RowsHeld{store, std::move(held)});
}

}  // namespace reprise::sim
