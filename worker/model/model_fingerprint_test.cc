// Who reads a part of a model knows that part's sums, and agrees with others about the whole.
#include "worker/model/model_fingerprint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "worker/model/test_models.h"
#include "worker/model/weights.h"

namespace reprise::worker {
namespace {

using ::testing::HasSubstr;

constexpr char kFirst[] = "model.layers.0.self_attn.q_proj.weight";
constexpr char kSecond[] = "model.layers.1.self_attn.q_proj.weight";

class ModelFingerprintTest : public testing::Test {
 protected:
  const ModelFolder folder_ = *ModelFolder::Open(TestModel("tiny", {.seed = 1}));
  const Digest256 whole_ = LoadModelWeights(folder_)->fingerprint.Digest();

  // The second of two stages.
  ModelFingerprint OfSecondStage() const {
    const ModelShare share = *ShareOf(folder_.config(), {.pipeline = 2}, 1);
    return LoadModelWeights(folder_, share)->fingerprint;
  }
  std::vector<uint32_t> AllSums() const { return LoadModelWeights(folder_)->fingerprint.Sums(); }
  // Of the tensor, among the sums.
  size_t Place(const std::string& name) const {
    const auto& tensors = folder_.tensors();
    return static_cast<size_t>(std::distance(tensors.begin(), tensors.find(name)));
  }
};

TEST_F(ModelFingerprintTest, ASharesWeightsReadTheSharesTensorsAlone) {
  const ModelFingerprint second = OfSecondStage();
  EXPECT_FALSE(second.complete());
  const std::string head =
      folder_.config().tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  for (const auto& [name, tensor] : folder_.tensors()) {
    const bool shared =
        name.starts_with("model.layers.1.") || name == "model.norm.weight" || name == head;
    EXPECT_EQ(second.Knows(name), shared) << name;
  }
}

TEST_F(ModelFingerprintTest, WithTheSumsOfTheRestItIsTheWholeModels) {
  const auto digest = OfSecondStage().DigestWith(AllSums());
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(*digest, whole_);
}

TEST_F(ModelFingerprintTest, ThePartsOfSeveralReadersMakeTheWhole) {
  const ModelShare share = *ShareOf(folder_.config(), {.pipeline = 2}, 0);
  ModelFingerprint both = LoadModelWeights(folder_, share)->fingerprint;
  EXPECT_FALSE(both.complete());
  both.Add(OfSecondStage());
  ASSERT_TRUE(both.complete());
  EXPECT_EQ(both.Digest(), whole_);
}

TEST_F(ModelFingerprintTest, AnotherSumOfWhatWasReadIsRefusedByTheTensorsName) {
  std::vector<uint32_t> sums = AllSums();
  sums[Place(kSecond)] ^= 1;
  EXPECT_THAT(std::string(OfSecondStage().DigestWith(sums).status().message()), HasSubstr(kSecond));
  sums.pop_back();
  EXPECT_THAT(std::string(OfSecondStage().DigestWith(sums).status().message()),
              HasSubstr(absl::StrCat("the other has ", sums.size())));
}

TEST_F(ModelFingerprintTest, AnotherSumOfWhatWasNotReadIsAnotherModel) {
  std::vector<uint32_t> sums = AllSums();
  sums[Place(kFirst)] ^= 1;
  const auto digest = OfSecondStage().DigestWith(sums);
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_NE(*digest, whole_);
}

TEST_F(ModelFingerprintTest, SumsThatAreKnownAreNotMadeAgain) {
  // Another model's would be the sums of a tensor that is read twice.
  const ModelFolder other = *ModelFolder::Open(TestModel("tiny", {.seed = 2}));
  const ModelShare share = *ShareOf(folder_.config(), {.pipeline = 2}, 1);
  const auto all = LoadModelWeights(other, share, OfSecondStage(), Sums::kOfAll);
  ASSERT_TRUE(all.ok()) << all.status();
  std::vector<uint32_t> want = LoadModelWeights(other)->fingerprint.Sums();
  EXPECT_NE(want[Place(kSecond)], AllSums()[Place(kSecond)]);
  for (const auto& [name, tensor] : folder_.tensors()) {
    if (OfSecondStage().Knows(name)) want[Place(name)] = AllSums()[Place(name)];
  }
  EXPECT_EQ(all->fingerprint.Sums(), want);
}

}  // namespace
}  // namespace reprise::worker
