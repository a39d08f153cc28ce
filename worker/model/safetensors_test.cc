#include "worker/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/bytes.h"
#include "common/limits.h"
#include "common/test_data.h"

namespace reprise::worker {
namespace {

using testing::HasSubstr;

std::vector<uint8_t> FileBytes(absl::string_view header, size_t buffer_bytes) {
  std::vector<uint8_t> bytes;
  ByteWriter(bytes).U64(header.size()).Bytes(AsBytes(header));
  for (size_t i = 0; i < buffer_bytes; ++i) bytes.push_back(static_cast<uint8_t>(i));
  return bytes;
}

std::string Refusal(absl::string_view header, size_t buffer_bytes) {
  const std::vector<uint8_t> bytes = FileBytes(header, buffer_bytes);
  const auto parsed = ParseSafetensors("m.safetensors", bytes);
  return parsed.ok() ? "accepted" : std::string(parsed.status().message());
}

TEST(Safetensors, CasesBehaveAsExpected) {
  const std::string dir = SharedDataOrSkip("safetensors-cases");
  if (dir.empty()) GTEST_SKIP() << SharedDataMissing();
  std::ifstream table(dir + "/expected.tsv");
  std::string line;
  std::getline(table, line);
  int accepted = 0, refused = 0;
  while (std::getline(table, line)) {
    std::istringstream cells(line);
    std::string name, expect;
    std::getline(cells, name, '\t');
    std::getline(cells, expect, '\t');
    const auto file = SafetensorsFile::Open(absl::StrCat(dir, "/", name));
    if (expect == "accept") {
      EXPECT_TRUE(file.ok()) << name << ": " << file.status();
      ++accepted;
    } else {  // "either" is a duplicate key, which the format's text forbids
      EXPECT_FALSE(file.ok()) << name;
      EXPECT_THAT(file.status().message(), HasSubstr(name));
      ++refused;
    }
  }
  EXPECT_EQ(accepted, 12);
  EXPECT_EQ(refused, 20);
}

TEST(Safetensors, GivesTensorsAndMetadata) {
  const std::vector<uint8_t> bytes = FileBytes(
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":[2],"data_offsets":[8,10]},)"
      R"("a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}})",
      10);
  const auto header = ParseSafetensors("m", bytes);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->metadata.at("format"), "pt");
  const TensorView& a = header->tensors.at("a");
  EXPECT_EQ(a.type, TensorType::kBF16);
  EXPECT_EQ(a.ShapeText(), "[2, 2]");
  EXPECT_EQ(a.elements(), 4u);
  EXPECT_EQ(a.bytes[7], 7);
  EXPECT_EQ(header->tensors.at("b").bytes[0], 8);
}

TEST(Safetensors, NamesTensorAndReason) {
  EXPECT_THAT(Refusal(R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
              HasSubstr("m.safetensors: tensor \"w\": shape [3] of F32 needs 12 bytes, its "
                        "offsets give 8"));
  EXPECT_THAT(Refusal(R"({"w":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}})", 8),
              HasSubstr("data ends at 9, past the buffer of 8 bytes"));
  EXPECT_THAT(Refusal(R"({"w":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1),
              HasSubstr("does not fill whole bytes"));
  EXPECT_THAT(Refusal(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", 1),
              HasSubstr("exactly"));
  EXPECT_THAT(Refusal(R"({"__metadata__":{"a":1}})", 0), HasSubstr("\"a\" must be a string"));
  EXPECT_THAT(Refusal(R"( {})", 0), HasSubstr("begin with '{'"));
}

TEST(Safetensors, TensorsTileTheBuffer) {
  const auto two = [](int second_begin, int second_end) {
    return Refusal(absl::StrCat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)",
                                R"("b":{"dtype":"U8","shape":[4],"data_offsets":[)", second_begin,
                                ",", second_end, "]}}"),
                   static_cast<size_t>(second_end));
  };
  EXPECT_EQ(two(4, 8), "accepted");
  EXPECT_THAT(two(3, 7), HasSubstr("tensor \"b\": begins at 3, overlapping data up to byte 4"));
  EXPECT_THAT(two(5, 9), HasSubstr("tensor \"b\": begins at 5, leaving a hole after byte 4"));
}

TEST(Safetensors, ChecksOverflowBesideAZeroDimension) {
  for (const absl::string_view shape : {"18446744073709551615,2,0", "0,18446744073709551615,2"}) {
    EXPECT_THAT(Refusal(absl::StrCat(R"({"w":{"dtype":"U8","shape":[)", shape,
                                     R"(],"data_offsets":[0,0]}})"),
                        0),
                HasSubstr("overflows 64 bits"));
  }
}

TEST(Safetensors, BoundsRankAndHeader) {
  std::string shape = "1";
  for (size_t i = 1; i < limits::kTensorRankMax; ++i) shape += ",1";
  const auto entry = [](const std::string& dims) {
    return absl::StrCat(R"({"w":{"dtype":"U8","shape":[)", dims, R"(],"data_offsets":[0,1]}})");
  };
  EXPECT_EQ(Refusal(entry(shape), 1), "accepted");
  EXPECT_THAT(Refusal(entry(shape + ",1"), 1), HasSubstr("rank 65 is over the limit of 64"));

  std::vector<uint8_t> bytes;
  ByteWriter(bytes).U64(limits::kSafetensorsHeaderBytesMax + 1);
  const Status status = ParseSafetensors("m", bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("100000001 bytes is over the limit of 100000000"));
}

TEST(Safetensors, SeesAFileThatChangesUnderIt) {
  const std::string path = testing::TempDir() + "/changing.safetensors";
  const std::vector<uint8_t> bytes =
      FileBytes(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->CheckUnchanged().ok());
  std::filesystem::resize_file(path, bytes.size() - 1);
  EXPECT_EQ(file->CheckUnchanged().code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(SafetensorsFile::Open(path).ok()) << "the truncated file is refused";
}

TEST(Safetensors, RefusesWhatIsNoFile) {
  EXPECT_EQ(SafetensorsFile::Open(testing::TempDir() + "/absent").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(SafetensorsFile::Open(testing::TempDir()).ok());
}

}  // namespace
}  // namespace reprise::worker
