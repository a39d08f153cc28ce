// Blocks whose bytes follow from their id, and a listener that lets tests wait, shared by the tests
// of the stream. Header-only; any thread.
#ifndef REPRISE_KVSTORE_STREAM_STREAM_TEST_BLOCKS_H_
#define REPRISE_KVSTORE_STREAM_STREAM_TEST_BLOCKS_H_

#include <chrono>
#include <map>
#include <optional>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "kvstore/block/kv_format.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::kv {

// 4 layers of 4 KiB.
inline KvFormat TestFormat() {
  KvFormat format;
  format.fields = {{.name = "row", .heads = 1, .elements = 256}};
  format.layers = 4;
  format.block_tokens = 16;
  format.codec = ElementCodec::kOpaque8;
  return format;
}

// Kind 'r' is ready at the test source, 'p' pending, anything else missing.
inline BlockId TestId(char kind, uint8_t number) {
  BlockId id;
  id.bytes[0] = static_cast<uint8_t>(kind);
  id.bytes[1] = number;
  return id;
}

inline std::vector<uint8_t> TestBlock(const BlockId& id) {
  std::vector<uint8_t> data(TestFormat().block_bytes());
  uint32_t state = id.bytes[0] * 256u + id.bytes[1] + 1;
  for (uint8_t& byte : data) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<uint8_t>(state >> 24);
  }
  return data;
}

class RecordingListener : public FetchListener {
 public:
  void OnLayer(size_t item, uint32_t layer, uint32_t) override {
    MutexLock lock(mu_);
    layers_[item].push_back(layer);
    changed_.NotifyAll();
  }
  void OnDone(const std::vector<Status>& items) override {
    MutexLock lock(mu_);
    ++done_calls_;
    items_ = items;
    changed_.NotifyAll();
  }

  // Statuses of the items, or nullopt when the fetch has not ended in time.
  std::optional<std::vector<Status>> AwaitDone(TimeNs patience_ns) {
    MutexLock lock(mu_);
    const TimeNs deadline_ns = RealClock().NowNs() + patience_ns;
    while (done_calls_ == 0) {
      if (!WaitUntil(deadline_ns)) return std::nullopt;
    }
    return items_;
  }
  bool AwaitLayers(size_t item, size_t n, TimeNs patience_ns) {
    MutexLock lock(mu_);
    const TimeNs deadline_ns = RealClock().NowNs() + patience_ns;
    while (layers_[item].size() < n) {
      if (!WaitUntil(deadline_ns)) return false;
    }
    return true;
  }
  int done_calls() const {
    MutexLock lock(mu_);
    return done_calls_;
  }
  std::vector<uint32_t> layers(size_t item) const {
    MutexLock lock(mu_);
    const auto found = layers_.find(item);
    return found == layers_.end() ? std::vector<uint32_t>() : found->second;
  }

 private:
  bool WaitUntil(TimeNs deadline_ns) REQUIRES(mu_) {
    const TimeNs left_ns = deadline_ns - RealClock().NowNs();
    if (left_ns <= 0) return false;
    changed_.WaitFor(mu_, std::chrono::nanoseconds(left_ns));
    return true;
  }

  mutable Mutex mu_;
  CondVar changed_;
  std::map<size_t, std::vector<uint32_t>> layers_ GUARDED_BY(mu_);
  std::vector<Status> items_ GUARDED_BY(mu_);
  int done_calls_ GUARDED_BY(mu_) = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_STREAM_TEST_BLOCKS_H_
