#include "worker/engine/replicator.h"

#include <utility>

#include "common/bind_address.h"
#include "common/failpoint.h"
#include "common/log.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::worker {
namespace {

constexpr size_t kIdleRowsBytesMax = size_t{32} << 20;

}  // namespace

StatusOr<kv::PeerAddress> ToPeer(const NodeRef& node) {
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(node.kv_address));
  return kv::PeerAddress{node.key, at.host, at.port};
}

Replicator::Replicator(Pool pool, kv::KvStream* stream, std::function<void(Event)> post)
    : pool_(std::move(pool)),
      rows_(std::make_shared<kv::RowsPool>(kIdleRowsBytesMax)),
      stream_(stream),
      post_(std::move(post)) {
  thread_.Start("worker_replicas",
                [this](Order& order) { std::visit([this](auto& typed) { Do(typed); }, order); });
}

// A store without an address cannot be told anything; that it is lost is said with its first
// append.
void Replicator::Do(OfferBlocks& command) {
  const StatusOr<kv::PeerAddress> store = ToPeer(command.store);
  if (!store.ok()) return;
  kv::BlockOffer offer;
  offer.source = stream_->address();
  offer.fence = {command.key, 0};
  // A leg ends without a word to the stores: they keep nothing on its behalf.
  if (!command.leg) offer.branch = command.branch;
  offer.parent = command.parent;
  offer.first_position = command.first_position;
  offer.tenant_salt = std::move(command.tenant);
  offer.prompt_end = command.prompt_end;
  offer.tokens = std::move(command.tokens);
  stream_->Offer(*store, std::move(offer));
}

StatusOr<kv::TailAppend> Replicator::Pack(AppendRows& append) const {
  const kv::KvFormat& format = pool_.format;
  size_t rows = 0;
  for (const AppendRows::Entry& entry : append.entries) rows += entry.tokens.size();
  ASSIGN_OR_RETURN(const auto packed, rows_->Take(kv::PackedBytes(format, rows)));
  kv::TailAppend tail;
  tail.entries.reserve(append.entries.size());
  size_t at = 0;
  for (AppendRows::Entry& from : append.entries) {
    kv::TailEntry& entry = tail.entries.emplace_back();
    entry.request = std::move(from.key);
    entry.branch = from.branch;
    entry.tenant_salt = std::move(from.tenant);
    entry.prompt_end = from.prompt_end;
    entry.parent = from.parent;
    entry.first_position = from.first_position;
    entry.tokens = std::move(from.tokens);
    const kv::RowRange range{static_cast<uint32_t>(entry.first_position % format.block_tokens),
                             static_cast<uint32_t>(entry.tokens.size())};
    const size_t bytes = kv::PackedBytes(format, entry.tokens.size());
    const uint8_t* const page = pool_.base + static_cast<size_t>(from.page) * format.block_bytes();
    ASSIGN_OR_RETURN(entry.checksum,
                     kv::PackTail(format, {page, format.block_bytes()}, range, kv::TailSeed(entry),
                                  packed->writable().subspan(at, bytes)));
    at += bytes;
  }
  tail.rows = packed;
  return tail;
}

void Replicator::Do(AppendRows& append) {
  Failpoint("worker.append.pack");
  const AppendId id = append.append;
  const StatusOr<kv::PeerAddress> store = ToPeer(append.store);
  StatusOr<kv::TailAppend> tail = store.ok() ? Pack(append) : store.status();
  post_(RowsPacked{id});
  if (!tail.ok()) {
    LogError("append_failed", {{"store", append.store.key.name}, {"status", tail.status()}});
    return post_(ReplicaLost{append.store.key, tail.status()});
  }
  Failpoint("worker.append.send");
  stream_->Append(*store, *std::move(tail));
}

void Replicator::Do(ReleaseReplicas& release) {
  const StatusOr<kv::PeerAddress> store = ToPeer(release.store);
  if (store.ok()) stream_->Release(*store, release.key);
}

void Replicator::Do(QueryTails& query) {
  Failpoint("worker.restore.query");
  const auto answer = [post = post_, id = query.query](const Status& status,
                                                       std::vector<kv::TailState> states) {
    post(TailsFound{id, status, std::move(states)});
  };
  const StatusOr<kv::PeerAddress> store = ToPeer(query.store);
  if (!store.ok()) return answer(store.status(), {});
  stream_->QueryTails(*store, query.key, query.timeout_ns, answer);
}

}  // namespace reprise::worker
