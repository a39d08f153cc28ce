#include "kernels/known_answer.h"

#include "kernels/test_util.h"

namespace reprise::kernels {
namespace {

uint64_t Fnv1a(const std::vector<uint8_t>& bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (uint8_t b : bytes) hash = (hash ^ b) * 0x100000001b3u;
  return hash;
}

TEST(KnownAnswer, EveryInstructionSetGivesTheGoldenBytes) {
  for (Isa isa : testing::Isas()) {
    const std::vector<uint8_t> bytes = KnownAnswerBytes(Select(isa));
    EXPECT_EQ(bytes, KnownAnswerBytes(Select(isa))) << "not even repeatable on " << IsaName(isa);
    // The canonical orders in numbers. A change here changes every KV format and every recorded
    // token.
    EXPECT_EQ(Fnv1a(bytes), 0x7855aa33b228679cu) << IsaName(isa);
  }
}

TEST(KnownAnswer, HoldsNoNan) {
  const std::vector<uint8_t> bytes = KnownAnswerBytes(Select(BestIsa()));
  // The cumulative sums at the end are doubles; everything before is floats and small integers.
  for (size_t i = 0; i + 160 < bytes.size(); i += 4) {
    float f;
    std::memcpy(&f, &bytes[i], 4);
    ASSERT_TRUE(std::isfinite(f)) << "at byte " << i;
  }
}

}  // namespace
}  // namespace reprise::kernels
