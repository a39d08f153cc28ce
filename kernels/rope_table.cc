// sin and cos of our own, so that no bit depends on the machine's libm: reduction by pi/2 in three
// parts (Cody and Waite) and the minimax polynomials of fdlibm's k_sin.c and k_cos.c on [-pi/4,
// pi/4].
#include "kernels/ops.h"

namespace reprise::kernels {
namespace {

constexpr double kTwoOverPi = 6.36619772367581382433e-01;
// pi/2 in parts of 33 bits: products with a quotient of up to 20 bits are exact.
constexpr double kPio2Head = 1.57079632673412561417e+00;
constexpr double kPio2Middle = 6.07710050630396597660e-11;
constexpr double kPio2Tail = 2.02226624879595063154e-21;

double SinPolynomial(double r) {
  const double z = r * r;
  const double p =
      -1.66666666666666324348e-01 +
      z * (8.33333333332248946124e-03 +
           z * (-1.98412698298579493134e-04 +
                z * (2.75573137070700676789e-06 +
                     z * (-2.50507602534068634195e-08 + z * 1.58969099521155010221e-10))));
  return r + r * z * p;
}

double CosPolynomial(double r) {
  const double z = r * r;
  const double p =
      4.16666666666666019037e-02 +
      z * (-1.38888888888741095749e-03 +
           z * (2.48015872894767294178e-05 +
                z * (-2.75573143513906633035e-07 +
                     z * (2.08757232129817482790e-09 + z * -1.13596475577881948265e-11))));
  return 1.0 - (0.5 * z - z * z * p);
}

}  // namespace

void FillRopeTable(const int64_t* positions, int64_t m, const double* inv_freq, int64_t half,
                   float* cos, float* sin) {
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(positions[r]) * inv_freq[i];
      const double scaled = angle * kTwoOverPi;
      const auto quotient = static_cast<int64_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
      const auto q = static_cast<double>(quotient);
      const double rest = ((angle - q * kPio2Head) - q * kPio2Middle) - q * kPio2Tail;
      const double s = SinPolynomial(rest);
      const double c = CosPolynomial(rest);
      const int64_t quadrant = quotient & 3;
      const double sin_value = (quadrant & 1) != 0 ? c : s;
      const double cos_value = (quadrant & 1) != 0 ? s : c;
      sin[r * half + i] = static_cast<float>((quadrant & 2) != 0 ? -sin_value : sin_value);
      cos[r * half + i] =
          static_cast<float>(quadrant == 1 || quadrant == 2 ? -cos_value : cos_value);
    }
  }
}

}  // namespace reprise::kernels
