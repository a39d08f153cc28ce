#include "worker/device/device_kernels.h"

#include "absl/strings/str_cat.h"

namespace reprise::worker {
namespace {

// The record of docs/gpu.md: a card has run the kernel's tests and they passed.
constexpr bool kGemmProven = false;
constexpr bool kPrefillProven = false;
constexpr bool kDecodeProven = false;
constexpr bool kDecodeFp8Proven = false;
constexpr bool kSampleProven = false;
constexpr bool kPackProven = false;

bool PrefillServes(const ModelConfig& c) {
  const int64_t key = c.head_dim;
  const int64_t value = c.value_dim();
  return (key == 64 && value == 64) || (key == 128 && value == 128) || (key == 192 && value == 128);
}

}  // namespace

std::string DeviceKernels::Text() const {
  return absl::StrCat("gemm=", gemm ? "hopper" : "plain", " prefill=", prefill ? "hopper" : "plain",
                      " decode=", decode ? "hopper" : "plain", fp8 ? " rows=fp8" : "");
}

cuda::DecodeArgs DecodeShapeOf(const ModelConfig& config, bool fp8) {
  cuda::DecodeArgs args;
  args.fp8 = fp8;
  args.q_heads = static_cast<int>(config.heads);
  args.latent = config.latent.has_value();
  if (config.latent) {
    args.first_dim = static_cast<int>(config.latent->kv_rank);
    args.second_dim = static_cast<int>(config.latent->rope_dim);
  } else {
    args.kv_heads = static_cast<int>(config.kv_heads);
    args.first_dim = args.second_dim = static_cast<int>(config.head_dim);
  }
  args.scale = static_cast<float>(config.attention_scale());
  return args;
}

DeviceKernels ChooseKernels(const ModelConfig& config, const cuda::DeviceInfo& device, bool fp8,
                            bool unproven) {
  DeviceKernels kernels;
  kernels.fp8 = fp8;
  kernels.sample = kSampleProven || unproven;
  kernels.pack = kPackProven || unproven;
  if (device.major != 9) return kernels;
  kernels.gemm = kGemmProven || unproven;
  kernels.prefill = (kPrefillProven || unproven) && PrefillServes(config);
  kernels.decode = ((fp8 ? kDecodeFp8Proven : kDecodeProven) || unproven) &&
                   cuda::DecodeServes(DecodeShapeOf(config, fp8));
  return kernels;
}

std::vector<std::string> UnprovenIn(const DeviceKernels& kernels) {
  std::vector<std::string> names;
  if (kernels.gemm && !kGemmProven) names.push_back("gemm");
  if (kernels.prefill && !kPrefillProven) names.push_back("prefill");
  if (kernels.decode && !kernels.fp8 && !kDecodeProven) names.push_back("decode");
  if (kernels.decode && kernels.fp8 && !kDecodeFp8Proven) names.push_back("decode of fp8 rows");
  if (kernels.sample && !kSampleProven) names.push_back("sample");
  if (kernels.pack && !kPackProven) names.push_back("pack");
  return names;
}

}  // namespace reprise::worker
