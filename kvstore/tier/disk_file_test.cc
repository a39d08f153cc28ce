#include "kvstore/tier/disk_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "common/random.h"
#include "kvstore/block/checksum.h"

namespace reprise::kv {
namespace {

constexpr uint32_t kLayers = 3;
constexpr uint64_t kBlockBytes = 3 * 700;

class DiskFileTest : public testing::Test {
 protected:
  DiskFileTest() {
    options_.path = absl::StrCat(testing::TempDir(), "/disk_file_test.", getpid());
    std::filesystem::remove(options_.path);
    options_.block_bytes = kBlockBytes;
    options_.layers = kLayers;
    options_.slots = 5;
  }
  ~DiskFileTest() override { std::filesystem::remove(options_.path); }

  std::unique_ptr<DiskFile> OpenFile() {
    auto file = DiskFile::Open(options_, &replaced_);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? *std::move(file) : nullptr;
  }
  std::vector<uint8_t> Data(uint64_t seed) {
    SplitMix64 random(seed);
    std::vector<uint8_t> data(kBlockBytes);
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random.Next());
    return data;
  }
  BlockRecord Record(uint64_t seed) {
    BlockRecord record{.id = TailId({absl::StrCat(seed), {}}, 0, 0),
                       .first_position = static_cast<int64_t>(seed) * 64,
                       .checksums = {}};
    const auto data = Data(seed);
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      record.checksums.push_back(
          SegmentChecksum(record.id, layer, record.first_position, data.data() + layer * 700, 700));
    }
    return record;
  }
  void FlipByte(uint64_t offset) {
    std::fstream f(options_.path, std::ios::in | std::ios::out | std::ios::binary);
    f.seekg(static_cast<std::streamoff>(offset));
    const char c = static_cast<char>(f.get() ^ 0x10);
    f.seekp(static_cast<std::streamoff>(offset));
    f.put(c);
  }

  DiskFileOptions options_;
  std::string replaced_;
};

TEST_F(DiskFileTest, KeepsBlocksOverARestart) {
  {
    auto file = OpenFile();
    ASSERT_TRUE(file->Write(Record(1), 4, Data(1).data()).ok());
    ASSERT_TRUE(file->Write(Record(2), 0, Data(2).data()).ok());
    ASSERT_TRUE(file->Write(Record(3), 1, Data(3).data()).ok());
    ASSERT_TRUE(file->Forget(1).ok());
  }
  auto file = OpenFile();
  EXPECT_EQ(replaced_, "");
  const auto records = file->TakeRecords();
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[1].second, 4);
  EXPECT_EQ(records[1].first.first_position, 64);
  std::vector<uint8_t> data(kBlockBytes);
  ASSERT_TRUE(file->Read(Record(1).id, 4, data.data()).ok());
  EXPECT_EQ(data, Data(1));
}

TEST_F(DiskFileTest, RefusesDamagedBytesAndWrongBlocks) {
  auto file = OpenFile();
  ASSERT_TRUE(file->Write(Record(1), 2, Data(1).data()).ok());
  std::vector<uint8_t> data(kBlockBytes);
  EXPECT_EQ(file->Read(Record(2).id, 2, data.data()).code(), absl::StatusCode::kDataLoss);
  FlipByte(2 * 4096 + 2 * 4096 + 1500);  // header page, one page of records, slot 2
  const Status damaged = file->Read(Record(1).id, 2, data.data());
  EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(damaged.message(), testing::HasSubstr("layer 2"));
}

TEST_F(DiskFileTest, ForgetsATornRecord) {
  {
    auto file = OpenFile();
    ASSERT_TRUE(file->Write(Record(1), 0, Data(1).data()).ok());
  }
  FlipByte(4096 + 9);
  EXPECT_TRUE(OpenFile()->TakeRecords().empty());
}

TEST_F(DiskFileTest, StartsEmptyWhenTheFormatIsAnother) {
  { ASSERT_TRUE(OpenFile()->Write(Record(1), 0, Data(1).data()).ok()); }
  options_.format_digest[3] = 1;
  EXPECT_TRUE(OpenFile()->TakeRecords().empty());
  EXPECT_THAT(replaced_, testing::HasSubstr("another format"));
  options_.slots = 6;
  EXPECT_TRUE(OpenFile()->TakeRecords().empty());
  EXPECT_THAT(replaced_, testing::HasSubstr("bytes"));
}

TEST_F(DiskFileTest, AdmitsOneProcess) {
  auto file = OpenFile();
  EXPECT_THAT(DiskFile::Open(options_, &replaced_).status().message(),
              testing::HasSubstr("another store node"));
}

TEST_F(DiskFileTest, SaysWhereItCannotWrite) {
  options_.path = "/nonexistent/folder/file";
  EXPECT_THAT(DiskFile::Open(options_, &replaced_).status().message(),
              testing::HasSubstr("/nonexistent/folder/file: open"));
}

}  // namespace
}  // namespace reprise::kv
