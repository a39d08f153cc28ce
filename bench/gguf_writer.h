// Writes the files llama.cpp reads (GGUF version 3, docs/gguf.md of its library ggml), as much of
// the format as a model of random weights needs: texts, numbers, and tensors of f32 and bf16. For
// benchmarks against llama.cpp. One thread.
//
// Invariants:
// 1. Everything is little-endian; data begin, and each tensor begins, at a multiple of 32 bytes.
// 2. The bytes are a function of the calls alone.
#ifndef REPRISE_BENCH_GGUF_WRITER_H_
#define REPRISE_BENCH_GGUF_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise::bench {

class GgufWriter {
 public:
  void Text(absl::string_view key, absl::string_view value);
  void Integer(absl::string_view key, uint32_t value);
  void Real(absl::string_view key, float value);

  // bf16 of about 2^-7, either sign. `dims`: the fastest first.
  void Weights(absl::string_view name, const std::vector<uint64_t>& dims);
  // f32 ones.
  void Norm(absl::string_view name, uint64_t dim);

  // All before the tensors' data.
  std::string Header() const;
  // RESOURCE_EXHAUSTED names the file when it cannot be written.
  Status Write(const std::string& path) const;

 private:
  // As the format numbers them.
  enum class Value : uint32_t { kInteger = 4, kReal = 6, kText = 8 };
  enum class Type : uint32_t { kF32 = 0, kBF16 = 30 };
  struct Tensor {
    Type type;
    uint64_t elements;
  };

  void Key(absl::string_view key, Value type);
  void AddTensor(absl::string_view name, Type type, const std::vector<uint64_t>& dims);

  uint64_t keys_ = 0;
  std::string key_bytes_;
  std::string tensor_bytes_;  // their names, shapes, types and places
  uint64_t data_bytes_ = 0;
  std::vector<Tensor> tensors_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_GGUF_WRITER_H_
