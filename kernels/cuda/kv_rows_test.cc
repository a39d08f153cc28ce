// Rows into and out of the pool against the CPU's norm, rotation and cache writes, bit for bit, and
// nothing but those rows written.
#include "kernels/cuda/kv_rows.h"

#include <cmath>
#include <limits>

#include "common/half.h"
#include "kernels/cuda/fp8_test_rows.h"
#include "kernels/cuda/rows_test_util.h"

namespace reprise::cuda {
namespace {

using kernels::ConstF32;
using kernels::CpuOps;
using kernels::F32;
using testing::Array;
using testing::SameNumbers;
using testing::TestRows;

constexpr int64_t kPages = 5;
constexpr int64_t kPadding = 64;  // bytes between pages
constexpr float kEps = 1e-6F;

struct Shape {
  int q_heads, kv_heads, first_dim, second_dim, half;
  bool norm_q, norm_first, rotate_first, rotate_second, bf16;
  int64_t rows;
};

class CudaKvRows : public testing::OnDevice {
 protected:
  const CpuOps& cpu_ = kernels::Select(kernels::BestIsa());
};

// Finite, some of them denormal.
std::vector<float> Numbers(int64_t n, uint32_t stream) {
  std::vector<float> v = kernels::testing::Uniform(n, stream, 3);
  for (size_t i = 0; i < v.size(); i += 13) v[i] *= 1e-39F;
  return v;
}

// Row r lies in a page and row of its own; every fifth nowhere.
std::vector<KvSlot> Slots(int64_t rows) {
  std::vector<KvSlot> slots;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = (r * 37 + 11) % (kPages * kPageRows);
    slots.push_back({r % 5 == 4 ? -1 : static_cast<int32_t>(at / kPageRows),
                     static_cast<int32_t>(at % kPageRows)});
  }
  return slots;
}

// The step on both sides.
class Step {
 public:
  Step(const CpuOps& cpu, const Shape& shape)
      : s_(shape), cpu_(cpu), slots_(Slots(shape.rows)), device_slots_(slots_) {
    segment_bytes_ = int64_t{2} * s_.kv_heads * kPageRows * (s_.first_dim + s_.second_dim);
    bytes_.assign(static_cast<size_t>(kPages * (segment_bytes_ + kPadding)), 0xFF);
    for (int64_t i = 0; i < 2 * kAngles * s_.half; ++i) {
      table_.push_back(static_cast<float>(2 * kernels::UniformAt(3, 3, i) - 1));
    }
    for (int64_t r = 0; r < s_.rows; ++r) angles_.push_back(static_cast<int32_t>(r * 5 % kAngles));
  }

  void Run() {
    const std::vector<float> q = Rounded(Numbers(s_.rows * s_.q_heads * s_.first_dim, 1));
    const std::vector<float> first = Rounded(Numbers(s_.rows * s_.kv_heads * s_.first_dim, 2));
    const std::vector<float> second = Rounded(Numbers(s_.rows * s_.kv_heads * s_.second_dim, 3));
    const std::vector<float> q_norm = kernels::testing::Uniform(s_.first_dim, 4);
    const std::vector<float> first_norm = kernels::testing::Uniform(s_.first_dim, 5);
    const TestRows device_q(q, s_.rows, s_.q_heads * s_.first_dim, s_.bf16, 8);
    const TestRows device_first(first, s_.rows, s_.kv_heads * s_.first_dim, s_.bf16, 8);
    const TestRows device_second(second, s_.rows, s_.kv_heads * s_.second_dim, s_.bf16, 0);
    const TestRows out(s_.rows, s_.q_heads * s_.first_dim, true, 4);
    const Array<uint8_t> memory(bytes_.size());
    const Array<float> table(table_);
    const Array<int32_t> angles(angles_);
    const Array<float> device_q_norm(q_norm);
    const Array<float> device_first_norm(first_norm);
    const KvPool pool = PoolAt(memory.data());
    ASSERT_EQ(
        StoreRows({.queries = {{.heads = {device_q.in(), s_.first_dim, s_.q_heads, s_.first_dim,
                                          s_.norm_q ? device_q_norm.data() : nullptr, true},
                                .out = out.out().data,
                                .out_stride = out.out().stride,
                                .out_head_stride = s_.first_dim},
                               {}},
                   .first = {device_first.in(), s_.first_dim, s_.kv_heads, s_.first_dim,
                             s_.norm_first ? device_first_norm.data() : nullptr, s_.rotate_first},
                   .second = {device_second.in(), s_.second_dim, s_.kv_heads, s_.second_dim,
                              nullptr, s_.rotate_second},
                   .pool = pool,
                   .slots = device_slots_.data(),
                   .cos = table.data(),
                   .sin = table.data() + kAngles * s_.half,
                   .angles = angles.data(),
                   .half = s_.half,
                   .eps = kEps,
                   .rows = s_.rows},
                  nullptr),
        0);
    std::vector<float> want_q = OnCpu(q, s_.q_heads, s_.first_dim, s_.norm_q, q_norm, true);
    EXPECT_TRUE(SameNumbers(out.Read(), out.AsStored(want_q)));
    WriteOnCpu(OnCpu(first, s_.kv_heads, s_.first_dim, s_.norm_first, first_norm, s_.rotate_first),
               OnCpu(second, s_.kv_heads, s_.second_dim, false, {}, s_.rotate_second));
    EXPECT_EQ(memory.Read(), bytes_);
    ReadBack(pool);
  }

