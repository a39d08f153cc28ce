#include "gateway/server/session_registry.h"

#include <openssl/crypto.h>

#include <utility>
#include <vector>

namespace reprise::gateway {
namespace {

bool SameSecret(absl::string_view a, absl::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Status NoSuchRequest() { return absl::NotFoundError("no request has this id and resume handle"); }

}  // namespace

Status SessionRegistry::Insert(const std::string& id, const std::string& handle,
                               std::shared_ptr<RequestSink> sink) {
  Shard& shard = ShardOf(id);
  MutexLock lock(shard.mu);
  if (!shard.running.try_emplace(id, Running{handle, std::move(sink)}).second) {
    return absl::AlreadyExistsError(absl::StrCat("request \"", id, "\" is running"));
  }
  return absl::OkStatus();
}

StatusOr<std::shared_ptr<RequestSink>> SessionRegistry::TakeOver(
    const std::string& id, const std::string& handle, std::shared_ptr<RequestSink> sink) {
  Shard& shard = ShardOf(id);
  MutexLock lock(shard.mu);
  Running& running = shard.running.try_emplace(id, Running{handle, nullptr}).first->second;
  if (!SameSecret(running.handle, handle)) return NoSuchRequest();
  std::swap(running.sink, sink);
  version_.fetch_add(1, std::memory_order_acq_rel);
  return sink;
}

std::shared_ptr<RequestSink> SessionRegistry::Find(const std::string& id) {
  Shard& shard = ShardOf(id);
  MutexLock lock(shard.mu);
  const auto it = shard.running.find(id);
  return it == shard.running.end() ? nullptr : it->second.sink;
}

void SessionRegistry::End(const std::string& id, const RequestSink* sink) {
  Shard& shard = ShardOf(id);
  std::shared_ptr<RequestSink> released;  // after the lock
  MutexLock lock(shard.mu);
  const auto it = shard.running.find(id);
  if (it == shard.running.end() || it->second.sink.get() != sink) return;
  released = std::move(it->second.sink);
  if (shard.ended.insert_or_assign(id, std::move(it->second.handle)).second) {
    shard.ended_order.push_back(id);
  }
  shard.running.erase(it);
  if (shard.ended_order.size() > kEndedPerShard) {
    shard.ended.erase(shard.ended_order.front());
    shard.ended_order.pop_front();
  }
}

StatusOr<std::shared_ptr<RequestSink>> SessionRegistry::FindByHandle(const std::string& id,
                                                                     absl::string_view handle) {
  Shard& shard = ShardOf(id);
  MutexLock lock(shard.mu);
  const auto running = shard.running.find(id);
  if (running != shard.running.end() && SameSecret(running->second.handle, handle)) {
    return running->second.sink;
  }
  const auto ended = shard.ended.find(id);
  if (ended != shard.ended.end() && SameSecret(ended->second, handle)) {
    return std::shared_ptr<RequestSink>();
  }
  return NoSuchRequest();
}

void SessionRegistry::ForEach(const std::function<void(const std::string&, RequestSink&)>& visit) {
  for (Shard& shard : shards_) {
    std::vector<std::pair<std::string, std::shared_ptr<RequestSink>>> sinks;
    {
      MutexLock lock(shard.mu);
      sinks.reserve(shard.running.size());
      for (const auto& [id, running] : shard.running) sinks.emplace_back(id, running.sink);
    }
    for (const auto& [id, sink] : sinks) visit(id, *sink);
  }
}

size_t SessionRegistry::size() const {
  size_t size = 0;
  for (const Shard& shard : shards_) {
    MutexLock lock(shard.mu);
    size += shard.running.size();
  }
  return size;
}

}  // namespace reprise::gateway
