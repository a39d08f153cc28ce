#include "common/sha256.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace reprise {
namespace {

using testing::HasSubstr;

std::string Hex(Sha256& hash) { return HexEncode(hash.Finish()); }

// FIPS 180-4 example vectors (NIST's SHA256.pdf).
TEST(Sha256, GivesThePublishedValues) {
  Sha256 hash;
  EXPECT_EQ(Hex(hash), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Hex(hash.Update("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Hex(hash.Update("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256, JoinsUpdatesAndStartsAfreshAfterFinish) {
  Sha256 hash;
  const Digest256 whole = hash.Update("abcdef").Finish();
  EXPECT_EQ(hash.Update("abc").Update("").Update("def").Finish(), whole);
}

TEST(Sha256, FramesIntegersLittleEndian) {
  Sha256 hash;
  const std::vector<uint8_t> bytes = {4, 3, 2, 1, 8, 7, 6, 5, 4, 3, 2, 1};
  const Digest256 expected = hash.Update(bytes).Finish();
  EXPECT_EQ(hash.UpdateU32le(0x01020304).UpdateU64le(0x0102030405060708).Finish(), expected);
}

TEST(Hex, GoesThereAndBack) {
  const std::vector<uint8_t> bytes = {0x00, 0x7f, 0x80, 0xff, 0xa5};
  EXPECT_EQ(HexEncode(bytes), "007f80ffa5");
  EXPECT_EQ(*HexDecode("007f80ffa5"), bytes);
  EXPECT_EQ(*HexDecode("007F80FFA5"), bytes);
  EXPECT_TRUE(HexDecode("")->empty());
}

TEST(Hex, RefusesWhatIsNotHexadecimal) {
  EXPECT_THAT(std::string(HexDecode("abc").status().message()), HasSubstr("odd length: 3"));
  for (const char* text : {"0g", "g0", "0 ", "0x", "-1", "\xff\xff"}) {
    EXPECT_EQ(HexDecode(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace reprise