 private:
  static constexpr int64_t kAngles = 17;

  std::vector<float> Rounded(std::vector<float> v) const {
    if (s_.bf16) {
      for (float& x : v) x = Bf16ToF32(F32ToBf16(x));
    }
    return v;
  }
  KvPool PoolAt(void* memory) const {
    return {memory, kPages, segment_bytes_ + kPadding, s_.kv_heads, s_.first_dim, s_.second_dim};
  }
  std::vector<float> OnCpu(std::vector<float> x, int heads, int dim, bool norm,
                           const std::vector<float>& weight, bool rotate) const {
    if (norm) {
      const F32 rows = {x.data(), s_.rows * heads, dim, dim};
      cpu_.rms_norm({}, rows, weight.data(), kEps, rows);
    }
    std::vector<float> cos;
    std::vector<float> sin;
    for (const int32_t angle : angles_) {
      const float* row = table_.data() + angle * s_.half;
      cos.insert(cos.end(), row, row + s_.half);
      sin.insert(sin.end(), row + kAngles * s_.half, row + (kAngles + 1) * s_.half);
    }
    if (rotate) {
      cpu_.rope_apply({}, {cos.data(), sin.data(), s_.half}, dim,
                      {x.data(), s_.rows, heads * dim, heads * dim});
    }
    return x;
  }
  kernels::PagedKv Paged() const {
    kernels::PagedKv kv;
    kv.base = reinterpret_cast<std::byte*>(const_cast<uint8_t*>(bytes_.data()));
    kv.page_stride_bytes = segment_bytes_ + kPadding;
    kv.kv_heads = s_.kv_heads;
    kv.key_dim = s_.first_dim;
    kv.value_dim = s_.second_dim;
    return kv;
  }
  void WriteOnCpu(const std::vector<float>& first, const std::vector<float>& second) {
    for (int64_t r = 0; r < s_.rows; ++r) {
      const KvSlot& slot = slots_[static_cast<size_t>(r)];
      if (slot.page < 0) continue;
      const int64_t wide = s_.kv_heads * s_.first_dim;
      const int64_t narrow = s_.kv_heads * s_.second_dim;
      cpu_.write_kv({.kv = Paged(),
                     .page_table = &slot.page,
                     .first_row = slot.row,
                     .first = {first.data() + r * wide, 1, wide, wide},
                     .second = {second.data() + r * narrow, 1, narrow, narrow}});
    }
  }
  void ReadBack(const KvPool& pool) const {
    const TestRows first(s_.rows, s_.kv_heads * s_.first_dim, false, 4);
    const TestRows second(s_.rows, s_.kv_heads * s_.second_dim, true, 8);
    ASSERT_EQ(ReadRows({.pool = pool,
                        .slots = device_slots_.data(),
                        .first = first.out(),
                        .second = second.out(),
                        .rows = s_.rows},
                       nullptr),
              0);
    std::vector<float> want_first(static_cast<size_t>(s_.rows * s_.kv_heads * s_.first_dim),
                                  kernels::testing::kNaN);
    std::vector<float> want_second(static_cast<size_t>(s_.rows * s_.kv_heads * s_.second_dim),
                                   kernels::testing::kNaN);
    for (int64_t r = 0; r < s_.rows; ++r) {
      const KvSlot& slot = slots_[static_cast<size_t>(r)];
      if (slot.page < 0) continue;
      const int64_t wide = s_.kv_heads * s_.first_dim;
      const int64_t narrow = s_.kv_heads * s_.second_dim;
      cpu_.read_kv({}, {.kv = Paged(),
                        .page_table = &slot.page,
                        .first_row = slot.row,
                        .first = {want_first.data() + r * wide, 1, wide, wide},
                        .second = {want_second.data() + r * narrow, 1, narrow, narrow}});
    }
    EXPECT_TRUE(SameNumbers(first.Read(), want_first));
    EXPECT_TRUE(SameNumbers(second.Read(), want_second));
  }

