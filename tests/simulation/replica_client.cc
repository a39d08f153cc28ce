#include "tests/simulation/replica_client.h"

#include <memory>
#include <utility>

#include "kvstore/stream/kv_stream.h"
#include "tests/simulation/sim_store.h"

namespace reprise::sim {
namespace {

// A timer that fires this late says more about this process than about the store.
constexpr TimeNs kOwnLatenessMax = 100 * kMillisecond;

uint64_t DigestOf(std::span<const kv::TailEntry> entries, std::span<const uint8_t> rows) {
  Digest digest;
  for (const kv::TailEntry& entry : entries) {
    digest.Key(entry.request).U64(entry.branch).U64(static_cast<uint64_t>(entry.first_position));
  }
  return digest.Bytes(rows).value();
}

}  // namespace

ReplicaClient::ReplicaClient(Context& context, NodeKey self, Pid pid, HeldHandler held,
                             LostHandler lost)
    : context_(context),
      world_(context.world),
      self_(std::move(self)),
      pid_(pid),
      held_(std::move(held)),
      lost_(std::move(lost)) {}

ReplicaClient::Link* ReplicaClient::Open(const NodeKey& key) {
  const auto found = links_.find(key);
  if (found != links_.end()) return &found->second;
  const auto store = context_.stores.find(key);
  if (store == context_.stores.end()) return nullptr;
  auto id = std::make_shared<StreamId>(0);
  *id = context_.network.Connect(
      "replica", {pid_, [this, key, id] { OnBroken(key, *id); }},
      {store->second->pid(), [store = store->second, id] { store->OnReplicaPeerGone(*id); }});
  Link& link = links_[key];
  link.stream = *id;
  link.store = store->second;
  return &link;
}

void ReplicaClient::Send(const Link& link, const char* kind, uint64_t digest,
                         std::function<void()> deliver) {
  context_.network.Send(link.stream, {kind, pid_, link.store->pid(), digest}, std::move(deliver));
}

void ReplicaClient::Offer(const NodeKey& store, kv::StoreCore::Offer offer) {
  Link* const link = Open(store);
  if (link == nullptr) return lost_(store, absl::UnavailableError("no such store"));
  link->holds_replicas = true;
  Digest digest;
  digest.Key(offer.request).U64(static_cast<uint64_t>(offer.first_position));
  for (const int32_t token : offer.tokens) digest.U64(static_cast<uint64_t>(token));
  Send(*link, "offer", digest.value(),
       [this, store = link->store, stream = link->stream, offer = std::move(offer)] {
         store->OnOffer(stream, *this, offer);
       });
}

void ReplicaClient::Append(const NodeKey& store, std::vector<kv::TailEntry> entries,
                           std::vector<uint8_t> rows) {
  Link* const link = Open(store);
  if (link == nullptr) return lost_(store, absl::UnavailableError("no such store"));
  ++stats_.appends;
  link->holds_replicas = true;
  const uint64_t id = ++link->last_append;
  link->unanswered.push_back(id);
  if (link->unanswered.size() == 1) WatchSilence(store);
  const bool corrupts = context_.faults.corruption && !context_.faults_stopped;
  if (corrupts && world_.random().Chance(0.03)) {
    rows[world_.random().Below(rows.size())] ^= static_cast<uint8_t>(1 << world_.random().Below(8));
    world_.Note(Injected::kCorruption);
  }
  const uint64_t digest = DigestOf(entries, rows);
  Send(*link, "append", digest,
       [this, store = link->store, stream = link->stream, id, entries = std::move(entries),
        rows = std::move(rows)] { store->OnAppend(stream, *this, id, entries, rows); });
}

void ReplicaClient::Release(const NodeKey& store, const RequestKey& request) {
  Link* const link = Open(store);
  if (link == nullptr) return;
  Send(*link, "release_replicas", Digest().Key(request).value(),
       [store = link->store, request] { store->OnRelease(request); });
}

void ReplicaClient::Query(const NodeKey& store, const RequestKey& request, TimeNs timeout,
                          QueryDone done) {
  Link* const link = Open(store);
  if (link == nullptr) return done(absl::UnavailableError("no such store"), {});
  ++stats_.queries;
  const uint64_t id = next_query_++;
  queries_[id] = {link->stream, std::move(done)};
  world_.After(timeout, {"query_timeout", pid_, pid_, id},
               [this, id] { Answer(id, absl::DeadlineExceededError("no answer in time"), {}); });
  Send(*link, "query_tails", Digest().Key(request).value(),
       [this, store = link->store, stream = link->stream, id, request] {
         store->OnQuery(stream, *this, id, request);
       });
}

void ReplicaClient::Answer(uint64_t query, const Status& status,
                           std::vector<kv::TailState> states) {
  auto node = queries_.extract(query);
  if (!node.empty()) node.mapped().done(status, std::move(states));
}

void ReplicaClient::OnStates(StreamId stream, uint64_t query, const Status& status,
                             std::vector<kv::TailState> states) {
  const auto found = queries_.find(query);
  if (found == queries_.end() || found->second.stream != stream) return;
  Answer(query, status, std::move(states));
}

void ReplicaClient::OnHeld(StreamId stream, uint64_t append, std::vector<kv::HeldRows> held) {
  for (auto& [key, link] : links_) {
    if (link.stream != stream) continue;
    bool answered = false;
    while (!link.unanswered.empty() && link.unanswered.front() <= append) {
      link.unanswered.pop_front();
      answered = true;
    }
    const NodeKey store = key;
    if (answered) WatchSilence(store);
    return held_(store, std::move(held));
  }
}

void ReplicaClient::WatchSilence(const NodeKey& store) {
  Link& link = links_.at(store);
  const uint64_t watch = link.watch = next_watch_++;
  if (link.unanswered.empty()) return;
  const TimeNs due = world_.Clock(pid_) + kv::kAppendAnswerTimeoutNs;
  world_.After(kv::kAppendAnswerTimeoutNs, {"append_silence", pid_, pid_, watch},
               [this, store, watch, due] {
                 const auto found = links_.find(store);
                 if (found == links_.end() || found->second.watch != watch) return;
                 if (world_.Clock(pid_) - due > kOwnLatenessMax) return WatchSilence(store);
                 GiveUp(store, absl::UnavailableError("it left an append unanswered"));
               });
}

void ReplicaClient::GiveUp(const NodeKey& store, const Status& why) {
  const auto found = links_.find(store);
  if (found == links_.end()) return;
  context_.network.Break(found->second.stream);
  Drop(store, why);
}

void ReplicaClient::OnBroken(const NodeKey& store, StreamId stream) {
  const auto found = links_.find(store);
  if (found == links_.end() || found->second.stream != stream) return;
  Drop(store, absl::UnavailableError("the connection broke"));
}

void ReplicaClient::Drop(const NodeKey& store, const Status& why) {
  const Link link = std::move(links_.extract(store).mapped());
  std::vector<uint64_t> unanswered;
  for (const auto& [id, query] : queries_) {
    if (query.stream == link.stream) unanswered.push_back(id);
  }
  for (const uint64_t id : unanswered) Answer(id, why, {});
  if (!link.holds_replicas) return;
  ++stats_.lost;
  lost_(store, why);
}

}  // namespace reprise::sim
