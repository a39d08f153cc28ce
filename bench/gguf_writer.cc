#include "bench/gguf_writer.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/bytes.h"
#include "common/random.h"

namespace reprise::bench {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kAlignment = 32;  // the format's default
constexpr uint64_t kSeed = 1;

using Writer = ByteWriter<std::string>;

void PutText(Writer& out, absl::string_view text) { out.U64(text.size()).Bytes(AsBytes(text)); }

uint64_t Aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void GgufWriter::Key(absl::string_view key, Value type) {
  ++keys_;
  Writer out(key_bytes_);
  PutText(out, key);
  out.U32(static_cast<uint32_t>(type));
}

void GgufWriter::Text(absl::string_view key, absl::string_view value) {
  Key(key, Value::kText);
  Writer out(key_bytes_);
  PutText(out, value);
}

void GgufWriter::Integer(absl::string_view key, uint32_t value) {
  Key(key, Value::kInteger);
  Writer(key_bytes_).U32(value);
}

void GgufWriter::Real(absl::string_view key, float value) {
  Key(key, Value::kReal);
  Writer(key_bytes_).F32(value);
}

void GgufWriter::AddTensor(absl::string_view name, Type type, const std::vector<uint64_t>& dims) {
  uint64_t elements = 1;
  Writer out(tensor_bytes_);
  PutText(out, name);
  out.U32(static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) {
    elements *= dim;
    out.U64(dim);
  }
  out.U32(static_cast<uint32_t>(type)).U64(data_bytes_);
  tensors_.push_back({type, elements});
  data_bytes_ += Aligned(elements * (type == Type::kBF16 ? 2 : 4));
}

void GgufWriter::Weights(absl::string_view name, const std::vector<uint64_t>& dims) {
  AddTensor(name, Type::kBF16, dims);
}

void GgufWriter::Norm(absl::string_view name, uint64_t dim) { AddTensor(name, Type::kF32, {dim}); }

std::string GgufWriter::Header() const {
  std::string bytes = "GGUF";
  Writer(bytes).U32(kVersion).U64(tensors_.size()).U64(keys_);
  bytes += key_bytes_;
  bytes += tensor_bytes_;
  bytes.resize(Aligned(bytes.size()));
  return bytes;
}

Status GgufWriter::Write(const std::string& path) const {
  std::ofstream out(path, std::ios::binary);
  out << Header();
  SplitMix64 random(kSeed);
  std::string bytes;
  for (const Tensor& tensor : tensors_) {
    bytes.clear();
    Writer data(bytes);
    if (tensor.type == Type::kF32) {
      for (uint64_t i = 0; i < tensor.elements; ++i) data.F32(1);
    } else {
      for (uint64_t i = 0; i < tensor.elements; i += 4) {
        data.U64((random.Next() & 0x807F807F807F807F) | 0x3C003C003C003C00);
      }
      bytes.resize(tensor.elements * 2);
    }
    bytes.resize(Aligned(bytes.size()));
    out << bytes;
  }
  out.close();
  if (out.fail()) return absl::ResourceExhaustedError(absl::StrCat(path, " cannot be written"));
  return absl::OkStatus();
}

}  // namespace reprise::bench
