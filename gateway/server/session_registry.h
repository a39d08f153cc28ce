// The running requests of this gateway by id, and for a while the ended ones, so that Cancel can
// tell "ended" from "never seen". Owned by the gateway; any thread.
//
// Invariants:
// 1. One running request per id.
// 2. Nothing is revealed of an id to a caller without its resume handle, which is compared in
//    constant time.
// 3. Sinks are called with no lock held.
#ifndef REPRISE_GATEWAY_SERVER_SESSION_REGISTRY_H_
#define REPRISE_GATEWAY_SERVER_SESSION_REGISTRY_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/strings/string_view.h"
#include "common/mutex.h"
#include "common/status.h"
#include "gateway/server/request_sink.h"

namespace reprise::gateway {

class SessionRegistry {
 public:
  // ALREADY_EXISTS when a request of this id is running.
  Status Insert(const std::string& id, const std::string& handle,
                std::shared_ptr<RequestSink> sink);
  // Takes the place of whatever runs here under this id, which is returned (null: nothing did).
  // NOT_FOUND when that has another handle.
  StatusOr<std::shared_ptr<RequestSink>> TakeOver(const std::string& id, const std::string& handle,
                                                  std::shared_ptr<RequestSink> sink);
  // Null when not running.
  std::shared_ptr<RequestSink> Find(const std::string& id);
  // Nothing happens when `sink` was taken over.
  void End(const std::string& id, const RequestSink* sink);

  // Null when it has ended; NOT_FOUND when never seen, forgotten, or the handle is not its own.
  StatusOr<std::shared_ptr<RequestSink>> FindByHandle(const std::string& id,
                                                      absl::string_view handle);

  // Changes whenever a request has got another sink.
  uint64_t version() const { return version_.load(std::memory_order_acquire); }

  void ForEach(const std::function<void(const std::string&, RequestSink&)>& visit);
  size_t size() const;

 private:
  // Shards keep links' dispatch threads off each other's locks.
  static constexpr size_t kShards = 64;
  static constexpr size_t kEndedPerShard = 1024;

  struct Running {
    std::string handle;
    std::shared_ptr<RequestSink> sink;
  };
  struct alignas(64) Shard {
    mutable Mutex mu;
    std::unordered_map<std::string, Running> running GUARDED_BY(mu);
    std::unordered_map<std::string, std::string> ended GUARDED_BY(mu);  // id -> handle
    std::deque<std::string> ended_order GUARDED_BY(mu);                 // oldest first
  };
  Shard& ShardOf(const std::string& id) { return shards_[std::hash<std::string>()(id) % kShards]; }

  std::array<Shard, kShards> shards_;
  std::atomic<uint64_t> version_{0};
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_SESSION_REGISTRY_H_
