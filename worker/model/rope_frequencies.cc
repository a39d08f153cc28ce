#include "worker/model/rope_frequencies.h"

#include <algorithm>
#include <cmath>

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

// Between the two pairs of dims frequencies are blended.
struct YarnRamp {
  double low = 0;
  double high = 0;
};

// The pair of dims that turns `rotations` times within the original context, not rounded.
double PairOf(double rotations, const RopeScaling& s, double theta, int64_t dims) {
  const double turns = static_cast<double>(s.original_context) / (rotations * 2 * kPi);
  return static_cast<double>(dims) * std::log(turns) / (2 * std::log(theta));
}

YarnRamp RampOf(const RopeScaling& s, double theta, int64_t dims) {
  YarnRamp ramp{
      std::max(std::floor(PairOf(s.beta_fast, s, theta, dims)), 0.0),
      std::min(std::ceil(PairOf(s.beta_slow, s, theta, dims)), static_cast<double>(dims - 1))};
  if (ramp.low == ramp.high) ramp.high += 0.001;
  return ramp;
}

double Yarn(double inv_freq, int64_t pair, const YarnRamp& ramp, const RopeScaling& s) {
  const double at = (static_cast<double>(pair) - ramp.low) / (ramp.high - ramp.low);
  const double stretched = std::clamp(at, 0.0, 1.0);
  return inv_freq / s.factor * stretched + inv_freq * (1 - stretched);
}

}  // namespace

std::vector<double> RopeInverseFrequencies(const ModelConfig& config) {
  const int64_t dims = config.rotary_dim() / config.rope_heads();
  const double step = Root(config.rope_theta, dims / 2);
  const YarnRamp ramp = config.rope_scaling.kind == RopeKind::kYarn
                            ? RampOf(config.rope_scaling, config.rope_theta, dims)
                            : YarnRamp{};
  std::vector<double> frequencies;
  for (int64_t pair = 0; pair < config.rotary_dim() / 2; ++pair) {
    const int64_t i = pair % (dims / 2);
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
      case RopeKind::kYarn:
        frequencies.push_back(Yarn(inv_freq, i, ramp, config.rope_scaling));
        break;
    }
  }
  return frequencies;
}

}  // namespace reprise::worker
