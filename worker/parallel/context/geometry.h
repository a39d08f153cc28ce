// Who computes what, what travels where and how many bytes that is, when query rows attend to a
// sequence whose keys lie in stripes over the ranks. Everything follows from positions, so all
// ranks know it without asking. Pure; any thread.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_GEOMETRY_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_GEOMETRY_H_

#include <cstdint>
#include <vector>

#include "worker/parallel/context/stripe_tree.h"
#include "worker/parallel/context/stripes.h"

namespace reprise::parallel {

// Queries at positions [first_position, first_position + rows) of a sequence, whoever owns them;
// each sees all positions up to its own. Equal on all ranks but for the last two.
struct ContextItem {
  int64_t first_position = 0;
  int64_t rows = 0;
  const int32_t* pages = nullptr;  // this rank's page table of the sequence: rows by LocalRow
  int64_t row = 0;                 // where this rank's queries of it begin in the call's q and out

  int64_t keys() const { return first_position + rows; }
  PositionRange range() const { return {first_position, keys()}; }
};

// Queries of one rank within one stripe.
struct QueryRun {
  int64_t item = 0;  // in the call's list
  int64_t first_position = 0;
  int64_t rows = 0;
  int64_t last = 0;  // their stripe
  int64_t row = 0;   // after the item's `row`, of their owner's
  int64_t keys() const { return first_position + rows; }
};
// Whether the rank keeps keys that the run sees: its first stripe is the one of its own number.
inline bool Sees(const QueryRun& run, int rank) { return run.last >= rank; }
// Ascending.
std::vector<QueryRun> RunsOf(const Stripes& stripes, const std::vector<ContextItem>& items,
                             int rank);

// What a call's bytes are made of.
struct WireShape {
  int64_t block_tokens = 64;
  int64_t page_bytes = 0;      // keys and values, or latents, of one page and layer
  int64_t query_bytes = 0;     // a query row, all heads
  int64_t partial_floats = 0;  // its partial result: out and lse, all heads
};

// Pages that hold a stripe of a sequence of `keys` positions.
int64_t PagesOfStripe(const Stripes& stripes, int64_t block_tokens, int64_t stripe, int64_t keys);
// Pages that hold a rank's part of it.
int64_t PagesKept(const Stripes& stripes, int64_t block_tokens, int rank, int64_t keys);

// ---- Pass-KV as a ring: the two stripes of a rank and round, its shard, go from neighbour to
// neighbour as far as someone needs them.
int Distance(int from, int to, int ranks);  // in hops
// How often the shard is sent on: to the farthest rank that has queries which see it.
int HopsOf(const Stripes& stripes, const ContextItem& item, int64_t round, int owner);
int64_t ShardPages(const Stripes& stripes, int64_t block_tokens, int64_t round, int owner,
                   int64_t keys);
int64_t RoundsOf(const Stripes& stripes, int64_t keys);

// ---- Pass-Q: queries go to whoever keeps keys they see; partial results come back.
enum class Merge : uint8_t {
  kGather,  // straight to the rows' owner, one step
  kTree,    // pairwise up a binary tree over ranks, whose root is the owner
};
// `from` sends what ranks `ranks` have made of the owner's rows.
struct Move {
  int from = 0;
  int to = 0;
  RankSpan ranks;
};
// Level by level; a level begins when the one before has ended.
std::vector<std::vector<Move>> MovesOf(Merge merge, int ranks, int owner);
// Floats of a move's message for these runs of the owner.
int64_t MoveFloats(const Stripes& stripes, const std::vector<QueryRun>& runs, RankSpan ranks,
                   int64_t partial_floats);

// ---- Payload that `rank` sends for a layer, in bytes.
int64_t RingBytes(const Stripes& stripes, const ContextItem& item, const WireShape& wire, int rank);
int64_t GatherBytes(const Stripes& stripes, const ContextItem& item, const WireShape& wire,
                    int rank);
int64_t QueryBytes(const Stripes& stripes, const ContextItem& item, const WireShape& wire, int rank,
                   Merge merge);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_GEOMETRY_H_
