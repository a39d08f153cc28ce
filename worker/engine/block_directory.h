// What peers can find in the worker's pages: the stream's view of the blocks the core has listed.
// Owned by the engine. Find runs on the stream's threads, everything else on the step thread; a pin
// may be released anywhere.
//
// Invariants:
// 1. A pinned page never changes under a reader: after Unlist it counts as quiet only when its last
//    pin is gone, and then `quiet` says so exactly once.
// 2. A pending block's ready layers only grow.
// 3. A listed block's checksums are of the bytes as its page got them; the page does not change
//    while it is listed.
#ifndef REPRISE_WORKER_ENGINE_BLOCK_DIRECTORY_H_
#define REPRISE_WORKER_ENGINE_BLOCK_DIRECTORY_H_

#include <functional>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/hash/hash.h"
#include "common/crc32c.h"
#include "common/mutex.h"
#include "kvstore/stream/kv_stream.h"
#include "worker/engine/core/types.h"

namespace reprise::worker {

class BlockDirectory : public kv::SegmentSource {
 public:
  struct Pool {
    const uint8_t* base = nullptr;
    size_t block_bytes = 0;
    uint32_t layers = 0;
    int32_t pages = 0;
  };
  // `quiet` is called without a lock held, from whichever thread released the last pin.
  BlockDirectory(const Pool& pool, std::function<void(PageId)> quiet);

  Block Find(const kv::BlockId& id) override;

  // True when all layers became ready just now: subscribers want to know.
  bool List(const ListBlock& command);
  struct Unlisted {
    bool was_pending = false;  // subscribers must be told that it will never be complete
    bool quiet = false;        // no reader; else `quiet` is called later
  };
  Unlisted Unlist(const UnlistBlock& command);
  // The first `layers` layers of a pending block are complete; `part` is what the last of them
  // makes of a checksum (common/crc32c.h), when it is known. The checksums known now, of the first
  // layers: behind one without there are none.
  std::vector<uint32_t> SetReady(const kv::BlockId& id, uint32_t layers,
                                 std::optional<uint32_t> part);

 private:
  struct Entry {
    PageId page = -1;
    uint32_t layers_ready = 0;
    int64_t first_position = 0;
    std::vector<uint32_t> checksums;  // of the first layers, in `page`
  };
  void Unpin(PageId page);

  const Pool pool_;
  const Crc32cShift past_segment_;
  const std::function<void(PageId)> quiet_;
  Mutex mu_;
  std::unordered_map<kv::BlockId, Entry, absl::Hash<kv::BlockId>> entries_ GUARDED_BY(mu_);
  std::vector<int32_t> pins_ GUARDED_BY(mu_);     // by page
  std::vector<uint8_t> retired_ GUARDED_BY(mu_);  // by page: unlisted while pinned
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_BLOCK_DIRECTORY_H_
