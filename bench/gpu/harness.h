// Times kernels on a card: random data, more of it than the second-level cache holds, medians of
// events. Rows go to a table and to JSON. Owner: main. One thread.
#ifndef REPRISE_BENCH_GPU_HARNESS_H_
#define REPRISE_BENCH_GPU_HARNESS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/device/buffer.h"
#include "kernels/cuda/device/runtime.h"

namespace reprise::bench::gpu {

struct Row {
  std::string kernel;
  std::string shape;
  double value = 0;
  std::string unit;
  bool less_is_better = false;
  double floor = 0;  // what the measured ceilings of this card would give
  double least = 0;  // asked; 0: nothing
  double aim = 0;
  // Under which peers.py measures the same; empty: no peer can.
  std::string peer;
  std::string note = {};  // at the row's end
};

class Harness {
 public:
  // Sizes of `tiny` runs show that the cases work; their figures mean nothing.
  // `cublas_lt` is the file of a library to compare with; empty: as the loader finds it.
  Harness(bool tiny, std::string cublas_lt) : tiny_(tiny), cublas_lt_(std::move(cublas_lt)) {}

  bool tiny() const { return tiny_; }
  const std::string& cublas_lt() const { return cublas_lt_; }
  const cuda::DeviceInfo& device() const { return device_; }
  int processors() const { return device_.processors; }
  // Exits with what is wrong when there is no device.
  void Open();
  // Exits, naming what failed.
  void Check(int error, const char* what) const;

  // Device memory; random bf16 values in [-1, 1) of a sequence that `seed` begins.
  cuda::Buffer Memory(size_t bytes) const;
  cuda::Buffer RandomBf16(size_t count, uint64_t seed) const;
  template <class T>
  cuda::Buffer Upload(const std::vector<T>& values) const {
    cuda::Buffer memory = Memory(values.size() * sizeof(T));
    if (!values.empty()) {
      Check(cuda::CopyIn(memory.data(), values.data(), values.size() * sizeof(T), nullptr),
            "copy in");
    }
    Check(cuda::Synchronize(nullptr), "copy in");
    return memory;
  }
  std::vector<uint8_t> Download(const void* device, size_t bytes) const;

  // Median seconds of one launch(i), i counting up: launch may rotate among its inputs. Queued back
  // to back in groups, so that the gaps of launching do not count.
  double Time(const std::function<int(int)>& launch) const;

  void Add(Row row);
  // A check that is not a time: it fails the run when it is false.
  void Expect(bool ok, const std::string& what);

  // Ceilings of this card, measured once.
  double CopyBytesPerSecond();

  void PrintTable() const;
  std::string Json() const;
  bool failed() const { return failed_; }

 private:
  const bool tiny_;
  const std::string cublas_lt_;
  cuda::DeviceInfo device_;
  std::vector<Row> rows_;
  std::vector<std::string> broken_;
  double copy_ = 0;
  bool failed_ = false;
};

// The cases, by kernel.
void DecodeCases(Harness& harness);
void GemmCases(Harness& harness);
void LinearCases(Harness& harness);
void PrefillCases(Harness& harness);
void SmallCases(Harness& harness);

}  // namespace reprise::bench::gpu

#endif  // REPRISE_BENCH_GPU_HARNESS_H_
