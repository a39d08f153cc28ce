// Processes of ring_rank, for ring_bench and its test. Owned by whoever started them, from a thread
// that lives as long; one thread.
#ifndef REPRISE_BENCH_RING_PROCESS_H_
#define REPRISE_BENCH_RING_PROCESS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "common/subprocess.h"

namespace reprise::bench {

struct RingRun {
  std::string program;          // ring_rank
  std::string model;            // folder
  int64_t tokens = 0;           // of the prompt
  int64_t leaves = 1;           // of a stripe
  int threads = 1;              // of a rank
  double link_bytes_per_s = 0;  // 0: as fast as it is
};

// Checksums of a leaf's logits and of its KV in all layers.
struct RingLeaf {
  uint32_t logits = 0;
  uint32_t kv = 0;
  bool operator==(const RingLeaf&) const = default;
};

// What a rank printed.
struct RingAnswer {
  std::map<int64_t, RingLeaf> leaves;    // that it owns
  std::map<std::string, double> counts;  // by name
};

class RingProcess {
 public:
  // Every rank of a group; one: alone.
  static StatusOr<std::vector<std::unique_ptr<RingProcess>>> StartAll(const RingRun& run,
                                                                      int ranks);
  // Returns once the rank has joined its group.
  Status AwaitJoined();
  // UNAVAILABLE unless it ended well.
  StatusOr<RingAnswer> Finish();
  Subprocess& process() { return *process_; }

 private:
  // False at the end of what it prints.
  bool Read();
  std::unique_ptr<Subprocess> process_;
  std::string text_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_RING_PROCESS_H_
