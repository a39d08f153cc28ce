// The blocks of one rank in plain memory, served to peers: those it made, and those it reads from
// another group, which are pending until their layers have arrived. For tests, benchmarks and tools
// that are no engine. Outlives the stream it serves. Any thread.
#ifndef REPRISE_KVSTORE_STREAM_RANK_BLOCKS_H_
#define REPRISE_KVSTORE_STREAM_RANK_BLOCKS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "common/mutex.h"
#include "kvstore/block/kv_part.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::kv {

class RankBlocks final : public SegmentSource {
 public:
  RankBlocks(const KvFormat& format, const KvPart& part)
      : part_(part), block_bytes_(FormatOfPart(format, part).block_bytes()) {}

  const KvPart& part() const { return part_; }

  // Memory for a block's part, zeros; it stays. Made here: ready, summed when it is sent.
  uint8_t* AddMade(const BlockId& id, int64_t first_position) {
    return Add(id, first_position, false);
  }
  // Arriving: pending.
  uint8_t* AddArriving(const BlockId& id, int64_t first_position) {
    return Add(id, first_position, true);
  }
  // As it lies in memory; null: unknown.
  const uint8_t* Data(const BlockId& id) const {
    MutexLock lock(mu_);
    const auto found = blocks_.find(id);
    return found == blocks_.end() ? nullptr : found->second.data.get();
  }

  Block Find(const BlockId& id) override {
    MutexLock lock(mu_);
    const auto found = blocks_.find(id);
    if (found == blocks_.end()) return {};
    const Entry& entry = found->second;
    Block block;
    const auto arrived = static_cast<uint32_t>(entry.checksums.size());
    block.layers_ready = entry.arriving ? arrived : part_.layers.size();
    const bool ready = block.layers_ready == part_.layers.size();
    block.state = ready ? State::kReady : State::kPending;
    block.first_position = entry.first_position;
    block.data = entry.data.get();
    block.summed = entry.arriving;
    block.checksums = entry.checksums;
    return block;
  }

  // What to hand to StreamIn::Start for blocks added as arriving, in the order of its items: tells
  // `stream`'s subscribers of every layer, and `done` at the end.
  std::shared_ptr<FetchListener> Arrivals(KvStream* stream, std::vector<BlockId> ids,
                                          std::function<void(const std::vector<Status>&)> done) {
    return std::make_shared<Arrival>(this, stream, std::move(ids), std::move(done));
  }

 private:
  struct Entry {
    int64_t first_position = 0;
    bool arriving = false;
    std::vector<uint32_t> checksums;  // of the layers that have arrived
    std::unique_ptr<uint8_t[]> data;
  };
  class Arrival final : public FetchListener {
   public:
    Arrival(RankBlocks* blocks, KvStream* stream, std::vector<BlockId> ids,
            std::function<void(const std::vector<Status>&)> done)
        : blocks_(blocks), stream_(stream), ids_(std::move(ids)), done_(std::move(done)) {}
    void OnLayer(size_t item, uint32_t, uint32_t checksum) override {
      std::vector<uint32_t> checksums = blocks_->Arrived(ids_[item], checksum);
      const auto layers = static_cast<uint32_t>(checksums.size());
      stream_->Publish(ids_[item], layers, std::move(checksums));
    }
    void OnDone(const std::vector<Status>& items) override {
      for (size_t i = 0; i < items.size(); ++i) {
        if (!items[i].ok()) stream_->Withdraw(ids_[i]);
      }
      done_(items);
    }

   private:
    RankBlocks* const blocks_;
    KvStream* const stream_;
    const std::vector<BlockId> ids_;
    const std::function<void(const std::vector<Status>&)> done_;
  };

  uint8_t* Add(const BlockId& id, int64_t first_position, bool arriving) {
    MutexLock lock(mu_);
    Entry& entry = blocks_[id];
    entry.first_position = first_position;
    entry.arriving = arriving;
    entry.data = std::make_unique<uint8_t[]>(block_bytes_);
    return entry.data.get();
  }
  std::vector<uint32_t> Arrived(const BlockId& id, uint32_t checksum) {
    MutexLock lock(mu_);
    std::vector<uint32_t>& checksums = blocks_.at(id).checksums;
    checksums.push_back(checksum);
    return checksums;
  }

  const KvPart part_;
  const size_t block_bytes_;
  mutable Mutex mu_;
  std::map<BlockId, Entry> blocks_ GUARDED_BY(mu_);
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_RANK_BLOCKS_H_
