#include "worker/model/folder_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>

namespace reprise::worker {
namespace {

using testing::HasSubstr;

std::string FreshFolder() {
  static int count = 0;
  std::string dir = testing::TempDir() + "/writer_" + std::to_string(count++);
  std::filesystem::remove_all(dir);
  return dir;
}

const std::vector<TensorEntry> kTwo = {{"a", TensorType::kBF16, {2, 3}},
                                       {"b", TensorType::kF32, {4}}};

TEST(FolderWriter, WhatItWritesReadsBack) {
  const std::string dir = FreshFolder();
  ASSERT_TRUE(PrepareModelFolder(dir).ok());
  std::vector<uint8_t> bytes(12 + 16);
  std::iota(bytes.begin(), bytes.end(), uint8_t{1});
  TensorFileWriter out(dir + "/t.safetensors", kTwo);
  out.Append(std::span(bytes).first(7));
  out.Append(std::span(bytes).subspan(7));
  const Status closed = out.Close();
  ASSERT_TRUE(closed.ok()) << closed;
  const auto file = SafetensorsFile::Open(dir + "/t.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const TensorView& a = file->header().tensors.at("a");
  EXPECT_EQ(a.type, TensorType::kBF16);
  EXPECT_EQ(a.ShapeText(), "[2, 3]");
  EXPECT_EQ(a.bytes[11], 12);
  EXPECT_EQ(file->header().tensors.at("b").bytes[0], 13);
}

TEST(FolderWriter, PiecesMayComeInAnyOrder) {
  const std::string dir = FreshFolder();
  ASSERT_TRUE(PrepareModelFolder(dir).ok());
  std::vector<uint8_t> bytes(12 + 16);
  std::iota(bytes.begin(), bytes.end(), uint8_t{1});
  TensorFileWriter out(dir + "/t.safetensors", kTwo);
  out.WriteAt(20, std::span(bytes).subspan(20));
  out.WriteAt(0, std::span(bytes).first(5));
  out.WriteAt(5, std::span(bytes).subspan(5, 15));
  ASSERT_TRUE(out.Close().ok());
  const auto file = SafetensorsFile::Open(dir + "/t.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto& tensors = file->header().tensors;
  EXPECT_TRUE(std::equal(bytes.begin(), bytes.begin() + 12, tensors.at("a").bytes.begin()));
  EXPECT_TRUE(std::equal(bytes.begin() + 12, bytes.end(), tensors.at("b").bytes.begin()));
  TensorFileWriter beyond(dir + "/u.safetensors", kTwo);
  beyond.WriteAt(28, std::span(bytes).first(1));
  EXPECT_THAT(std::string(beyond.Close().message()), HasSubstr("more"));
}

TEST(FolderWriter, TooLittleRoomIsSaidWithBothSizes) {
  const std::string dir = FreshFolder();
  EXPECT_TRUE(CheckRoom(dir + "/deep", 1).ok());
  const Status full = CheckRoom(dir + "/deep", uint64_t{1} << 60);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("deep would take 1099511627776 MiB, "));
  EXPECT_THAT(std::string(full.message()), HasSubstr(" MiB free"));
  EXPECT_FALSE(std::filesystem::exists(dir));
}

// Every write to this device fails for lack of room.
TEST(FolderWriter, AFullFileSystemIsAnError) {
  TensorFileWriter out("/dev/full", kTwo);
  EXPECT_FALSE(out.ok());
  EXPECT_THAT(std::string(out.Close().message()), HasSubstr("No space left"));
}

TEST(FolderWriter, BytesThatAreNotTheHeadersAreRefused) {
  const std::string dir = FreshFolder();
  ASSERT_TRUE(PrepareModelFolder(dir).ok());
  const std::vector<uint8_t> bytes(29);
  for (const size_t n : {size_t{27}, size_t{29}}) {
    TensorFileWriter out(dir + "/t.safetensors", kTwo);
    out.Append(std::span(bytes).first(n));
    EXPECT_THAT(std::string(out.Close().message()), HasSubstr(n == 27 ? "fewer" : "more"));
  }
}

TEST(FolderWriter, RefusesAFolderThatIsNotEmptyOrNotThere) {
  EXPECT_THAT(std::string(PrepareModelFolder("").message()), HasSubstr("no name"));
  const std::string dir = FreshFolder();
  ASSERT_TRUE(PrepareModelFolder(dir).ok());
  ASSERT_TRUE(PrepareModelFolder(dir).ok()) << "empty";
  ASSERT_TRUE(WriteModelFile(dir, "x", "y").ok());
  EXPECT_THAT(std::string(PrepareModelFolder(dir).message()), HasSubstr("not an empty folder"));
  EXPECT_THAT(std::string(WriteModelFile(dir + "/none", "x", "y").message()),
              HasSubstr("none/x cannot be written: No such file"));
  TensorFileWriter out(dir + "/none/t.safetensors", kTwo);
  EXPECT_FALSE(out.ok());
  EXPECT_THAT(std::string(out.Close().message()), HasSubstr("cannot be written"));
}

}  // namespace
}  // namespace reprise::worker
