// One end of the KV stream in the benchmark's own process: serves blocks whose bytes and checksums
// the benchmark chooses (they need not fit), fetches, offers and appends. Any thread.
#ifndef REPRISE_BENCH_STREAM_NODE_H_
#define REPRISE_BENCH_STREAM_NODE_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/status.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::bench {

// A block of random bytes and what holds of it when nothing is damaged.
struct TestBlock {
  kv::BlockId id;
  int64_t first_position = 0;
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> checksums;  // per layer
};
TestBlock RandomBlock(const kv::KvFormat& format, const kv::BlockId& id, int64_t first_position,
                      uint64_t seed);

class StreamNode : public kv::SegmentSource {
 public:
  static StatusOr<std::unique_ptr<StreamNode>> Create(const std::string& name,
                                                      const kv::KvFormat& format,
                                                      bool shared_memory);
  ~StreamNode() override;

  kv::PeerAddress address() const { return stream_->address(); }
  void Serve(std::vector<TestBlock> blocks);  // replaces what was served
  // One status per block; the bytes that came are compared by the caller.
  StatusOr<std::vector<Status>> Fetch(const kv::PeerAddress& source,
                                      const std::vector<TestBlock>& blocks,
                                      std::vector<std::vector<uint8_t>>* bytes);
  void Offer(const kv::PeerAddress& store, const std::vector<int32_t>& tokens);
  // The store's answers to the entries, in order.
  StatusOr<std::vector<Status>> Append(const kv::PeerAddress& store, kv::TailAppend append);

  Block Find(const kv::BlockId& id) override;

 private:
  explicit StreamNode(const kv::KvFormat& format) : format_(format) {}

  const kv::KvFormat format_;
  Mutex mu_;
  CondVar changed_;
  // Shared with transfers that still read a replaced block.
  std::map<kv::BlockId, std::shared_ptr<const TestBlock>> blocks_ GUARDED_BY(mu_);
  std::map<std::string, Status> held_ GUARDED_BY(mu_);  // first answer, by request id
  uint64_t offers_ GUARDED_BY(mu_) = 0;
  std::unique_ptr<kv::KvStream> stream_;  // last: it calls the rest
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_STREAM_NODE_H_
