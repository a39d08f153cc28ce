#include "worker/model/rope_frequencies.h"

namespace reprise::worker {
namespace {

constexpr double kPi = 3.14159265358979323846;

double Power(double base, int64_t n) {
  double result = 1;
  for (; n > 0; n >>= 1, base *= base) {
    if ((n & 1) != 0) result *= base;
  }
  return result;
}

// The n-th root of x >= 1 by bisection: libm's pow differs between machines, this does not.
double Root(double x, int64_t n) {
  double low = 1, high = x;
  for (;;) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) return low;
    (Power(middle, n) <= x ? low : high) = middle;
  }
}

double Llama3(double inv_freq, const RopeScaling& s) {
  const double wavelength = 2 * kPi / inv_freq;
  const auto original = static_cast<double>(s.original_context);
  if (wavelength < original / s.high_freq_factor) return inv_freq;
  if (wavelength > original / s.low_freq_factor) return inv_freq / s.factor;
  const double smooth =
      (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * inv_freq / s.factor + smooth * inv_freq;
}

}  // namespace

std::vector<double> RopeInverseFrequencies(const ModelConfig& config) {
  const int64_t half = config.head_dim / 2;
  const double step = Root(config.rope_theta, half);
  std::vector<double> frequencies;
  for (int64_t i = 0; i < half; ++i) {
    const double inv_freq = 1 / Power(step, i);
    switch (config.rope_scaling.kind) {
      case RopeKind::kDefault:
        frequencies.push_back(inv_freq);
        break;
      case RopeKind::kLinear:
        frequencies.push_back(inv_freq / config.rope_scaling.factor);
        break;
      case RopeKind::kLlama3:
        frequencies.push_back(Llama3(inv_freq, config.rope_scaling));
        break;
    }
  }
  return frequencies;
}

}  // namespace reprise::worker
