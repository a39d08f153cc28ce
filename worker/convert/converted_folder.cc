#include "worker/convert/converted_folder.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "common/limits.h"
#include "kernels/ops.h"
#include "worker/model/folder_writer.h"
#include "worker/model/presets.h"
#include "worker/model/small_file.h"

namespace reprise::convert {
namespace {

using kernels::DType;
using worker::TensorEntry;
using worker::TensorSpec;
using worker::TensorType;

// What a tokenizer and a chat may need of a folder.
constexpr absl::string_view kCopiedFiles[] = {"generation_config.json",
                                              "tokenizer.json",
                                              "tokenizer_config.json",
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "chat_template.jinja",
                                              "vocab.json",
                                              "merges.txt"};

DType TypeOf(TensorType type) {
  switch (type) {
    case TensorType::kBF16:
      return DType::kBF16;
    case TensorType::kF16:
      return DType::kF16;
    default:
      return DType::kF32;
  }
}

std::vector<uint8_t> Stored(const Matrix& m, TensorType type) {
  const std::vector<float> floats(m.values().begin(), m.values().end());
  std::vector<uint8_t> bytes(floats.size() * static_cast<size_t>(SizeOf(TypeOf(type))));
  kernels::Select(kernels::BestIsa())
      .convert(floats.data(), DType::kF32, bytes.data(), TypeOf(type),
               static_cast<int64_t>(floats.size()));
  return bytes;
}

// The name within its layer; empty when it belongs to none.
absl::string_view NameInLayer(absl::string_view name, int64_t* layer) {
  constexpr absl::string_view kLayers = "model.layers.";
  if (!absl::StartsWith(name, kLayers)) return "";
  const size_t dot = name.find('.', kLayers.size());
  *layer = std::stoll(std::string(name.substr(kLayers.size(), dot - kLayers.size())));
  return name.substr(dot + 1);
}

class Writer {
 public:
  Writer(const worker::ModelFolder& source, const Conversion& conversion, const std::string& dir)
      : source_(source),
        conversion_(conversion),
        dir_(dir),
        specs_(worker::ModelTensors(conversion.config())) {}

  Status WriteWeights() {
    std::vector<TensorEntry> entries;
    for (const TensorSpec& spec : specs_) {
      int64_t layer = 0;
      const absl::string_view name = NameInLayer(spec.name, &layer);
      const auto made = conversion_.TypeOf(layer, name);
      entries.push_back({spec.name, made ? *made : source_.tensor(spec.name).type, spec.shape});
    }
    worker::TensorFileWriter out(dir_ + "/model.safetensors", entries);
    for (const TensorEntry& entry : entries) {
      if (!out.ok()) break;
      int64_t layer = 0;
      const absl::string_view name = NameInLayer(entry.name, &layer);
      if (!conversion_.TypeOf(layer, name)) {
        out.Append(source_.tensor(entry.name).bytes);
        continue;
      }
      if (std::exchange(made_layer_, layer) != layer) made_ = conversion_.MakeLayer(layer);
      out.Append(Stored(made_.at(std::string(name)), entry.type));
    }
    return out.Close();
  }

  Status CopyFiles() const {
    for (const absl::string_view name : kCopiedFiles) {
      const auto text =
          worker::ReadSmallFile(absl::StrCat(source_.dir(), "/", name), limits::kTokenizerBytesMax);
      if (absl::IsNotFound(text.status())) continue;
      RETURN_IF_ERROR(text.status());
      RETURN_IF_ERROR(worker::WriteModelFile(dir_, name, *text));
    }
    return absl::OkStatus();
  }

 private:
  const worker::ModelFolder& source_;
  const Conversion& conversion_;
  const std::string dir_;
  const std::vector<TensorSpec> specs_;
  int64_t made_layer_ = -1;  // whose tensors are in made_
  std::map<std::string, Matrix> made_;
};

}  // namespace

std::string LayerPrefix(int64_t layer) { return absl::StrCat("model.layers.", layer, "."); }

Matrix ReadMatrix(const worker::ModelFolder& folder, const std::string& name) {
  const worker::TensorView& tensor = folder.tensor(name);
  std::vector<float> floats(tensor.elements());
  kernels::Select(kernels::BestIsa())
      .convert(tensor.bytes.data(), TypeOf(tensor.type), floats.data(), DType::kF32,
               static_cast<int64_t>(floats.size()));
  const auto cols = static_cast<int64_t>(tensor.shape.back());
  Matrix m(static_cast<int64_t>(floats.size()) / cols, cols);
  std::copy(floats.begin(), floats.end(), m.values().begin());
  return m;
}

Status WriteConverted(const worker::ModelFolder& source, const Conversion& conversion,
                      const std::string& dir) {
  const std::string config = worker::ConfigJson(conversion.config());
  RETURN_IF_ERROR(worker::ParseModelConfig(config).status());
  RETURN_IF_ERROR(worker::PrepareModelFolder(dir));
  Writer writer(source, conversion, dir);
  RETURN_IF_ERROR(writer.CopyFiles());
  RETURN_IF_ERROR(writer.WriteWeights());
  RETURN_IF_ERROR(source.CheckUnchanged());
  return worker::WriteModelFile(dir, "config.json", config);
}

}  // namespace reprise::convert
