// The trained 260K-parameter story model against goldens computed in float64 by an independent
// implementation, and the demo model as it is shipped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "common/json.h"
#include "common/test_data.h"
#include "worker/model/offline.h"

namespace reprise::worker {
namespace {

std::vector<int32_t> Ids(const JsonValue& object, absl::string_view key) {
  std::vector<int32_t> ids;
  for (const JsonValue& id : FindMember(object, key)->GetArray()) ids.push_back(id.GetInt());
  return ids;
}

std::vector<JsonDocument> Lines(const std::string& path) {
  std::vector<JsonDocument> docs;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) docs.push_back(*ParseJson(line));
  return docs;
}

class Golden : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = SharedDataOrSkip("stories260k");
    if (dir_.empty()) GTEST_SKIP() << SharedDataMissing();
    auto model = OfflineModel::Open({.model_dir = dir_ + "/hf"});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = std::move(*model);
    ASSERT_EQ(model_->executor().info().kv_format.codec, kv::ElementCodec::kF32);
  }

  std::string dir_;
  std::unique_ptr<OfflineModel> model_;
};

TEST_F(Golden, GreedyTextsAreEqual) {
  int equal = 0;
  for (const JsonDocument& line : Lines(dir_ + "/golden/greedy.jsonl")) {
    const std::vector<int32_t> want = Ids(line, "greedy_ids");
    const auto got = model_->Greedy(Ids(line, "prompt_ids"), static_cast<int64_t>(want.size()));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, want);
    equal += *got == want ? 1 : 0;
  }
  EXPECT_EQ(equal, 12);
}

TEST_F(Golden, LogitsAreWithinTwoTenThousandths) {
  std::ifstream in(dir_ + "/golden/logits.f32", std::ios::binary);
  double worst = 0;
  int64_t compared = 0;
  for (const JsonDocument& line : Lines(dir_ + "/golden/greedy.jsonl")) {
    std::vector<int32_t> tokens = Ids(line, "prompt_ids");
    const std::vector<int32_t> greedy = Ids(line, "greedy_ids");
    tokens.insert(tokens.end(), greedy.begin(), greedy.end());
    const std::vector<int32_t> range = Ids(line, "logit_positions");
    tokens.resize(static_cast<size_t>(range[1]) + 1);
    const auto got = model_->ForwardAll(tokens);
    ASSERT_TRUE(got.ok()) << got.status();
    const auto vocab = static_cast<size_t>(model_->vocab());
    std::vector<float> want((static_cast<size_t>(range[1] - range[0]) + 1) * vocab);
    in.seekg(*GetInt(line, "logit_offset_bytes", -1));
    in.read(reinterpret_cast<char*>(want.data()),
            static_cast<std::streamsize>(want.size() * sizeof(float)));
    ASSERT_TRUE(in.good());
    const float* first = got->data() + static_cast<size_t>(range[0]) * vocab;
    for (size_t i = 0; i < want.size(); ++i, ++compared) {
      worst = std::max(worst, std::abs(static_cast<double>(first[i]) - want[i]));
    }
  }
  EXPECT_EQ(compared, 12 * 64 * 512);
  EXPECT_LE(worst, 2e-4);
  RecordProperty("worst", std::to_string(worst));
}

TEST_F(Golden, LikelihoodsAreWithinOneMillionth) {
  double worst = 0;
  for (const JsonDocument& line : Lines(dir_ + "/golden/nll.jsonl")) {
    const auto nll = model_->NegativeLogLikelihood(Ids(line, "ids"));
    ASSERT_TRUE(nll.ok()) << nll.status();
    const double want = *GetNumber(line, "nll_nats", 0);
    worst = std::max(worst, std::abs(*nll - want) / want);
  }
  EXPECT_LE(worst, 1e-6);
  RecordProperty("worst", std::to_string(worst));
}

TEST(DemoModel, WritesFromItsVocabulary) {
  const std::string dir = SharedDataOrSkip("demo-model");
  if (dir.empty()) GTEST_SKIP() << SharedDataMissing();
  auto model = OfflineModel::Open({.model_dir = dir});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->executor().info().kv_format.codec, kv::ElementCodec::kBF16);
  EXPECT_EQ((*model)->executor().info().model_name, "demo-model");
  const auto ids = (*model)->Greedy(std::vector<int32_t>{0}, 100);
  ASSERT_TRUE(ids.ok()) << ids.status();
  // Prose, not noise and not one word repeated: many distinct tokens, and the model finds its own
  // text far likelier than chance (log 2048 = 7.6 nats a token).
  EXPECT_GT(std::set<int32_t>(ids->begin(), ids->end()).size(), 20u);
  EXPECT_LT(*(*model)->NegativeLogLikelihood(*ids) / 99, 4.0);
}

}  // namespace
}  // namespace reprise::worker
