// What every simulated process shares: the world, the network, who is who, the model's geometry,
// the planted bug, and the oracle of what every block must hold. Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_CONTEXT_H_
#define REPRISE_TESTS_SIMULATION_CONTEXT_H_

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/sha256.h"
#include "kvstore/block/block_id.h"
#include "kvstore/block/kv_format.h"
#include "tests/simulation/faults.h"
#include "tests/simulation/network.h"
#include "tests/simulation/world.h"
#include "worker/engine/core/types.h"
#include "worker/engine/timed_tokens.h"

namespace reprise::sim {

class Journal;
class KvNode;
class SimCoordinator;
class SimStore;

// The rows every block id stands for, known because every request's undisturbed run is known.
class Oracle {
 public:
  explicit Oracle(const worker::TimedModel& model);
  // All blocks of `tokens`, the first `prompt_tokens` of which are the prompt.
  void Learn(const kv::ChainContext& chain, std::span<const int32_t> tokens, int64_t prompt_tokens);
  // As block ids know it.
  int64_t PromptEnd(int64_t prompt_tokens) const {
    return model_.two_forms ? prompt_tokens : kv::kOneForm;
  }
  // Empty when `data` (a whole block) is what `id` names; otherwise what is wrong.
  std::string Check(const kv::BlockId& id, int64_t first_position, const uint8_t* data) const;
  // The same of the first rows of a block.
  std::string CheckRows(std::span<const int32_t> tokens, int64_t first_position, int64_t prompt_end,
                        const uint8_t* block) const;

 private:
  struct Block {
    int64_t first_position = 0;
    int64_t prompt_end = kv::kOneForm;
    std::vector<int32_t> tokens;
  };
  const worker::TimedModel model_;
  std::map<kv::BlockId, Block> blocks_;
};

struct Context {
  Context(World& w, Network& n, const Faults& f, Mutation m);

  size_t segment_bytes() const { return size_t{model.block_tokens} * model.row_bytes; }
  size_t block_bytes() const { return segment_bytes() * model.layers; }
  bool mutated(Mutation what) const { return mutation == what; }

  World& world;
  Network& network;
  const Faults& faults;
  const Mutation mutation;
  bool faults_stopped = false;
  worker::TimedModel model;
  kv::KvFormat format;
  kv::ChainContext chain;
  Oracle oracle;
  Journal* journal = nullptr;
  std::map<NodeKey, KvNode*> kv_nodes;        // every incarnation ever; dead ones refuse
  std::map<NodeKey, SimStore*> stores;        // likewise
  std::vector<SimCoordinator*> coordinators;  // by address; null while it is down
  uint64_t stale_leader_refused = 0;
  // Called with every message a worker sends about a request, and the stores it replicates to.
  std::function<void(const worker::Emit&, const std::vector<worker::NodeRef>&)> on_emit;
};

inline Digest256 DigestOfHandle(const std::string& handle) {
  return Sha256().Update(handle).Finish();
}

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_CONTEXT_H_
