// Small random model folders for tests, written under the test's temporary folder. Owner: tests.
#ifndef REPRISE_WORKER_MODEL_TEST_MODELS_H_
#define REPRISE_WORKER_MODEL_TEST_MODELS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "common/random.h"
#include "worker/model/make_model.h"
#include "worker/model/presets.h"

namespace reprise::worker {

// Writes the configuration afresh and returns its folder.
inline std::string TestModel(ModelConfig config, MakeModelOptions options = {}) {
  static int count = 0;
  options.dir = testing::TempDir() + "/model_" + std::to_string(count++);
  std::filesystem::remove_all(options.dir);
  const Status status = MakeModelOf(std::move(config), options);
  EXPECT_TRUE(status.ok()) << status;
  return options.dir;
}

inline std::string TestModel(const std::string& preset, MakeModelOptions options = {}) {
  return TestModel(*PresetConfig(preset), std::move(options));
}

// A preset so wide that eight slices of its row-parallel products have elements.
inline ModelConfig WidePreset(const std::string& preset) {
  ModelConfig c = *PresetConfig(preset);
  c.heads = 8;
  c.intermediate = 8 * 64 - 8;
  if (c.latent) {
    c.kv_heads = c.heads;
    c.latent->value_dim = 32;
  } else {
    c.head_dim = 32;
  }
  if (c.family == Family::kMixtral) c.mixture->intermediate = c.intermediate;
  if (c.mixture && c.mixture->shared_intermediate > 0) c.mixture->shared_intermediate = 8 * 32;
  return c;
}

inline std::vector<int32_t> RandomTokens(size_t n, int64_t vocab, uint64_t seed) {
  SplitMix64 random(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& id : tokens) {
    id = static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab)));
  }
  return tokens;
}

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_TEST_MODELS_H_
