// The highest attempt seen of each request, and the highest that has ended, for at most
// `requests_max` requests: the one not asked about for longest is forgotten first. One thread.
#ifndef REPRISE_KVSTORE_STREAM_FENCES_H_
#define REPRISE_KVSTORE_STREAM_FENCES_H_

#include <cstddef>
#include <list>
#include <optional>
#include <string>
#include <unordered_map>

#include "common/ids.h"

namespace reprise::kv {

class Fences {
 public:
  enum class Verdict { kCurrent, kRaised, kStale };  // kRaised: a lower attempt was known

  explicit Fences(size_t requests_max) : requests_max_(requests_max) {}
  Fences(const Fences& other) : requests_max_(other.requests_max_), order_(other.order_) {
    for (auto known = order_.begin(); known != order_.end(); ++known) index_[known->id] = known;
  }
  Fences& operator=(const Fences&) = delete;

  // Remembers the attempt unless it is stale. A request without an id is never stale.
  Verdict Check(const RequestKey& request) {
    if (request.id.empty()) return Verdict::kCurrent;
    const auto found = index_.find(request.id);
    if (found == index_.end()) {
      if (order_.size() >= requests_max_) {
        index_.erase(order_.back().id);
        order_.pop_back();
      }
      order_.push_front({request.id, request.attempt, std::nullopt});
      index_[request.id] = order_.begin();
      return Verdict::kCurrent;
    }
    Known& known = *found->second;
    if (request.attempt < known.attempt) return Verdict::kStale;
    order_.splice(order_.begin(), order_, found->second);
    if (request.attempt == known.attempt) return Verdict::kCurrent;
    known.attempt = request.attempt;
    return Verdict::kRaised;
  }

  // The request ended with this attempt, which Check has seen: only a later one may begin again.
  void End(const RequestKey& request) { index_.at(request.id)->ended = request.attempt; }
  bool HasEnded(const RequestKey& request) const {
    const auto found = index_.find(request.id);
    return found != index_.end() && found->second->ended.has_value() &&
           request.attempt <= *found->second->ended;
  }

 private:
  struct Known {
    std::string id;
    Attempt attempt;
    std::optional<Attempt> ended;
  };
  const size_t requests_max_;
  std::list<Known> order_;  // latest first
  std::unordered_map<std::string, std::list<Known>::iterator> index_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_FENCES_H_
