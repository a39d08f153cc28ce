// The cells of `bench relayout`: every pair of group splits with sizes of 1, 2 and 4 that fits four
// ranks a side, for rows of heads, of latents and of the timed engine. The same in the benchmark
// and in the processes that are its ranks. Values; any thread.
#ifndef REPRISE_BENCH_RELAYOUT_CELLS_H_
#define REPRISE_BENCH_RELAYOUT_CELLS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kvstore/block/group_split.h"
#include "kvstore/stream/verifiable_blocks.h"
#include "worker/engine/timed_tokens.h"

namespace reprise::bench {

inline constexpr uint32_t kRelayoutRanks = 4;    // a side
inline constexpr uint32_t kRelayoutBlocks = 72;  // all stripes of four context ranks, and one more

struct RelayoutShape {
  std::string name;
  kv::KvFormat format;
  bool timed = false;  // rows as the timed engine writes them
};

inline worker::TimedModel RelayoutModel() { return {}; }

inline std::vector<RelayoutShape> RelayoutShapes() {
  const auto format = [](std::vector<kv::RowField> fields) {
    kv::KvFormat made;
    made.fields = std::move(fields);
    made.layers = 8;
    return made;
  };
  return {{"heads", format({{"k", 4, 16, true}, {"v", 4, 16, false}})},
          {"latents", format({{"c_kv", 1, 64, false}, {"k_rope", 1, 16, true}})},
          {"timed", worker::TimedFormat(RelayoutModel()), true}};
}

inline std::vector<kv::GroupSplit> RelayoutSplits() {
  std::vector<kv::GroupSplit> splits;
  for (const uint32_t tensor : {1u, 2u, 4u}) {
    for (const uint32_t pipeline : {1u, 2u, 4u}) {
      for (const uint32_t context : {1u, 2u, 4u}) {
        const kv::GroupSplit split{.pipeline = pipeline, .tensor = tensor, .context = context};
        if (split.ranks() <= kRelayoutRanks) splits.push_back(split);
      }
    }
  }
  return splits;
}

struct RelayoutCell {
  size_t number = 0;
  RelayoutShape shape;
  kv::GroupSplit from;
  kv::GroupSplit to;
};

inline std::vector<RelayoutCell> RelayoutCells() {
  std::vector<RelayoutCell> cells;
  for (const RelayoutShape& shape : RelayoutShapes()) {
    for (const kv::GroupSplit& from : RelayoutSplits()) {
      for (const kv::GroupSplit& to : RelayoutSplits()) {
        cells.push_back({cells.size(), shape, from, to});
      }
    }
  }
  return cells;
}

// What block `block` of the sequence must be at a holder of `part`.
inline void WriteRelayoutBlock(const RelayoutShape& shape, const kv::KvPart& part,
                               const std::vector<int32_t>& tokens, size_t block, uint8_t* out) {
  const size_t rows = shape.format.block_tokens;
  const auto first = static_cast<int64_t>(block * rows);
  if (!shape.timed) {
    kv::WriteVerifiableBlock(shape.format, part, std::span(tokens).subspan(block * rows, rows),
                             first, out);
    return;
  }
  const worker::TimedModel model = RelayoutModel();
  for (uint32_t layer = part.layers.begin; layer < part.layers.end; ++layer) {
    for (size_t row = 0; row < rows; ++row, out += model.row_bytes) {
      worker::WriteTimedRow(model, tokens[block * rows + row], first + static_cast<int64_t>(row),
                            worker::RowForm::kPrompt, layer, {out, model.row_bytes});
    }
  }
}

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_RELAYOUT_CELLS_H_
