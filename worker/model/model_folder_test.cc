#include "worker/model/model_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "absl/strings/str_replace.h"
#include "common/bytes.h"
#include "worker/model/check_model.h"
#include "worker/model/test_models.h"

namespace reprise::worker {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

std::string Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

void Write(const std::string& path, absl::string_view text) {
  std::ofstream(path, std::ios::binary)
      .write(text.data(), static_cast<std::streamsize>(text.size()));
}

std::string Refusal(const std::string& dir) {
  const auto folder = ModelFolder::Open(dir);
  return folder.ok() ? "accepted" : std::string(folder.status().message());
}

// Rewrites a file's safetensors header with replacements of equal meaning for its length.
void EditHeader(const std::string& path, absl::string_view from, absl::string_view to) {
  const std::string file = Read(path);
  const uint64_t length = ByteReader(file).U64("length");
  std::string header = file.substr(8, length);
  ASSERT_THAT(header, HasSubstr(std::string(from)));
  header = absl::StrReplaceAll(header, {{from, to}});
  std::string out;
  ByteWriter(out).U64(header.size());
  Write(path, out + header + file.substr(8 + length));
}

TEST(ModelFolder, OpensSingleAndShardedFolders) {
  const auto single = ModelFolder::Open(TestModel("tiny-bias"));
  const auto sharded = ModelFolder::Open(TestModel("tiny-bias", {.shards = 4}));
  ASSERT_TRUE(single.ok()) << single.status();
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  EXPECT_EQ(single->files().size(), 1u);
  EXPECT_EQ(sharded->files().size(), 4u);
  ASSERT_EQ(single->tensors().size(), sharded->tensors().size());
  for (const auto& [name, tensor] : single->tensors()) {
    const TensorView& other = sharded->tensor(name);
    EXPECT_EQ(AsText(tensor.bytes), AsText(other.bytes)) << name;
    EXPECT_EQ(tensor.shape, other.shape) << name;
  }
}

TEST(ModelFolder, RefusesHostileTensors) {
  const struct {
    const char* from;
    const char* to;
    const char* message;
  } kCases[] = {
      {"model.norm.weight", "model.nrom.weight", "tensor \"model.norm.weight\" is missing"},
      {"\"shape\": [512, 64]", "\"shape\": [64, 512]",
       "tensor \"model.embed_tokens.weight\" has shape [64, 512], config.json asks for [512, 64]"},
      {"\"dtype\": \"BF16\"", "\"dtype\": \"I16\"", "is I16, supported: F32, BF16, F16"},
      {"\"data_offsets\": [0,", "\"data_offsets\": [2,", "offsets give"},
  };
  for (const auto& c : kCases) {
    const std::string dir = TestModel("tiny");
    EditHeader(dir + "/model.safetensors", c.from, c.to);
    EXPECT_THAT(Refusal(dir), HasSubstr(c.message));
  }
}

TEST(ModelFolder, RefusesExtraTensorsButNotDerivedOnes) {
  const std::string dir = TestModel("tiny");
  const std::string path = dir + "/model.safetensors";
  const std::string original = Read(path);
  const auto with_empty = [&](const std::string& name) {
    Write(path, original);
    EditHeader(path, "{\"__metadata__\"",
               absl::StrCat("{\"", name, R"(": {"dtype":"F32","shape":[0],"data_offsets":[0,0]},)",
                            "\"__metadata__\""));
    return Refusal(dir);
  };
  EXPECT_EQ(with_empty("model.layers.0.self_attn.rotary_emb.inv_freq"), "accepted");
  EXPECT_THAT(with_empty("model.extra.weight"),
              HasSubstr("tensor \"model.extra.weight\" is not part of the model"));
  EXPECT_THAT(with_empty("lm_head.weight"), HasSubstr("differs from the embedding"));
}

TEST(ModelFolder, RefusesTruncatedFiles) {
  const std::string dir = TestModel("tiny");
  const std::string path = dir + "/model.safetensors";
  fs::resize_file(path, fs::file_size(path) - 1);
  EXPECT_THAT(Refusal(dir), HasSubstr("past the buffer of"));
  fs::resize_file(path, 3);
  EXPECT_THAT(Refusal(dir), HasSubstr("3 bytes are fewer than the 8"));
  fs::remove(path);
  EXPECT_THAT(Refusal(dir), HasSubstr("neither model.safetensors nor"));
}

TEST(ModelFolder, RefusesHostileIndexes) {
  const std::string dir = TestModel("tiny", {.shards = 2});
  const std::string path = dir + "/model.safetensors.index.json";
  const std::string index = Read(path);
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string second = "model-00002-of-00002.safetensors";
  const auto edited = [&](absl::string_view from, absl::string_view to) {
    EXPECT_THAT(index, HasSubstr(std::string(from)));
    Write(path, absl::StrReplaceAll(index, {{from, to}}));
    return Refusal(dir);
  };
  for (const std::string name : {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors",
                                 ".hidden.safetensors", "x.bin", ".safetensors", "..", ""}) {
    EXPECT_THAT(edited(second, name), HasSubstr("is not a plain .safetensors file name")) << name;
  }
  EXPECT_THAT(edited(second, "absent.safetensors"), HasSubstr("absent.safetensors cannot be"));
  EXPECT_THAT(
      edited(absl::StrCat("\"model.norm.weight\": \"", second, "\""),
             absl::StrCat("\"model.norm.weight\": \"", first, "\"")),
      HasSubstr(absl::StrCat("tensor \"model.norm.weight\": the index places it in ", first)));
  EXPECT_THAT(edited("\"model.norm.weight\"", "\"model.other.weight\""),
              HasSubstr("the index places it in no shard"));
  EXPECT_THAT(edited("\"weight_map\"", "\"weights\""), HasSubstr("must be an object"));
  EXPECT_THAT(edited("{\"metadata\"", "{\"weight_map\": {}, \"metadata\""), HasSubstr("twice"));
}

TEST(CheckModel, ReportsTheModel) {
  const std::string dir = TestModel("tiny-mqa", {.shards = 2});
  const auto report = CheckModel(dir, {.scan_values = true});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->files, 2);
  EXPECT_EQ(report->weight_bytes, static_cast<uint64_t>(2 * report->parameters));
  EXPECT_EQ(report->kv_bytes_per_token, 2 * 2 * 16 * 2);
  EXPECT_EQ(report->tensors_by_type.at("BF16"), report->tensors);
  EXPECT_THAT(report->ToString(), HasSubstr("multi-query, 4 query heads, 1 key-value heads of 16"));
}

TEST(CheckModel, FindsWhatIsNotFinite) {
  for (const std::string dtype : {"bf16", "f16", "f32"}) {
    const std::string dir = TestModel("tiny", {.dtype = dtype});
    const std::string path = dir + "/model.safetensors";
    std::string file = Read(path);
    file[file.size() - 1] = 0x7F;  // the last element's sign and exponent: all ones
    file[file.size() - 2] = static_cast<char>(0x80);
    if (dtype == "f16") file[file.size() - 1] = 0x7C;
    Write(path, file);
    EXPECT_TRUE(CheckModel(dir).ok()) << "values are looked at on request";
    EXPECT_THAT(CheckModel(dir, {.scan_values = true}).status().message(),
                HasSubstr("tensor \"model.norm.weight\": element 63 is not finite"));
  }
}

TEST(CheckModel, WantsATokenizer) {
  const std::string dir = TestModel("tiny");
  fs::remove(dir + "/tokenizer.json");
  EXPECT_EQ(CheckModel(dir).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace reprise::worker
