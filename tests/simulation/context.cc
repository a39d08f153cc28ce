#include "tests/simulation/context.h"

#include <cstring>

namespace reprise::sim {

Oracle::Oracle(const worker::TimedModel& model) : model_(model) {}

void Oracle::Learn(const kv::ChainContext& chain, std::span<const int32_t> tokens,
                   int64_t prompt_tokens) {
  const int64_t prompt_end = PromptEnd(prompt_tokens);
  const std::vector<kv::BlockId> ids = kv::ChainIds(chain, tokens, prompt_end);
  const size_t block = model_.block_tokens;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto part = tokens.subspan(i * block, block);
    blocks_.try_emplace(
        ids[i], Block{static_cast<int64_t>(i * block), prompt_end, {part.begin(), part.end()}});
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
  return CheckRows(block.tokens, first_position, block.prompt_end, data);
}

std::string Oracle::CheckRows(std::span<const int32_t> tokens, int64_t first_position,
                              int64_t prompt_end, const uint8_t* block) const {
  std::vector<uint8_t> row(model_.row_bytes);
  const size_t segment = size_t{model_.block_tokens} * row.size();
  for (uint32_t layer = 0; layer < model_.layers; ++layer) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const int64_t position = first_position + static_cast<int64_t>(i);
      const auto form = position < prompt_end ? worker::RowForm::kPrompt : worker::RowForm::kStep;
      worker::WriteTimedRow(model_, tokens[i], position, form, layer, row);
      if (std::memcmp(row.data(), block + layer * segment + i * row.size(), row.size()) != 0) {
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
            .block_tokens = 4,
            .two_forms = w.seed() % 2 == 0},
      format(worker::TimedFormat(model)),
      chain{.format_digest = format.Digest(),
            .block_tokens = static_cast<int>(model.block_tokens),
            .tenant_salt = {}},
      oracle(model) {}

}  // namespace reprise::sim