  const Shape s_;
  const CpuOps& cpu_;
  const std::vector<KvSlot> slots_;
  const Array<KvSlot> device_slots_;
  int64_t segment_bytes_ = 0;
  std::vector<uint8_t> bytes_;  // the pool as the CPU writes it
  std::vector<float> table_;
  std::vector<int32_t> angles_;
};

TEST_F(CudaKvRows, HaveTheBitsOfTheCpu) {
  const Shape shapes[] = {
      // Grouped heads, as Llama and Qwen3 (norms) have them.
      {4, 2, 128, 128, 64, false, false, true, false, false, 9},
      {4, 2, 128, 128, 64, true, true, true, false, false, 9},
      {4, 2, 64, 64, 32, true, true, true, false, true, 33},
      // Part of a head rotated; a width and a half that are no multiples of anything.
      {3, 1, 80, 48, 16, true, true, true, false, false, 7},
      {2, 2, 27, 13, 5, true, true, true, false, false, 6},
      {2, 2, 30, 10, 5, false, true, true, false, true, 6},
      // Latents and rotated keys.
      {2, 1, 512, 64, 32, false, true, false, true, false, 5},
      {1, 1, 64, 64, 32, false, false, true, false, false, 1},
      {1, 1, 64, 64, 32, false, false, true, false, false, 0},
  };
  for (const Shape& shape : shapes) {
    for (const uint64_t seed : {1, 2}) {
      UseSeed(seed);
      SCOPED_TRACE(::testing::Message() << "dims " << shape.first_dim << " and " << shape.second_dim
                                        << ", seed " << seed);
      Step(cpu_, shape).Run();
    }
  }
}

TEST_F(CudaKvRows, QueriesMayComeInTwoPieces) {
  constexpr int64_t kRows = 3;
  const std::vector<float> x = kernels::testing::Uniform(kRows * 2 * 24, 9);
  const std::vector<float> table = kernels::testing::Uniform(kRows * 8, 10);
  const TestRows heads(x, kRows, 48, false, 0);  // two heads of 16 + 8
  const TestRows out(kRows, 48, true, 0);
  const Array<float> device_table(table);
  ConstRows turned = heads.in();
  turned.data = static_cast<const float*>(turned.data) + 16;
  auto* bf16 = static_cast<uint16_t*>(out.out().data);
  ASSERT_EQ(StoreRows({.queries = {{{heads.in(), 24, 2, 16}, bf16, 48, 24},
                                   {{turned, 24, 2, 8, nullptr, true}, bf16 + 16, 48, 24}},
                       .cos = device_table.data(),
                       .sin = device_table.data() + kRows * 4,
                       .half = 4,
                       .rows = kRows},
                      nullptr),
            0);
  std::vector<float> want = x;
  for (int64_t head = 0; head < 2; ++head) {
    cpu_.rope_apply({}, {table.data(), table.data() + kRows * 4, 4}, 8,
                    {want.data() + head * 24 + 16, kRows, 8, 48});
  }
  EXPECT_TRUE(SameNumbers(out.Read(), out.AsStored(want)));
}

// ---- fp8 ----

constexpr KvPool kFp8Pool = {nullptr, kPages, 64 * 656 + kPadding, 1, 512, 64, true};

// Rows with everything a row may hold: tiles of zeros, denormals, NaN, an infinity.
std::vector<float> Fp8Latents(int64_t rows) {
  std::vector<float> x = Numbers(rows * 512, 21);
  for (size_t i = 0; i < 128; ++i) x[i] = i % 2 == 0 ? 0.0F : -0.0F;
  for (size_t i = 128; i < 256; ++i) x[i] = 1e-39F;
  x[300] = std::numeric_limits<float>::quiet_NaN();
  x[512 + 7] = std::numeric_limits<float>::infinity();
  for (size_t i = 1024; i < 1536; ++i) x[i] *= 1e6F;
  return x;
}

// A row as FlashMLA's quantization makes it.
void WriteFp8Row(const float* latent, const float* rotated, uint8_t* row) {
  for (int tile = 0; tile < 4; ++tile) {
    float top = 0;
    for (int i = 0; i < 128; ++i) top = std::fmax(top, std::fabs(latent[128 * tile + i]));
    const float scale = top < 1e-30F ? 1 : top / 448;
    std::memcpy(row + 512 + 4 * tile, &scale, 4);
    for (int i = 128 * tile; i < 128 * tile + 128; ++i) {
      row[i] = kernels::F32ToE4m3(latent[i] / scale);
    }
  }
  for (int i = 0; i < 64; ++i) {
    const uint16_t bits = F32ToBf16(rotated[i]);
    std::memcpy(row + 528 + 2 * i, &bits, 2);
  }
}

TEST_F(CudaKvRows, LatentsInFp8HaveTheRowsOfTheFormat) {
  constexpr int64_t kRows = 11;
  const std::vector<float> latents = Fp8Latents(kRows);
  const std::vector<float> rotated = Numbers(kRows * 64, 22);
  const std::vector<float> table = kernels::testing::Uniform(kRows * 64, 23);
  const std::vector<KvSlot> slots = Slots(kRows);
  for (const bool bf16 : {false, true}) {
    UseSeed(bf16 ? 4 : 3);
    const TestRows first(latents, kRows, 512, bf16, 8);
    const TestRows second(rotated, kRows, 64, bf16, 0);
    const Array<float> device_table(table);
    const Array<KvSlot> device_slots(slots);
    const size_t pool_bytes = static_cast<size_t>(kPages * kFp8Pool.page_stride_bytes);
    const Array<uint8_t> memory(pool_bytes);
    KvPool pool = kFp8Pool;
    pool.layer_base = memory.data();
    ASSERT_EQ(StoreRows({.first = {first.in(), 512, 1, 512},
                         .second = {second.in(), 64, 1, 64, nullptr, true},
                         .pool = pool,
                         .slots = device_slots.data(),
                         .cos = device_table.data(),
                         .sin = device_table.data() + kRows * 32,
                         .half = 32,
                         .rows = kRows},
                        nullptr),
              0);
    const std::vector<float> x = first.AsStored(latents);
    std::vector<float> turned = second.AsStored(rotated);
    cpu_.rope_apply({}, {table.data(), table.data() + kRows * 32, 32}, 64,
                    {turned.data(), kRows, 64, 64});
    std::vector<uint8_t> want(pool_bytes, 0xFF);
    std::vector<uint8_t> want_rows(kRows * 656, 0xFF);
    std::vector<float> want_first(kRows * 512, kernels::testing::kNaN);
    std::vector<float> want_second(kRows * 64, kernels::testing::kNaN);
    for (int64_t r = 0; r < kRows; ++r) {
      const KvSlot& slot = slots[static_cast<size_t>(r)];
      if (slot.page < 0) continue;
      uint8_t* row = want.data() + slot.page * kFp8Pool.page_stride_bytes + slot.row * 656;
      WriteFp8Row(x.data() + r * 512, turned.data() + r * 64, row);
      std::memcpy(want_rows.data() + r * 656, row, 656);
      for (int i = 0; i < 512; ++i)
        want_first[static_cast<size_t>(r * 512 + i)] = testing::Fp8RowAt(row, i);
      for (int i = 0; i < 64; ++i)
        want_second[static_cast<size_t>(r * 64 + i)] = testing::Fp8RowAt(row, 512 + i);
    }
    EXPECT_TRUE(memory.Read() == want);
    const Array<uint8_t> rows(kRows * 656);
    ASSERT_EQ(ReadFp8({pool, device_slots.data(), rows.data(), kRows}, nullptr), 0);
    EXPECT_TRUE(rows.Read() == want_rows);
    const TestRows read_first(kRows, 512, bf16, 4);
    const TestRows read_second(kRows, 64, !bf16, 8);
    ASSERT_EQ(
        ReadRows({pool, device_slots.data(), read_first.out(), read_second.out(), kRows}, nullptr),
        0);
    EXPECT_TRUE(SameNumbers(read_first.Read(), want_first));
    EXPECT_TRUE(SameNumbers(read_second.Read(), want_second));
  }
}

TEST_F(CudaKvRows, OnlyLatentsOf512And64AreInFp8) {
  KvPool pool = kFp8Pool;
  EXPECT_EQ(
      StoreRows({.first = {{}, 512, 1, 512, nullptr, true}, .pool = pool, .rows = 1}, nullptr),
      kErrorInvalidValue)
      << "codes are not rotated";
  pool.first_dim = 256;
  EXPECT_EQ(StoreRows({.pool = pool, .rows = 1}, nullptr), kErrorInvalidValue);
  EXPECT_EQ(ReadRows({.pool = pool, .rows = 1}, nullptr), kErrorInvalidValue);
  EXPECT_EQ(ReadFp8({.pool = pool, .rows = 1}, nullptr), kErrorInvalidValue);
  pool = kFp8Pool;
  pool.fp8 = false;
  EXPECT_EQ(ReadFp8({.pool = pool, .rows = 1}, nullptr), kErrorInvalidValue);
}

TEST_F(CudaKvRows, HeadsThatAreNotThePoolsAreRefused) {
  const KvPool pool = {nullptr, 1, 1024, 2, 64, 64};
  EXPECT_EQ(StoreRows({.first = {{}, 64, 1, 64}, .pool = pool, .rows = 1}, nullptr),
            kErrorInvalidValue);
  EXPECT_EQ(StoreRows({.second = {{}, 32, 2, 32}, .pool = pool, .rows = 1}, nullptr),
            kErrorInvalidValue);
}

}  // namespace
}  // namespace reprise::cuda
