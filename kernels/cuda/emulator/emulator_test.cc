// The emulator must find what a card would punish, and compute what a card would.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/cuda/device/copy.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/matrix.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/emulator/queue.h"

namespace reprise::cuda {
namespace {

class Emulator : public ::testing::Test {
 protected:
  void TearDown() override {
    emulator::SetLate(false);
    emulator::ResetDevice();
  }
  static std::string Failure(int error) {
    EXPECT_EQ(error, kErrorLaunchFailure);
    std::string why = emulator::TakeFailure();
    emulator::ResetDevice();
    return why;
  }
};

LaunchShape Threads(uint32_t threads, size_t shared_bytes = 0, uint32_t blocks = 1) {
  return {.blocks = {blocks, 1, 1}, .threads = {threads, 1, 1}, .shared_bytes = shared_bytes};
}

// A number a bf16 holds exactly, different for neighbours.
Bf16 Small(size_t i) {
  return {static_cast<uint16_t>(0x3F80 + (i * 37 + i / 61) % 61 + (i % 3 == 0 ? 0x8000 : 0))};
}
std::vector<Bf16> SmallValues(size_t count, size_t seed) {
  std::vector<Bf16> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = Small(i + seed);
  return values;
}
float Value(Bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

// ---- warps and barriers ----

void SumLanes(float* out) {
  const float sum = SumOf(static_cast<float>(ThreadX()), 32);
  out[ThreadX()] = sum;
}

TEST_F(Emulator, LanesExchangeValues) {
  std::vector<float> out(64);
  ASSERT_EQ(Launch(Threads(64), nullptr, SumLanes, out.data()), 0);
  EXPECT_EQ(out[5], 496.0F);
  EXPECT_EQ(out[37], 496.0F + 32 * 32);
}

void Reverse(int32_t* values) {
  auto* shared = reinterpret_cast<int32_t*>(Shared());
  shared[ThreadX()] = values[ThreadX()];
  SyncBlock();
  values[ThreadX()] = shared[BlockThreads() - 1 - ThreadX()];
}

TEST_F(Emulator, ABlockSharesMemory) {
  std::vector<int32_t> values(100);
  std::iota(values.begin(), values.end(), 0);
  ASSERT_EQ(Launch(Threads(100, 400), nullptr, Reverse, values.data()), 0);
  EXPECT_EQ(values[0], 99);
  EXPECT_EQ(values[99], 0);
}

void ReverseWithoutBarrier(int32_t* values) {
  auto* shared = reinterpret_cast<int32_t*>(Shared());
  shared[ThreadX()] = values[ThreadX()];
  values[ThreadX()] = shared[BlockThreads() - 1 - ThreadX()];
}

TEST_F(Emulator, AMissingBarrierShows) {
  std::vector<int32_t> values(128);
  std::iota(values.begin(), values.end(), 0);
  ASSERT_EQ(Launch(Threads(128, 512), nullptr, ReverseWithoutBarrier, values.data()), 0);
  std::vector<int32_t> reversed(128);
  std::iota(reversed.rbegin(), reversed.rend(), 0);
  EXPECT_NE(values, reversed);
}

void HalfOfThemWait() {
  if (ThreadX() < 64) SyncNamed(1, 128);
  SyncBlock();
}

TEST_F(Emulator, ADeadlockIsNamed) {
  const std::string why = Failure(Launch(Threads(128), nullptr, HalfOfThemWait));
  EXPECT_NE(why.find("deadlock"), std::string::npos) << why;
  EXPECT_NE(why.find("64 threads (0 to 63) for a barrier"), std::string::npos) << why;
}

void Diverge() {
  if (Lane() == 0) {
    Ballot(true);
  } else {
    SyncWarp();
  }
}

TEST_F(Emulator, DivergingLanesAreNamed) {
  EXPECT_NE(Failure(Launch(Threads(32), nullptr, Diverge)).find("diverge"), std::string::npos);
}

TEST_F(Emulator, AFailedKernelIsSticky) {
  EXPECT_EQ(Launch(Threads(2048), nullptr, Diverge), kErrorLaunchFailure);
  void* memory = nullptr;
  EXPECT_EQ(Allocate(&memory, 16), kErrorLaunchFailure);
  EXPECT_EQ(Synchronize(nullptr), kErrorLaunchFailure);
  emulator::ResetDevice();
  EXPECT_EQ(Allocate(&memory, 16), 0);
  EXPECT_EQ(Free(memory), 0);
}

// The first warp has much to do with the third before it overwrites what the second reads.
void OverwriteMuchLater(int32_t* out) {
  auto* shared = reinterpret_cast<int32_t*>(Shared());
  if (Warp() == 0 && Lane() == 0) shared[0] = 1;
  if (Warp() < 2) SyncNamed(1, 64);
  if (Warp() == 1) out[Lane()] = shared[0];
  if (Warp() == 1) return;
  for (int i = 0; i < 16; ++i) SyncNamed(2, 64);
  if (Warp() == 0) shared[0] = 2;
}

TEST_F(Emulator, AnyWarpMayBeSlow) {
  int overwritten = 0;
  for (uint64_t seed = 0; seed < 32; ++seed) {
    emulator::SetSeed(seed);
    std::vector<int32_t> out(32);
    ASSERT_EQ(Launch(Threads(96, 4), nullptr, OverwriteMuchLater, out.data()), 0);
    overwritten += out[0] == 2 ? 1 : 0;
  }
  EXPECT_GT(overwritten, 0);
  EXPECT_LT(overwritten, 32);
}

// ---- copies ----

constexpr int kRows = 24;
constexpr int kCols = 128;

struct CopyArgs {
  TensorMap map;
  Bf16* out;  // as it lies in shared memory: [8, 64]
  int32_t row;
  int32_t col;
  bool wait;
  int barriers;  // of the block, between the copy and its use
};

// One tile of 8 rows of 64.
void CopyTileKernel(CopyArgs args) {
  auto* tile = reinterpret_cast<Bf16*>(Shared());
  auto* barrier = reinterpret_cast<Mbarrier*>(Shared() + 1024);
  if (ThreadX() == 0) {
    InitBarrier(barrier, 1);
    FenceInit();
    ArriveExpecting(barrier, 8 * 64 * 2);
    LoadTile(tile, args.map, barrier, args.col, args.row, Reuse::kOnce);
  }
  SyncBlock();
  for (int i = 0; i < args.barriers; ++i) SyncBlock();
  if (args.wait) Wait(barrier, 0);
  for (uint32_t i = ThreadX(); i < 8 * 64; i += BlockThreads()) args.out[i] = tile[i];
}

std::vector<Bf16> CopyOne(const std::vector<Bf16>& matrix, int32_t row, int32_t col, bool wait,
                          int barriers = 0) {
  CopyArgs args = {};
  EXPECT_EQ(MakeTensorMap({.base = matrix.data(),
                           .rank = 2,
                           .dims = {kCols, kRows},
                           .stride_bytes = {0, kCols * 2},
                           .box = {64, 8},
                           .swizzle_bytes = 128},
                          &args.map),
            0);
  std::vector<Bf16> out(8 * 64);
  args.out = out.data();
  args.row = row;
  args.col = col;
  args.wait = wait;
  args.barriers = barriers;
  EXPECT_EQ(Launch(Threads(32, 1032), nullptr, CopyTileKernel, args), 0);
  return out;
}

struct AlignedMatrix {
  explicit AlignedMatrix(size_t count) : values(SmallValues(count, 0)) {}
  std::vector<Bf16> values;
};

TEST_F(Emulator, TilesAreSwizzledAndZeroBeyondTheTensor) {
  const AlignedMatrix matrix(kRows * kCols);
  const std::vector<Bf16> out = CopyOne(matrix.values, 20, 64, true);
  for (size_t r = 0; r < 8; ++r) {
    for (size_t c = 0; c < 64; ++c) {
      const uint32_t at = Swizzle(static_cast<uint32_t>(r * 128 + c * 2), 128) / 2;
      const uint16_t want = 20 + r < kRows ? matrix.values[(20 + r) * kCols + 64 + c].bits : 0;
      ASSERT_EQ(out[at].bits, want) << r << ", " << c;
    }
  }
}

TEST_F(Emulator, ACopyNotWaitedForIsPoison) {
  const AlignedMatrix matrix(kRows * kCols);
  int poisoned = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    emulator::SetSeed(seed);
    poisoned += CopyOne(matrix.values, 0, 0, false)[0].bits == 0xFFFF ? 1 : 0;
  }
  EXPECT_GT(poisoned, 0);
}

TEST_F(Emulator, ACopyMayTakeLongerThanAnythingElse) {
  const AlignedMatrix matrix(kRows * kCols);
  int poisoned = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    emulator::SetSeed(seed);
    poisoned += CopyOne(matrix.values, 0, 0, false, 100)[0].bits == 0xFFFF ? 1 : 0;
  }
  EXPECT_GT(poisoned, 0);
  EXPECT_LT(poisoned, 8);
}

// ---- matrix products ----

enum class How : uint8_t { kRight, kWithoutFence, kWithoutWait };

struct ProductArgs {
  const Bf16* a;    // [64, 64]
  const Bf16* b;    // [64 (k), n] or [n, 64 (k)]
  float* d;         // [64, n]
  bool a_mn_major;  // a is [k][m] in shared memory
  bool a_registers;
  bool b_mn_major;
  How how;
};

// Threads store both operands to shared memory themselves, swizzled.
template <int kN>
void ProductKernel(ProductArgs args) {
  uint8_t* a = Shared();
  uint8_t* b = Shared() + 64 * 128;
  const auto store = [](uint8_t* tile, uint32_t row, uint32_t col, uint32_t rows, Bf16 value) {
    // Columns beyond 64 are the next tile.
    const uint32_t at = Swizzle(row * 128 + col % 64 * 2, 128) + col / 64 * rows * 128;
    std::memcpy(tile + at, &value, 2);
  };
  for (uint32_t i = ThreadX(); i < 64 * 64; i += 128) {
    const uint32_t m = i / 64;
    const uint32_t k = i % 64;
    if (args.a_mn_major) {
      store(a, k, m, 64, args.a[i]);
    } else {
      store(a, m, k, 64, args.a[i]);
    }
  }
  for (uint32_t i = ThreadX(); i < 64 * kN; i += 128) {
    store(b, i / (args.b_mn_major ? kN : 64), i % (args.b_mn_major ? kN : 64), 64, args.b[i]);
  }
  if (args.how != How::kWithoutFence) FenceAsync();
  SyncBlock();
  float d[kN / 2];
  for (float& x : d) x = 100;
  uint32_t fragments[4][4];
  const uint32_t t = ThreadX();
  for (uint32_t step = 0; step < 4; ++step) {
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t m = 16 * (t / 32) + t % 32 / 4 + 8 * (i % 2);
      const uint32_t k = step * 16 + 2 * (t % 4) + 8 * (i / 2);
      fragments[step][i] =
          args.a[m * 64 + k].bits | static_cast<uint32_t>(args.a[m * 64 + k + 1].bits) << 16;
    }
  }
  FenceMatrix();
  for (uint32_t step = 0; step < 4; ++step) {
    const uint64_t b_descriptor =
        args.b_mn_major
            ? DescriptorOf({.address = SharedAddress(b) + step * 2048, .wide_bytes = 64 * 128})
            : DescriptorOf({.address = SharedAddress(b) + step * 32});
    const bool more = step > 0;
    if (args.a_registers) {
      if (args.b_mn_major) {
        Multiply<kN, Major::kMn>(d, fragments[step], b_descriptor, more);
      } else {
        Multiply<kN, Major::kK>(d, fragments[step], b_descriptor, more);
      }
      continue;
    }
    const uint64_t a_descriptor =
        DescriptorOf({.address = SharedAddress(a) + step * (args.a_mn_major ? 2048 : 32)});
    if (args.a_mn_major && args.b_mn_major) {
      Multiply<kN, Major::kMn, Major::kMn>(d, a_descriptor, b_descriptor, more);
    } else if (args.a_mn_major) {
      Multiply<kN, Major::kMn, Major::kK>(d, a_descriptor, b_descriptor, more);
    } else if (args.b_mn_major) {
      Multiply<kN, Major::kK, Major::kMn>(d, a_descriptor, b_descriptor, more);
    } else {
      Multiply<kN, Major::kK, Major::kK>(d, a_descriptor, b_descriptor, more);
    }
  }
  CommitMatrix();
  if (args.how != How::kWithoutWait) WaitMatrix<0>();
  for (int i = 0; i < kN / 2; ++i) {
    const uint32_t row = 16 * (t / 32) + t % 32 / 4 + 8 * (static_cast<uint32_t>(i) / 2 % 2);
    const uint32_t col =
        static_cast<uint32_t>(i) / 4 * 8 + 2 * (t % 4) + static_cast<uint32_t>(i) % 2;
    args.d[row * kN + col] = d[i];
  }
}

