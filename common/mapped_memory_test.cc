#include "common/mapped_memory.h"

#include <gtest/gtest.h>

namespace reprise {
namespace {

TEST(MappedMemoryTest, IsZeroAndWritableToItsLastByteAndBeginsOnAHugePageWhenItFillsOne) {
  for (const size_t bytes :
       {size_t{1}, size_t{4096}, (size_t{2} << 20) - 1, size_t{2} << 20, (size_t{5} << 20) + 3}) {
    const StatusOr<MappedMemory> memory = MappedMemory::Map(bytes, "a test");
    ASSERT_TRUE(memory.ok()) << memory.status();
    ASSERT_EQ(memory->bytes(), bytes);
    EXPECT_EQ(memory->data()[0], 0);
    EXPECT_EQ(memory->data()[bytes - 1], 0);
    memory->data()[bytes - 1] = 7;
    const size_t page = bytes < size_t{2} << 20 ? 4096 : size_t{2} << 20;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % page, 0u);
  }
}

TEST(MappedMemoryTest, MovesWithItsBytes) {
  StatusOr<MappedMemory> first = MappedMemory::Map(size_t{3} << 20, "a test");
  ASSERT_TRUE(first.ok());
  uint8_t* const at = first->data();
  at[5] = 9;
  MappedMemory second = *std::move(first);
  EXPECT_EQ(second.data(), at);
  MappedMemory third;
  third = std::move(second);
  EXPECT_EQ(third.data()[5], 9);
  EXPECT_EQ(second.data(), nullptr);
}

TEST(MappedMemoryTest, NamesWhatItHasNoRoomFor) {
  const StatusOr<MappedMemory> memory = MappedMemory::Map(size_t{1} << 62, "a test");
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(memory.status().message().find("for a test"), absl::string_view::npos);
}

}  // namespace
}  // namespace reprise
