#include "tests/simulation/context.h"

#include <cstring>

namespace reprise::sim {

Oracle::Oracle(const worker::TimedModel& model) : model_(model) {}

void Oracle::Learn(const kv::ChainContext& chain, std::span<const int32_t> tokens) {
  const std::vector<kv::BlockId> ids = kv::ChainIds(chain, tokens);
  const size_t block = model_.block_tokens;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto part = tokens.subspan(i * block, block);
    blocks_.try_emplace(ids[i], Block{static_cast<int64_t>(i * block), {part.begin(), part.end()}});
  }
}

std::string Oracle::Check(const kv::BlockId& id, int64_t first_position,
                          const uint8_t* data) const {
  const auto found = blocks_.find(id);
  if (found == blocks_.end()) return "it is no block of any request";
  const Block& block = found->second;
  if (block.first_position != first_position) {
    return absl::StrCat("its rows begin at ", block.first_position, ", not ", first_position);
  }
  std::vector<uint8_t> row(model_.row_bytes);
  for (uint32_t layer = 0; layer < model_.layers; ++layer) {
    for (size_t i = 0; i < block.tokens.size(); ++i, data += row.size()) {
      const int64_t position = first_position + static_cast<int64_t>(i);
      worker::WriteTimedRow(model_, block.tokens[i], position, layer, row);
      if (std::memcmp(row.data(), data, row.size()) != 0) {
        return absl::StrCat("layer ", layer, " of position ", position, " is wrong");
      }
    }
  }
  return "";
}

Context::Context(World& w, Network& n, const Faults& f, Mutation m)
    : world(w),
      network(n),
      faults(f),
      mutation(m),
      model{.key = w.seed() * 2 + 1,
            .vocab_size = 997,
            .context_tokens = 160,
            .layers = 3,
            .row_bytes = 16,
            .block_tokens = 4},
      chain{.format_digest = worker::TimedFormat(model).Digest(),
            .block_tokens = static_cast<int>(model.block_tokens),
            .tenant_salt = {}},
      oracle(model) {}

}  // namespace reprise::sim