template <int kN>
std::vector<float> Product(ProductArgs args, const std::vector<Bf16>& a,
                           const std::vector<Bf16>& b) {
  std::vector<float> d(64 * kN, -1);
  args.a = a.data();
  args.b = b.data();
  args.d = d.data();
  EXPECT_EQ(Launch(Threads(128, 64 * 128 + kN * 128 + 64 * 128), nullptr, ProductKernel<kN>, args),
            0);
  return d;
}

template <int kN>
std::vector<float> Expected(const std::vector<Bf16>& a, const std::vector<Bf16>& b, bool mn_major) {
  std::vector<float> d(64 * kN);
  for (size_t m = 0; m < 64; ++m) {
    for (size_t n = 0; n < kN; ++n) {
      double sum = 0;
      for (size_t k = 0; k < 64; ++k) {
        sum += static_cast<double>(Value(a[m * 64 + k])) *
               static_cast<double>(Value(b[mn_major ? k * kN + n : n * 64 + k]));
      }
      d[m * kN + n] = static_cast<float>(sum);
    }
  }
  return d;
}

template <int kN>
void CheckProducts() {
  const std::vector<Bf16> a = SmallValues(64 * 64, 1);
  const std::vector<Bf16> b = SmallValues(64 * kN, 2);
  for (const bool a_mn : {false, true}) {
    for (const bool b_mn : {false, true}) {
      for (const bool registers : {false, true}) {
        if (b_mn && kN < 64) continue;
        const ProductArgs args = {.a_mn_major = a_mn, .a_registers = registers, .b_mn_major = b_mn};
        const std::vector<float> d = Product<kN>(args, a, b);
        const std::vector<float> want = Expected<kN>(a, b, b_mn);
        for (size_t i = 0; i < d.size(); ++i) {
          // Products of seven bits each; sums of 64 below 256 are exact to 2^-14.
          ASSERT_NEAR(d[i], want[i], 1e-3) << i << " " << a_mn << b_mn << registers << " " << kN;
        }
      }
    }
  }
}

