#include "worker/device/sample_check.h"

#include "kernels/cuda/test_device.h"

namespace reprise::worker {
namespace {

class SampleCheck : public cuda::testing::OnDevice {};

TEST_F(SampleCheck, TheDeviceDrawsAsTheHost) {
  const auto same = DrawsAsTheHost();
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_TRUE(*same);
}

}  // namespace
}  // namespace reprise::worker
