// NVIDIA's linear layers with free heuristics, loaded at run time if they are there: what ours are
// measured against. Declared here by hand, so that no header of CUDA's is needed to compile it;
// where there is one, it is checked against. Owner: the caller. One thread.
#ifndef REPRISE_BENCH_GPU_CUBLAS_LT_H_
#define REPRISE_BENCH_GPU_CUBLAS_LT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/cuda/device/buffer.h"

namespace reprise::bench::gpu {

// y[b] = x[b] w[b]^T of bf16, summed in f32: x [batch, m, k], w [batch, n, k], y [batch, m, n].
struct LinearShape {
  int64_t batch = 1;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
};

class CublasLt {
 public:
  // `file` is tried first if it is not empty, then the names the loader knows. Null when there is
  // none; then `why` says what the loader said.
  static std::unique_ptr<CublasLt> Open(const std::string& file, std::string* why);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // As the library says: 130100 is 13.1.0.
  int64_t version() const { return version_; }
  // Asks the heuristics for their first choice. 0, or a cublasStatus_t: it has none.
  int Choose(const LinearShape& shape);
  // With what was chosen last, on the default stream. 0 or a cublasStatus_t.
  int Run(const uint16_t* w, const uint16_t* x, uint16_t* y);

 private:
  struct Calls;
  struct Choice;

  CublasLt();

  void* library_ = nullptr;
  void* handle_ = nullptr;
  int64_t version_ = 0;
  std::unique_ptr<Calls> calls_;
  std::unique_ptr<Choice> choice_;
  cuda::Buffer workspace_;
};

}  // namespace reprise::bench::gpu

#endif  // REPRISE_BENCH_GPU_CUBLAS_LT_H_
