#include "worker/engine/timed_tokens.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "common/sha256.h"

namespace reprise::worker {
namespace {

// The finalizer of SplitMix64: every input bit reaches every output bit.
uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;
constexpr uint64_t kLaneFactor = 0xd6e8feb86659fd93u;

bool Holds(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Rows of a growing sequence, folded as the executor folds its pages: block by block, layer by
// layer, with the open block folded anew each time.
class GrowingFold {
 public:
  explicit GrowingFold(const TimedModel& model)
      : model_(model), whole_(model), open_(model.layers) {}

  void Append(int32_t token, RowForm form) {
    for (uint32_t layer = 0; layer < model_.layers; ++layer) {
      std::vector<uint8_t>& rows = open_[layer];
      rows.resize(rows.size() + model_.row_bytes);
      WriteTimedRow(model_, token, position_, form, layer, std::span(rows).last(model_.row_bytes));
    }
    if (++position_ % model_.block_tokens != 0) return;
    for (std::vector<uint8_t>& rows : open_) {
      whole_.Add(rows);
      rows.clear();
    }
  }
  uint64_t Value() const {
    TimedFold fold = whole_;
    for (const std::vector<uint8_t>& rows : open_) fold.Add(rows);
    return fold.Value();
  }

 private:
  const TimedModel& model_;
  TimedFold whole_;
  std::vector<std::vector<uint8_t>> open_;  // per layer
  int64_t position_ = 0;
};

}  // namespace

Status ValidateTimedModel(const TimedModel& model) {
  const auto refuse = [](absl::string_view what, int64_t value, absl::string_view rule) {
    return absl::InvalidArgumentError(
        absl::StrCat("timed engine: ", what, " is ", value, ", it must be ", rule));
  };
  if (model.vocab_size < 2) return refuse("vocab_size", model.vocab_size, "at least 2");
  if (model.context_tokens < 2) return refuse("context_tokens", model.context_tokens, "at least 2");
  if (model.row_bytes == 0 || model.row_bytes % 8 != 0) {
    return refuse("row_bytes", model.row_bytes, "a positive multiple of 8");
  }
  return kv::ValidateFormat(TimedFormat(model));
}

kv::KvFormat TimedFormat(const TimedModel& model) {
  kv::KvFormat format;
  Sha256 hash;
  hash.Update(absl::string_view("reprise.timed.v1"));
  for (const uint64_t word : {model.key, static_cast<uint64_t>(model.vocab_size)}) {
    hash.UpdateU64le(word);
  }
  if (model.two_forms) hash.Update(absl::string_view("two_forms"));
  format.model_fingerprint = hash.Finish();
  format.numerics_class = format.model_fingerprint;  // integers: one class
  format.fields = {kv::RowField{"row", 1, model.row_bytes, false}};
  format.layers = model.layers;
  format.block_tokens = model.block_tokens;
  format.codec = kv::ElementCodec::kOpaque8;
  return format;
}

void WriteTimedRow(const TimedModel& model, int32_t token, int64_t position, RowForm form,
                   uint32_t layer, std::span<uint8_t> row) {
  uint64_t state = Mix(model.key ^ Mix(static_cast<uint64_t>(position) * model.layers + layer) ^
                       (static_cast<uint64_t>(static_cast<uint32_t>(token)) << 32));
  if (model.two_forms && form == RowForm::kStep) state = Mix(state);
  for (size_t at = 0; at + 8 <= row.size(); at += 8) {
    state += kGolden;
    const uint64_t word = Mix(state);
    std::memcpy(row.data() + at, &word, sizeof(word));
  }
}

TimedFold::TimedFold(const TimedModel& model) {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    lanes_[lane] = Mix(model.key + kGolden * (lane + 1));
  }
}

void TimedFold::Add(std::span<const uint8_t> rows) {
  std::array<uint64_t, 8> lanes = lanes_;
  const uint8_t* at = rows.data();
  size_t words = rows.size() / 8;
  for (; words >= lanes.size(); words -= lanes.size(), at += 8 * lanes.size()) {
    for (size_t lane = 0; lane < lanes.size(); ++lane) {
      uint64_t word;
      std::memcpy(&word, at + 8 * lane, sizeof(word));
      lanes[lane] = (lanes[lane] ^ word) * kLaneFactor;
    }
  }
  for (size_t lane = 0; lane < words; ++lane) {
    uint64_t word;
    std::memcpy(&word, at + 8 * lane, sizeof(word));
    lanes[lane] = (lanes[lane] ^ word) * kLaneFactor;
  }
  lanes_ = lanes;
}

uint64_t TimedFold::Value() const {
  uint64_t value = 0;
  for (const uint64_t lane : lanes_) value = Mix(value + kGolden + lane);
  return value;
}

SampledToken TimedSample(const TimedModel& model, uint64_t fold, const SampleInput& input) {
  const SamplingParams& params = *input.params;
  const uint64_t draw = Mix(fold ^ Mix(params.seed + kGolden) ^
                            Mix((uint64_t{input.branch} << 32) + input.index + 1));
  const auto vocab = static_cast<uint64_t>(model.vocab_size);
  const auto scaled = [vocab](uint64_t bits) {
    return static_cast<int32_t>(static_cast<unsigned __int128>(bits) * vocab >> 64);
  };
  SampledToken token;
  token.id = scaled(draw);
  // At most as many steps as ids are barred, unless all are.
  for (size_t tries = params.eos_ids.size() + params.stop_ids.size(); tries > 0; --tries) {
    const bool barred = input.index < static_cast<uint32_t>(std::max(params.min_tokens, 0)) &&
                        (Holds(params.eos_ids, token.id) || Holds(params.stop_ids, token.id));
    if (!barred) break;
    token.id = (token.id + 1) % model.vocab_size;
  }
  const auto logprob = [](uint64_t bits) {
    return -static_cast<float>(bits >> 40) * 0x1p-21F;  // (-8, 0]
  };
  token.logprob = logprob(Mix(draw));
  for (int32_t i = 0; i < params.top_logprobs; ++i) {
    const uint64_t bits = Mix(draw + kGolden * static_cast<uint64_t>(i + 1));
    token.top.emplace_back(scaled(bits), logprob(Mix(bits)));
  }
  return token;
}

std::vector<SampledToken> ExpectedTimedTokens(const TimedModel& model,
                                              std::span<const int32_t> prompt,
                                              const SamplingParams& params, uint32_t branch) {
  GrowingFold fold(model);
  for (const int32_t token : prompt) fold.Append(token, RowForm::kPrompt);
  const int64_t room = model.context_tokens - static_cast<int64_t>(prompt.size());
  std::vector<SampledToken> tokens;
  std::vector<int32_t> generated;
  SampleInput input;
  input.params = &params;
  input.branch = branch;
  input.prompt = prompt;
  while (static_cast<int64_t>(tokens.size()) < std::min<int64_t>(params.max_tokens, room)) {
    input.index = static_cast<uint32_t>(tokens.size());
    input.generated = generated;
    tokens.push_back(TimedSample(model, fold.Value(), input));
    const int32_t id = tokens.back().id;
    if (Holds(params.eos_ids, id) || Holds(params.stop_ids, id)) break;
    generated.push_back(id);
    fold.Append(id, RowForm::kStep);
  }
  return tokens;
}

}  // namespace reprise::worker
