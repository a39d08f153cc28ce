// Over which connection each peer speaks: a peer keeps one at a time, so a word over a later one
// says that the earlier has ended, whether or not this side was told. What the peer held over the
// earlier one it holds no more: a release may have been lost with it. Owned by whoever serves the
// connections; one thread. Numbers of connections rise.
#ifndef REPRISE_KVSTORE_STREAM_LATEST_CONNECTIONS_H_
#define REPRISE_KVSTORE_STREAM_LATEST_CONNECTIONS_H_

#include <cstdint>
#include <map>
#include <optional>

#include "common/ids.h"

namespace reprise::kv {

class LatestConnections {
 public:
  // kReplaces: the peer's earlier connection is over. kReplaced: a late word over such a one.
  enum class Word { kOfLatest, kReplaces, kReplaced };
  Word Heard(const NodeKey& peer, uint64_t connection) {
    const auto [latest, first] = latest_.try_emplace(peer, connection);
    if (connection == latest->second) return Word::kOfLatest;
    if (connection < latest->second) return Word::kReplaced;
    latest->second = connection;
    return Word::kReplaces;
  }
  // True: it was the peer's latest, so the peer is gone.
  bool Ended(const NodeKey& peer, uint64_t connection) {
    const auto latest = latest_.find(peer);
    if (latest == latest_.end() || latest->second != connection) return false;
    latest_.erase(latest);
    return true;
  }
  std::optional<uint64_t> Of(const NodeKey& peer) const {
    const auto latest = latest_.find(peer);
    if (latest == latest_.end()) return std::nullopt;
    return latest->second;
  }

 private:
  std::map<NodeKey, uint64_t> latest_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_LATEST_CONNECTIONS_H_
