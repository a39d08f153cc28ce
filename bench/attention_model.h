// Models of one attention layer for benchmarks: made folders and inputs. One thread.
#ifndef REPRISE_BENCH_ATTENTION_MODEL_H_
#define REPRISE_BENCH_ATTENTION_MODEL_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "bench/bench_main.h"
#include "common/random.h"
#include "worker/model/make_model.h"
#include "worker/model/model_folder.h"
#include "worker/model/presets.h"

namespace reprise::bench {

// The attention of DeepSeek-V2-Lite and little else.
inline worker::ModelConfig V2LiteAttention() {
  worker::ModelConfig config = *worker::PresetConfig("deepseek-v2-lite");
  config.layers = 1;
  config.vocab = 512;
  config.intermediate = 64;
  config.bos_id = 0;
  config.eos_ids = {0};
  config.mixture.reset();
  return config;
}

// Written afresh under the cache folder, bf16.
inline StatusOr<worker::ModelFolder> MadeAttention(const BenchFlags& flags, const std::string& name,
                                                   const worker::ModelConfig& config) {
  const std::string dir = absl::StrCat(flags.cache_dir, "/attention-", name);
  std::error_code ignored;
  std::filesystem::remove_all(dir, ignored);
  RETURN_IF_ERROR(worker::MakeModelOf(config, {.seed = 1, .dir = dir}));
  return worker::ModelFolder::Open(dir);
}

// About one, either sign, eight bits of significand: as a norm gives them, exact in bf16.
inline std::vector<float> NormedInputs(int64_t n) {
  SplitMix64 random(7);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& value : x) {
    value = static_cast<float>(static_cast<int64_t>(random.Below(255)) - 127) * 0x1p-6F;
  }
  return x;
}

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_ATTENTION_MODEL_H_
