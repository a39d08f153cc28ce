#include "worker/device/device_numerics.h"

#include <utility>
#include <vector>

#include "worker/device/device_model.h"
#include "worker/model/known_model.h"
#include "worker/model/rope_frequencies.h"

namespace reprise::worker {
namespace {

constexpr int64_t kTokens = 70;  // more than a page
constexpr int64_t kSteps = 2;
constexpr int32_t kPages = 2;

template <typename T>
void Update(Sha256& hash, std::span<const T> values) {
  hash.Update(std::span(reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()));
}

Status RunKnownModel(const ModelConfig& model, const DeviceKernels& kernels,
                     const cuda::DeviceInfo& device, Sha256* hash) {
  const ModelConfig c = KnownModelConfig(model, HeadDims::kOfModel);
  ASSIGN_OR_RETURN(DeviceWeights weights,
                   UploadWeights(KnownModelWeights(c, kernels::DType::kBF16)));
  DeviceModel known(c, std::move(weights), kernels, device);
  RETURN_IF_ERROR(known.Open());
  RETURN_IF_ERROR(known.MakePool(kPages));
  const std::vector<int32_t> pages = {1, 0};
  std::vector<int32_t> tokens(kTokens + kSteps);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(i * 37 % static_cast<size_t>(c.vocab));
  }
  for (int64_t step = 0; step <= kSteps; ++step) {
    const auto first = static_cast<size_t>(step == 0 ? 0 : kTokens + step - 1);
    const size_t count = step == 0 ? kTokens : 1;
    const std::vector<StepItem> items = {{std::span(tokens).subspan(first, count),
                                          static_cast<int64_t>(first), pages, true, kTokens}};
    RETURN_IF_ERROR(known.Forward({.items = items, .all_outputs = true}));
    for (int64_t layer = 0; layer < c.layers; ++layer) {
      const uint8_t* a = nullptr;
      const uint8_t* b = nullptr;
      RETURN_IF_ERROR(known.AwaitRows(static_cast<uint32_t>(layer), &a, &b));
      const size_t rows = known.slots().size();
      Update(*hash, std::span(a, rows * static_cast<size_t>(known.first_row_bytes())));
      Update(*hash, known.segments().all(layer));
      Update(*hash, std::span(b, rows * static_cast<size_t>(known.second_row_bytes())));
    }
    RETURN_IF_ERROR(known.AwaitOutputs());
    for (int64_t i = 0; i < known.outputs(); ++i) Update(*hash, known.logits(i));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<Digest256> DeviceNumericsClass(const ModelConfig& config, const DeviceKernels& kernels,
                                        const cuda::DeviceInfo& device) {
  Sha256 hash;
  hash.Update("reprise.cuda.numerics.v1");
  hash.Update(kernels.Text());
  const std::vector<double> frequencies = RopeInverseFrequencies(config);
  Update(hash, std::span<const double>(frequencies));
  RETURN_IF_ERROR(RunKnownModel(config, kernels, device, &hash));
  return hash.Finish();
}

}  // namespace reprise::worker
