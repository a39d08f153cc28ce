// A simulated store's serving side of replication, as StoreServer and ReplicaServer run it: appends
// are taken one at a time, in order, and written while other events happen.
#include <algorithm>
#include <cstring>
#include <utility>

#include "kvstore/stream/tail_pack.h"
#include "tests/simulation/replica_client.h"
#include "tests/simulation/sim_store.h"

namespace reprise::sim {
namespace {

constexpr TimeNs kReapInterval = 250 * kMillisecond;

}  // namespace

void SimStore::Known(StreamId stream, ReplicaClient& from) {
  peers_[stream] = {&from, from.key(), from.pid()};
  const kv::LatestConnections::Word word = latest_.Heard(from.key(), stream);
  if (word == kv::LatestConnections::Word::kReplaces) LoseOwner(from.key());
}

void SimStore::LoseOwner(const NodeKey& owner) {
  context_.world.Trace(key_.name, " loses its owner ", owner.name);
  core_.OnPeerLost(owner, Now());
  Run();
}

void SimStore::OnOffer(StreamId stream, ReplicaClient& from, kv::StoreCore::Offer offer) {
  if (!Admit(offer.request)) return;
  if (offer.branch) Known(stream, from);
  context_.world.Trace(key_.name, " is offered ", offer.request.id, " of (",
                       offer.request.attempt.owner_epoch, ", ", offer.request.attempt.n, ") by ",
                       from.key().name, ", ", offer.tokens.size(), " tokens for branch ",
                       offer.branch ? static_cast<int>(*offer.branch) : -1);
  core_.OnOffer(offer, Now());
  Run();
}

void SimStore::OnAppend(StreamId stream, ReplicaClient& from, uint64_t append,
                        const std::vector<kv::TailEntry>& entries,
                        const std::vector<uint8_t>& rows) {
  Known(stream, from);
  Incoming incoming{.stream = stream,
                    .from = from.key(),
                    .append = append,
                    .entries = entries,
                    .rows = rows,
                    .offsets = {0},
                    .held = {},
                    .next = 0,
                    .planned = {}};
  for (kv::TailEntry& entry : incoming.entries) {
    Admit(entry.request);
    const size_t bytes = kv::PackedBytes(context_.format, entry.tokens.size());
    incoming.offsets.push_back(incoming.offsets.back() + bytes);
  }
  incoming.held.resize(entries.size());
  incoming_.push_back(std::move(incoming));
  if (incoming_.size() == 1) NextAppend();
}

// False for a stale attempt. With the planted bug nothing is stale.
bool SimStore::Admit(RequestKey& request) {
  if (context_.mutated(Mutation::kFenceRemoved)) {
    Attempt& highest = highest_[request.id];
    highest = std::max(highest, request.attempt);
    request.attempt = highest;
  }
  return stream_.NoteAttempt(request);
}

void SimStore::NextAppend() {
  while (!incoming_.empty()) {
    Incoming& front = incoming_.front();
    if (latest_.Of(front.from) != front.stream) {
      incoming_.pop_front();  // its owner is gone
      continue;
    }
    for (; front.next < front.entries.size(); ++front.next) {
      const kv::TailEntry& entry = front.entries[front.next];
      kv::StoreCore::AppendPlan plan = core_.OnAppend(front.from, entry, Now());
      if (plan.busy) break;
      if (plan.write != 0) {
        front.planned.push_back({front.next, std::move(plan)});
        continue;
      }
      if (context_.mutated(Mutation::kGapAccepted) && absl::IsOutOfRange(plan.held.status)) {
        plan.held.rows = entry.first_position + static_cast<int64_t>(entry.tokens.size());
        plan.held.status = absl::OkStatus();
      }
      front.held[front.next] = std::move(plan.held);
    }
    if (!front.planned.empty()) {
      const auto takes = static_cast<TimeNs>(context_.world.random().Below(200 * kMicrosecond));
      context_.world.After(takes, {"rows_written", pid_, pid_, front.append},
                           [this] { WritePlanned(); });
      break;
    }
    if (front.next < front.entries.size()) {
      context_.world.Fail(absl::StrCat(key_.name, ": two appends of one sequence at a time"));
      break;
    }
    Tell(front.stream, front.append, std::move(front.held));
    incoming_.pop_front();
  }
  Run();
}

void SimStore::WritePlanned() {
  Incoming& front = incoming_.front();
  for (PlannedEntry& one : std::exchange(front.planned, {})) {
    const kv::TailEntry& entry = front.entries[one.entry];
    uint8_t* const block = SlotData(one.plan.slot);
    if (one.plan.copy_from >= 0) {
      std::memcpy(block, SlotData(one.plan.copy_from), context_.block_bytes());
    }
    const size_t at = front.offsets[one.entry];
    std::vector<uint32_t> parts;
    const Status status = unpacker_.Unpack(
        {.packed =
             std::span<const uint8_t>(front.rows).subspan(at, front.offsets[one.entry + 1] - at),
         .checksum = entry.checksum,
         .seed = kv::TailSeed(entry),
         .rows = static_cast<uint32_t>(entry.tokens.size()),
         .skip = one.plan.skip},
        one.plan.first_row, {block, context_.block_bytes()}, &parts);
    if (!status.ok()) ++damaged_appends_;
    front.held[one.entry] = core_.OnAppended(one.plan.write, status, parts, Now());
  }
  Run();
  NextAppend();
}

void SimStore::OnRelease(RequestKey request) {
  Admit(request);
  context_.world.Trace(key_.name, " is told to release ", request.id, " of (",
                       request.attempt.owner_epoch, ", ", request.attempt.n, ")");
  core_.OnRelease(request, Now());
  Run();
}

void SimStore::OnQuery(StreamId stream, ReplicaClient& from, uint64_t query, RequestKey request) {
  Known(stream, from);
  Admit(request);
  const auto states = core_.OnQuery(from.key(), request, Now());
  std::vector<kv::TailState> found;
  if (states.ok()) found = *states;
  context_.network.Send(stream, {"tails", pid_, from.pid(), query},
                        [client = &from, stream, query, status = states.status(), found] {
                          client->OnStates(stream, query, status, found);
                        });
  Run();
}

void SimStore::OnReplicaPeerGone(StreamId stream) {
  const auto peer = peers_.extract(stream);
  if (peer.empty()) return;
  if (latest_.Ended(peer.mapped().key, stream)) LoseOwner(peer.mapped().key);
}

void SimStore::Tell(StreamId stream, uint64_t append, std::vector<kv::HeldRows> held) {
  const auto peer = peers_.find(stream);
  if (peer == peers_.end()) return;
  Digest digest;
  for (const kv::HeldRows& rows : held) {
    context_.world.Trace(key_.name, " holds ", rows.rows, " rows of ", rows.request.id, ".",
                         rows.branch, " ", absl::StatusCodeToString(rows.status.code()));
    digest.Key(rows.request).U64(rows.branch).U64(static_cast<uint64_t>(rows.rows));
  }
  context_.network.Send(stream, {"held", pid_, peer->second.pid, digest.value()},
                        [client = peer->second.client, stream, append, held = std::move(held)] {
                          client->OnHeld(stream, append, held);
                        });
}

void SimStore::TellOwners() {
  for (kv::ToldHeld& told : core_.TakeTold()) {
    const std::optional<uint64_t> latest = latest_.Of(told.owner);
    if (latest) Tell(*latest, 0, {std::move(told.held)});
  }
}

void SimStore::Tick() {
  core_.OnTick(Now());
  Run();
  context_.world.After(kReapInterval, {"reap", pid_, pid_, 0}, [this] { Tick(); });
}

// The truth about replicas -----------------------------------------------------------------------

// From a copy of the core, so that looking changes nothing. False: it is nowhere.
bool SimStore::ReadBlock(kv::StoreCore& core, const kv::BlockId& id, bool tail,
                         uint8_t* data) const {
  const kv::StoreCore::Found found = core.Find(id, Now());
  const bool in_memory = found.state == kv::StoreCore::Found::State::kReady ||
                         (tail && found.state == kv::StoreCore::Found::State::kPending);
  if (!in_memory) return disk_->Peek(id, data);
  kv::Slot slot = found.slot;
  // Rows on their way into a copy leave the slot they were in alone.
  if (!incoming_.empty()) {
    for (const PlannedEntry& one : incoming_.front().planned) {
      if (one.plan.slot == slot && one.plan.copy_from >= 0) slot = one.plan.copy_from;
    }
  }
  std::memcpy(data, SlotData(slot), context_.block_bytes());
  core.Unpin(found.pin);
  return true;
}

std::string SimStore::CheckHeld(const RequestKey& request, uint32_t branch,
                                const std::string& tenant, std::span<const int32_t> tokens,
                                int64_t prompt_tokens, int64_t rows) const {
  kv::StoreCore core = core_;
  const auto states = core.OnQuery({"checker", 1}, request, Now());
  if (!states.ok()) return "";  // it knows a later attempt
  const auto state = std::find_if(states->begin(), states->end(),
                                  [&](const kv::TailState& at) { return at.branch == branch; });
  if (state == states->end()) return "it has nothing of the branch";
  const int64_t block = context_.model.block_tokens;
  const int64_t whole = state->blocks_held * block;
  const bool follows = state->first_position == whole;
  const int64_t held = whole + (follows ? static_cast<int64_t>(state->tokens.size()) : 0);
  if (held < rows) return absl::StrCat("it holds ", held, " rows");
  const int64_t prompt_end = context_.oracle.PromptEnd(prompt_tokens);
  kv::ChainContext chain = context_.chain;
  chain.tenant_salt = tenant;
  const std::vector<kv::BlockId> ids = kv::ChainIds(chain, tokens, prompt_end);
  std::vector<uint8_t> bytes(context_.block_bytes());
  for (int64_t first = 0; first < rows; first += block) {
    const bool in_tail = first >= whole;
    const kv::BlockId id = in_tail ? kv::ReplicaTailId(request.id, branch, first)
                                   : ids.at(static_cast<size_t>(first / block));
    if (!ReadBlock(core, id, in_tail, bytes.data())) {
      return absl::StrCat("the block at ", first, " cannot be read");
    }
    const auto count = static_cast<size_t>(std::min(block, rows - first));
    const std::string wrong = context_.oracle.CheckRows(
        tokens.subspan(static_cast<size_t>(first), count), first, prompt_end, bytes.data());
    // A disk that lied is found out when the block is read, not before.
    if (!wrong.empty() && !context_.faults.torn_disk) return wrong;
  }
  return "";
}

}  // namespace reprise::sim
