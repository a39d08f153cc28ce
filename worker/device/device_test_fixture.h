// Executors on a device for tests, on the emulator or on a card, and models whose dims its kernels
// take.
#ifndef REPRISE_WORKER_DEVICE_DEVICE_TEST_FIXTURE_H_
#define REPRISE_WORKER_DEVICE_DEVICE_TEST_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/test_device.h"
#include "worker/device/device_executor.h"
#include "worker/model/test_models.h"

namespace reprise::worker {

inline constexpr int32_t kPages = 8;
#if defined(REPRISE_ON_CARD)
inline constexpr bool kEmulated = false;
#else
inline constexpr bool kEmulated = true;
#endif

// An executor with a pool of its own.
class Device {
 public:
  explicit Device(DeviceOptions options, int32_t pages = kPages) {
    options.emulated = kEmulated;
    auto made = DeviceExecutor::Create(options);
    EXPECT_TRUE(made.ok()) << made.status();
    if (!made.ok()) return;
    executor = std::move(*made);
    pool.assign(static_cast<size_t>(pages) * executor->info().kv_format.block_bytes(), 0);
    executor->AttachPool(pool.data(), pages);
  }
  // Logits of positions [first, first + count), in chunks.
  std::vector<float> Logits(std::span<const int32_t> tokens, size_t first, size_t count,
                            size_t chunk, int64_t prompt_end, std::span<const int32_t> pages) {
    std::vector<float> all;
    for (size_t at = first; at < first + count; at += chunk) {
      const size_t n = std::min(chunk, first + count - at);
      const std::vector<StepItem> items = {
          {tokens.subspan(at, n), static_cast<int64_t>(at), pages, true, prompt_end}};
      const Status status = executor->RunAll(items);
      EXPECT_TRUE(status.ok()) << status;
      for (size_t i = 0; i < n; ++i) {
        const std::span<const float> row = executor->logits(static_cast<int64_t>(i));
        all.insert(all.end(), row.begin(), row.end());
      }
    }
    return all;
  }

  std::unique_ptr<DeviceExecutor> executor;
  std::vector<uint8_t> pool;
};

// Families with every part there is: grouped heads, norms of heads, biases, latents with and
// without a query rank, experts of each kind. Dims that the plain kernels take.
inline std::vector<ModelConfig> PlainConfigs() {
  std::vector<ModelConfig> configs;
  for (const char* preset :
       {"tiny-llama3", "tiny-mixtral", "tiny-qwen3-moe", "tiny-deepseek-v2", "tiny-deepseek-v3"}) {
    auto config = PresetConfig(preset);
    EXPECT_TRUE(config.ok()) << preset;
    if (!config.ok()) continue;
    if (config->latent) {
      config->latent->value_dim = 24;
      if (config->latent->q_rank > 0) config->latent->q_rank = 32;
    }
    configs.push_back(*config);
  }
  return configs;
}

// Dims that the Hopper kernels take.
inline ModelConfig HopperHeads() {
  ModelConfig c = *PresetConfig("tiny-llama3");
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 64;
  c.layers = 2;
  return c;
}
inline ModelConfig HopperLatents() {
  ModelConfig c = *PresetConfig("tiny-deepseek-v2");
  c.heads = c.kv_heads = 2;
  c.layers = 2;
  c.latent->q_rank = 32;
  c.latent->kv_rank = 512;
  c.latent->rope_dim = 64;
  c.latent->nope_dim = 128;
  c.latent->value_dim = 128;
  c.head_dim = 192;
  if (c.mixture) c.mixture->layers.resize(2);
  return c;
}

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_DEVICE_TEST_FIXTURE_H_
