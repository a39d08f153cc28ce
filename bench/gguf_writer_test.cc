#include "bench/gguf_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/bytes.h"

namespace reprise::bench {
namespace {

std::string TextOf(ByteReader& in) {
  const uint64_t size = in.U64("text size");
  return std::string(AsText(in.Bytes("text", size)));
}

GgufWriter Small() {
  GgufWriter file;
  file.Text("general.architecture", "deepseek2");
  file.Integer("deepseek2.block_count", 3);
  file.Real("deepseek2.rope.freq_base", 10000);
  file.Weights("a", {3, 5});
  file.Norm("b", 9);
  return file;
}

TEST(GgufWriter, HeaderNamesKeysAndTensorsAsTheFormatSays) {
  const std::string bytes = Small().Header();
  ByteReader in(bytes);
  EXPECT_EQ(AsText(in.Bytes("magic", 4)), "GGUF");
  EXPECT_EQ(in.U32("version"), 3u);
  EXPECT_EQ(in.U64("tensors"), 2u);
  EXPECT_EQ(in.U64("keys"), 3u);

  EXPECT_EQ(TextOf(in), "general.architecture");
  EXPECT_EQ(in.U32("a string"), 8u);
  EXPECT_EQ(TextOf(in), "deepseek2");
  EXPECT_EQ(TextOf(in), "deepseek2.block_count");
  EXPECT_EQ(in.U32("a uint32"), 4u);
  EXPECT_EQ(in.U32("value"), 3u);
  EXPECT_EQ(TextOf(in), "deepseek2.rope.freq_base");
  EXPECT_EQ(in.U32("a float32"), 6u);
  EXPECT_EQ(in.F32("value"), 10000);

  EXPECT_EQ(TextOf(in), "a");
  EXPECT_EQ(in.U32("dims"), 2u);
  EXPECT_EQ(in.U64("dim"), 3u);
  EXPECT_EQ(in.U64("dim"), 5u);
  EXPECT_EQ(in.U32("bf16"), 30u);
  EXPECT_EQ(in.U64("offset"), 0u);
  EXPECT_EQ(TextOf(in), "b");
  EXPECT_EQ(in.U32("dims"), 1u);
  EXPECT_EQ(in.U64("dim"), 9u);
  EXPECT_EQ(in.U32("f32"), 0u);
  EXPECT_EQ(in.U64("offset"), 32u) << "15 elements of two bytes, then the next multiple of 32";

  EXPECT_TRUE(in.ok()) << in.status();
  EXPECT_LT(in.remaining(), 32u);
  EXPECT_EQ(bytes.size() % 32, 0u);
}

TEST(GgufWriter, TensorsFollowTheHeaderEachAtAMultipleOf32) {
  const std::string path = absl::StrCat(testing::TempDir(), "/", getpid(), ".gguf");
  ASSERT_TRUE(Small().Write(path).ok());
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const size_t header = Small().Header().size();
  ASSERT_EQ(bytes.size(), header + 32 + 64);
  EXPECT_EQ(bytes.substr(0, header), Small().Header());

  ByteReader in(absl::string_view(bytes).substr(header));
  for (int i = 0; i < 15; ++i) {
    const uint16_t bits = in.U16("bf16");
    EXPECT_EQ(bits & 0x7F80, 0x3C00) << "of element " << i << ": within 2^-7 and 2^-6";
  }
  EXPECT_EQ(in.U16("padding"), 0);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(in.F32("f32"), 1);
}

TEST(GgufWriter, AFileThatCannotBeWrittenIsNamed) {
  const Status status = Small().Write("/nowhere/a.gguf");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(status.message().find("/nowhere/a.gguf"), absl::string_view::npos) << status;
}

}  // namespace
}  // namespace reprise::bench