TEST_F(Emulator, MultipliesFromEveryLayout) {
  CheckProducts<16>();
  CheckProducts<64>();
  CheckProducts<128>();
}

TEST_F(Emulator, OperandsStoredWithoutAFenceArePoison) {
  const std::vector<float> d =
      Product<64>({.how = How::kWithoutFence}, SmallValues(4096, 1), SmallValues(4096, 2));
  EXPECT_TRUE(d[0] != d[0]);
}

TEST_F(Emulator, ProductsNotWaitedForShowInSomeOrder) {
  const std::vector<Bf16> a = SmallValues(4096, 1);
  const std::vector<Bf16> b = SmallValues(4096, 2);
  int wrong = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    emulator::SetSeed(seed);
    wrong += Product<64>({.how = How::kWithoutWait}, a, b) != Expected<64>(a, b, false) ? 1 : 0;
  }
  EXPECT_GT(wrong, 0);
}

// ---- streams ----

void AddOne(int32_t* value) { *value += 1; }

TEST_F(Emulator, AGraphRepeatsWhatWasCaptured) {
  int32_t value = 0;
  Stream stream = nullptr;
  Graph graph = nullptr;
  ASSERT_EQ(MakeStream(&stream, false), 0);
  ASSERT_EQ(BeginCapture(stream), 0);
  ASSERT_EQ(Launch(Threads(1), stream, AddOne, &value), 0);
  ASSERT_EQ(EndCapture(stream, &graph), 0);
  EXPECT_EQ(value, 0);
  ASSERT_EQ(LaunchGraph(graph, stream), 0);
  ASSERT_EQ(LaunchGraph(graph, stream), 0);
  EXPECT_EQ(value, 2);
  DestroyGraph(graph);
  DestroyStream(stream);
}

