// Writing the folder of a model made from another: tensors of the same name are the source's bytes
// unless the conversion makes them anew, and the tokenizer's files are copied. One thread per call;
// one layer's new tensors are in memory at a time.
#ifndef REPRISE_WORKER_CONVERT_CONVERTED_FOLDER_H_
#define REPRISE_WORKER_CONVERT_CONVERTED_FOLDER_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "worker/convert/matrix.h"
#include "worker/model/model_folder.h"

namespace reprise::convert {

class Conversion {
 public:
  virtual ~Conversion() = default;
  // Of the new model.
  virtual const worker::ModelConfig& config() const = 0;
  // The type of a tensor that is made anew, by its name without "model.layers.N."; nothing for
  // those that are the source's.
  virtual std::optional<worker::TensorType> TypeOf(int64_t layer, absl::string_view name) const = 0;
  // Those tensors, in numbers; a vector is a matrix of one row.
  virtual std::map<std::string, Matrix> MakeLayer(int64_t layer) const = 0;
};

// Writes DIR, config.json last. ALREADY_EXISTS when it is not empty, RESOURCE_EXHAUSTED when a
// write fails, ABORTED when the source changed meanwhile.
Status WriteConverted(const worker::ModelFolder& source, const Conversion& conversion,
                      const std::string& dir);

// "model.layers.N."
std::string LayerPrefix(int64_t layer);
// A tensor of a folder in doubles; a vector is one row.
Matrix ReadMatrix(const worker::ModelFolder& folder, const std::string& name);

}  // namespace reprise::convert

#endif  // REPRISE_WORKER_CONVERT_CONVERTED_FOLDER_H_
