#include "kernels/cuda/spread_rows.h"

#include "kernels/cuda/kv_pool.h"
#include "kernels/cuda/test_device.h"

namespace reprise::cuda {
namespace {

using testing::Array;

class CudaSpreadRows : public testing::OnDevice {};

TEST_F(CudaSpreadRows, EveryHeadHasTheRow) {
  constexpr int kRows = 130;
  constexpr int kHeads = 3;
  constexpr int kDim = 16;
  constexpr int kKey = 40;
  std::vector<uint16_t> x(kRows * kDim);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint16_t>(i);
  const Array<uint16_t> device_x(x);
  constexpr int kPage = kHeads * kPageRows * kKey;
  const Array<uint16_t> y(3 * kPage);
  ASSERT_EQ(SpreadRows({.x = device_x.data(),
                        .x_stride = kDim,
                        .y = y.data() + 8,
                        .page_stride = kPage,
                        .head_stride = kPageRows * kKey,
                        .row_stride = kKey,
                        .rows = kRows,
                        .heads = kHeads,
                        .dim = kDim},
                       nullptr),
            0);
  std::vector<uint16_t> want(3 * kPage, 0xFFFF);
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < kHeads; ++h) {
      for (int i = 0; i < kDim; ++i) {
        want[static_cast<size_t>(r / kPageRows * kPage + (h * kPageRows + r % kPageRows) * kKey +
                                 8 + i)] = x[static_cast<size_t>(r * kDim + i)];
      }
    }
  }
  EXPECT_EQ(y.Read(), want);
}

}  // namespace
}  // namespace reprise::cuda
