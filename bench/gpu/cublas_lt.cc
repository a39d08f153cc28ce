#include "bench/gpu/cublas_lt.h"

#include <dlfcn.h>

#include <cstddef>

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#endif

namespace reprise::bench::gpu {
namespace {

// Names and numbers as in cublasLt.h, library_types.h and cublas_api.h, the same in all versions.
constexpr int kStatusInvalidValue = 7;
constexpr int kStatusNotSupported = 15;
constexpr int kTypeBf16 = 14;
constexpr int kTypeF32 = 0;
constexpr int kComputeF32 = 68;
constexpr int kOpT = 1;
constexpr int kDescTransA = 3;
constexpr int kLayoutBatchCount = 5;
constexpr int kLayoutBatchStride = 6;
constexpr int kPreferWorkspaceBytes = 1;
constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA advises for Hopper

struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

#if __has_include(<cublasLt.h>)
static_assert(kStatusInvalidValue == CUBLAS_STATUS_INVALID_VALUE);
static_assert(kStatusNotSupported == CUBLAS_STATUS_NOT_SUPPORTED);
static_assert(kTypeBf16 == CUDA_R_16BF && kTypeF32 == CUDA_R_32F);
static_assert(kComputeF32 == CUBLAS_COMPUTE_32F && kOpT == CUBLAS_OP_T);
static_assert(kDescTransA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(kLayoutBatchCount == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
static_assert(kLayoutBatchStride == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
static_assert(kPreferWorkspaceBytes == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(Heuristic, workspace_bytes) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(Heuristic, status) == offsetof(cublasLtMatmulHeuristicResult_t, state));
#endif

}  // namespace

struct CublasLt::Calls {
  size_t (*version)();
  int (*create)(void** handle);
  int (*destroy)(void* handle);
  int (*make_desc)(void** desc, int compute, int scale_type);
  int (*set_desc)(void* desc, int attribute, const void* value, size_t bytes);
  int (*free_desc)(void* desc);
  int (*make_layout)(void** layout, int type, uint64_t rows, uint64_t cols, int64_t stride);
  int (*set_layout)(void* layout, int attribute, const void* value, size_t bytes);
  int (*free_layout)(void* layout);
  int (*make_preference)(void** preference);
  int (*set_preference)(void* preference, int attribute, const void* value, size_t bytes);
  int (*free_preference)(void* preference);
  int (*heuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference,
                   int wanted, Heuristic* found, int* count);
  int (*matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout,
                const void* b, void* b_layout, const void* beta, const void* c, void* c_layout,
                void* d, void* d_layout, const Algorithm* algorithm, void* workspace,
                size_t workspace_bytes, void* stream);

  // False when one is missing; its name is in `missing`.
  bool Find(void* library, std::string* missing) {
    const auto find = [&](auto* call, const char* name) {
      void* const address = dlsym(library, name);
      if (address == nullptr && missing->empty()) *missing = name;
      *reinterpret_cast<void**>(call) = address;
    };
    find(&version, "cublasLtGetVersion");
    find(&create, "cublasLtCreate");
    find(&destroy, "cublasLtDestroy");
    find(&make_desc, "cublasLtMatmulDescCreate");
    find(&set_desc, "cublasLtMatmulDescSetAttribute");
    find(&free_desc, "cublasLtMatmulDescDestroy");
    find(&make_layout, "cublasLtMatrixLayoutCreate");
    find(&set_layout, "cublasLtMatrixLayoutSetAttribute");
    find(&free_layout, "cublasLtMatrixLayoutDestroy");
    find(&make_preference, "cublasLtMatmulPreferenceCreate");
    find(&set_preference, "cublasLtMatmulPreferenceSetAttribute");
    find(&free_preference, "cublasLtMatmulPreferenceDestroy");
    find(&heuristic, "cublasLtMatmulAlgoGetHeuristic");
    find(&matmul, "cublasLtMatmul");
    return missing->empty();
  }
};

struct CublasLt::Choice {
  explicit Choice(const Calls& made_by) : calls(made_by) {}
  ~Choice() {
    if (desc != nullptr) calls.free_desc(desc);
    for (void* layout : {w, x, y}) {
      if (layout != nullptr) calls.free_layout(layout);
    }
  }

  // Columns of `rows` elements: a row-major matrix is its transpose to the library.
  int MakeLayout(void** layout, int64_t batch, int64_t rows, int64_t cols) const {
    int status = calls.make_layout(layout, kTypeBf16, static_cast<uint64_t>(rows),
                                   static_cast<uint64_t>(cols), rows);
    if (status != 0 || batch == 1) return status;
    const auto count = static_cast<int32_t>(batch);
    const int64_t stride = rows * cols;
    status = calls.set_layout(*layout, kLayoutBatchCount, &count, sizeof count);
    if (status != 0) return status;
    return calls.set_layout(*layout, kLayoutBatchStride, &stride, sizeof stride);
  }

  const Calls& calls;
  void* desc = nullptr;
  void* w = nullptr;
  void* x = nullptr;
  void* y = nullptr;
  Heuristic heuristic{};
};

CublasLt::CublasLt() = default;

CublasLt::~CublasLt() {
  choice_ = nullptr;
  if (handle_ != nullptr) calls_->destroy(handle_);
  if (library_ != nullptr) dlclose(library_);
}

std::unique_ptr<CublasLt> CublasLt::Open(const std::string& file, std::string* why) {
  std::unique_ptr<CublasLt> lt(new CublasLt);
  for (const std::string& name :
       {file, std::string("libcublasLt.so.13"), std::string("libcublasLt.so.12"),
        std::string("libcublasLt.so")}) {
    if (lt->library_ == nullptr && !name.empty()) {
      lt->library_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    }
  }
  if (lt->library_ == nullptr) {
    const char* const said = dlerror();
    *why = said == nullptr ? "no libcublasLt" : said;
    return nullptr;
  }
  lt->calls_ = std::make_unique<Calls>();
  std::string missing;
  if (!lt->calls_->Find(lt->library_, &missing)) {
    *why = "libcublasLt has no " + missing;
    return nullptr;
  }
  lt->version_ = static_cast<int64_t>(lt->calls_->version());
  if (const int status = lt->calls_->create(&lt->handle_); status != 0) {
    *why = "cublasLtCreate: status " + std::to_string(status);
    return nullptr;
  }
  if (lt->workspace_.Reset(kWorkspaceBytes) != 0) {
    *why = "no device memory for the workspace";
    return nullptr;
  }
  return lt;
}

int CublasLt::Choose(const LinearShape& shape) {
  const Calls& calls = *calls_;
  choice_ = nullptr;
  auto made = std::make_unique<Choice>(calls);
  int status = calls.make_desc(&made->desc, kComputeF32, kTypeF32);
  const int32_t transposed = kOpT;
  if (status == 0) {
    status = calls.set_desc(made->desc, kDescTransA, &transposed, sizeof transposed);
  }
  if (status == 0) status = made->MakeLayout(&made->w, shape.batch, shape.k, shape.n);
  if (status == 0) status = made->MakeLayout(&made->x, shape.batch, shape.k, shape.m);
  if (status == 0) status = made->MakeLayout(&made->y, shape.batch, shape.n, shape.m);
  void* preference = nullptr;
  if (status == 0) status = calls.make_preference(&preference);
  const uint64_t workspace = kWorkspaceBytes;
  if (status == 0) {
    status = calls.set_preference(preference, kPreferWorkspaceBytes, &workspace, sizeof workspace);
  }
  int count = 0;
  if (status == 0) {
    status = calls.heuristic(handle_, made->desc, made->w, made->x, made->y, made->y, preference, 1,
                             &made->heuristic, &count);
  }
  if (preference != nullptr) calls.free_preference(preference);
  if (status != 0) return status;
  if (count == 0) return kStatusNotSupported;
  if (made->heuristic.status != 0) return made->heuristic.status;
  choice_ = std::move(made);
  return 0;
}

int CublasLt::Run(const uint16_t* w, const uint16_t* x, uint16_t* y) {
  if (choice_ == nullptr) return kStatusInvalidValue;
  const float one = 1;
  const float zero = 0;
  return calls_->matmul(handle_, choice_->desc, &one, w, choice_->w, x, choice_->x, &zero, y,
                        choice_->y, y, choice_->y, &choice_->heuristic.algorithm, workspace_.data(),
                        kWorkspaceBytes, nullptr);
}

}  // namespace reprise::bench::gpu