// What is queued late happens when somebody waits for it, and no earlier.
TEST_F(Emulator, WorkMayBeAsLateAsTheProgramAllows) {
  emulator::SetLate(true);
  Stream first = nullptr;
  Stream second = nullptr;
  Event done = nullptr;
  ASSERT_EQ(MakeStream(&first, false), 0);
  ASSERT_EQ(MakeStream(&second, false), 0);
  ASSERT_EQ(MakeEvent(&done, false), 0);
  int value = 0;
  int copy = -1;
  ASSERT_EQ(Launch(Threads(1), first, AddOne, &value), 0);
  ASSERT_EQ(Record(done, first), 0);
  ASSERT_EQ(Launch(Threads(1), first, AddOne, &value), 0);
  EXPECT_EQ(value, 0);
  // Up to the event only.
  ASSERT_EQ(WaitFor(second, done), 0);
  ASSERT_EQ(CopyWithin(&copy, &value, sizeof value, second), 0);
  ASSERT_EQ(Synchronize(second), 0);
  EXPECT_EQ(copy, 1);
  EXPECT_EQ(value, 1);
  ASSERT_EQ(Synchronize(first), 0);
  EXPECT_EQ(value, 2);
  // A copy that waits for nobody has what was there.
  ASSERT_EQ(Launch(Threads(1), first, AddOne, &value), 0);
  ASSERT_EQ(CopyWithin(&copy, &value, sizeof value, second), 0);
  ASSERT_EQ(Synchronize(second), 0);
  EXPECT_EQ(copy, 2);
  DestroyEvent(done);
  DestroyStream(second);
  DestroyStream(first);
  EXPECT_EQ(value, 3);
}

TEST_F(Emulator, MemoryIsFreedWhenNothingIsUnderWay) {
  emulator::SetLate(true);
  void* memory = nullptr;
  ASSERT_EQ(Allocate(&memory, sizeof(int)), 0);
  int value = 5;
  int copy = 0;
  ASSERT_EQ(CopyIn(memory, &value, sizeof value, nullptr), 0);
  ASSERT_EQ(CopyOut(&copy, memory, sizeof copy, nullptr), 0);
  EXPECT_EQ(copy, 0);
  EXPECT_EQ(Free(memory), 0);
  EXPECT_EQ(copy, 5);
}

TEST_F(Emulator, MemoryHasALimit) {
  void* memory = nullptr;
  EXPECT_EQ(Allocate(&memory, size_t{2} << 30), kErrorMemory);
}

}  // namespace
}  // namespace reprise::cuda
