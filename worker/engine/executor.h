// What computes: one step over any mix of prompt chunks and decode rows, layer by layer, on a paged
// KV pool. The CPU model executor and the timed executor stand behind it; the engine owns one and
// calls it from its step thread only.
//
// Invariants:
// 1. Outputs depend on each sequence's own tokens, positions and KV rows alone, never on what else
//    is in the batch, how a prompt is cut into chunks, or the number of threads.
// 2. Run writes exactly the KV rows of the batch's tokens and reads rows [0, position] only.
// 3. A KV row does not depend on the chunk it was computed in. It depends on its position's form,
//    prompt or step, only where info().two_forms says so.
#ifndef REPRISE_WORKER_ENGINE_EXECUTOR_H_
#define REPRISE_WORKER_ENGINE_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "kvstore/block/kv_format.h"
#include "worker/engine/chunk_budget.h"
#include "worker/engine/sampling.h"

namespace reprise::worker {

struct ExecutorInfo {
  std::string model_name;
  kv::KvFormat kv_format;
  int32_t vocab_size = 0;
  int32_t context_tokens = 0;
  // Tokens of prompt a step may hold so that one layer stays within its time bound.
  int32_t chunk_tokens_max = 512;
  ChunkCost chunk_cost;
  // Rows of generated positions have other bits than the same tokens' would have in a prompt.
  bool two_forms = false;
};

// Rows [first_position, first_position + tokens.size()) of one sequence.
struct StepItem {
  std::span<const int32_t> tokens;
  int64_t first_position = 0;
  std::span<const int32_t> pages;  // block table: page of block i, covering all rows up to the last
  bool wants_output = false;       // of the last row
  // Positions from here on are generated ones: computed in step form, however many at a time.
  int64_t prompt_end = INT64_MAX;
};

// A token wanted of a step: drawn from the output of items[item], which wants_output.
struct StepSample {
  size_t item = 0;
  SampleInput input;
};

class Executor {
 public:
  virtual ~Executor() = default;

  virtual const ExecutorInfo& info() const = 0;

  // The pool's memory: page p starts at base + p * block_bytes. Called once, before Run.
  virtual void AttachPool(uint8_t* base, int32_t pages) = 0;

  // Called on the step thread between parts of a layer that takes long, so that a step gives a sign
  // of life every 250 ms. Set once, before the first Run that should; executors whose layers are
  // always short leave it alone.
  using Tick = std::function<void()>;
  virtual void SetTick(Tick) {}

  // Somebody else writes these pages, or has: fetches, copies. Called on the step thread before a
  // Run reads them; executors that compute in the pool itself need not know.
  virtual void OnPagesReplaced(std::span<const int32_t>) {}

  // Called on the step thread after layer `layer` of the whole batch is written.
  using LayerDone = std::function<void(uint32_t layer)>;
  // UNAVAILABLE or FAILED_PRECONDITION: nothing can be computed any more, by no fault of the step.
  // Any other error is the step's.
  virtual Status Run(std::span<const StepItem> items, const LayerDone& layer_done) = 0;

  // Of a page that the step under way wrote from its first row to its last, once layer_done(layer)
  // is called: the part (common/crc32c.h) of the segment's checksum, where the executor has made it
  // along with the bytes. None: whoever sends the segment sums it.
  virtual std::optional<uint32_t> SegmentPart(int32_t /*page*/, uint32_t /*layer*/) {
    return std::nullopt;
  }

  // Ends a Run that waits for other processes with UNAVAILABLE, and so all later ones. Any thread;
  // executors that wait for nobody leave it alone.
  virtual void Stop() {}

  // Samples from the last Run's output of items[item]; may be called several times per item (n
  // branches). Pure in (output, input).
  virtual SampledToken Sample(size_t item, const SampleInput& input) = 0;

  // Run, and Sample for each of `samples`, which is what it does unless the executor draws where
  // its outputs are. The tokens are the same to the bit, in the order of `samples`, whose spans
  // stay as they are meanwhile; Sample says nothing of such a step afterwards. Errors are Run's.
  virtual Status RunAndSample(std::span<const StepItem> items, std::span<const StepSample> samples,
                              const LayerDone& layer_done, std::vector<SampledToken>* tokens);
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_EXECUTOR_H_
