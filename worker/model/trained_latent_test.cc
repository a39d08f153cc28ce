// The bundled latent model (models/demo-mla) against the logits of the script that trained it,
// computed by torch in double precision (tests/golden/make_demo_mla.py).
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "common/test_data.h"
#include "kernels/ops.h"
#include "worker/model/folder_writer.h"
#include "worker/model/golden_logits.h"
#include "worker/model/model_folder.h"
#include "worker/model/offline.h"
#include "worker/model/presets.h"

namespace reprise::worker {
namespace {

constexpr int64_t kPrompt = 25;  // tokens in prompt form

std::string Demo() { return ProjectFile("models/demo-mla"); }

// The folder with its bf16 numbers in f32, so that nothing is rounded to bf16 on the way.
std::string Widened(const std::string& dir) {
  const auto folder = ModelFolder::Open(dir);
  EXPECT_TRUE(folder.ok()) << folder.status();
  const std::string wide = testing::TempDir() + "/demo_mla_f32";
  std::filesystem::remove_all(wide);
  EXPECT_TRUE(PrepareModelFolder(wide).ok());
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : folder->tensors()) {
    EXPECT_EQ(tensor.type, TensorType::kBF16) << name;
    entries.push_back({name, TensorType::kF32, tensor.shape});
  }
  TensorFileWriter out(wide + "/model.safetensors", entries);
  for (const TensorEntry& entry : entries) {
    std::vector<uint8_t> bytes(entry.bytes());
    kernels::Select(kernels::Isa::kScalar)
        .convert(folder->tensor(entry.name).bytes.data(), kernels::DType::kBF16, bytes.data(),
                 kernels::DType::kF32, static_cast<int64_t>(bytes.size() / sizeof(float)));
    out.Append(bytes);
  }
  EXPECT_TRUE(out.Close().ok());
  EXPECT_TRUE(WriteModelFile(wide, "config.json", ConfigJson(folder->config())).ok());
  return wide;
}

double Error(const std::string& dir, int64_t prompt_end) {
  const auto golden = ReadGoldenLogits(ProjectFile("tests/golden/demo-mla"));
  EXPECT_TRUE(golden.ok()) << golden.status();
  auto model = OfflineModel::Open({.model_dir = dir});
  EXPECT_TRUE(model.ok()) << model.status();
  const auto logits = (*model)->ForwardAll(golden->tokens, 0, prompt_end);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return RelativeLogitError(*logits, golden->logits);
}

// Twice the layers of the models that the bound is for.
TEST(TrainedLatent, BothFormsAgreeWithTorch) {
  const std::string wide = Widened(Demo());
  EXPECT_LT(Error(wide, INT64_MAX), 2 * kGoldenErrorMax);
  EXPECT_LT(Error(wide, kPrompt), 2 * kGoldenErrorMax);
}

// As it is served: 8 bits of significand, rounded some forty times on the way through six layers.
TEST(TrainedLatent, AsStoredItAgreesToBf16) { EXPECT_LT(Error(Demo(), kPrompt), 0.2); }

}  // namespace
}  // namespace reprise::worker
