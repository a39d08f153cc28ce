// Order statistics of small samples. Pure; any thread.
#ifndef REPRISE_COMMON_PERCENTILE_H_
#define REPRISE_COMMON_PERCENTILE_H_

#include <algorithm>
#include <cmath>
#include <vector>

namespace reprise {

// Nearest rank, p in [0, 100]; 0 for an empty sample.
inline double Percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(p / 100 * static_cast<double>(values.size()));
  const size_t index = rank < 1 ? 0 : static_cast<size_t>(rank) - 1;
  return values[std::min(index, values.size() - 1)];
}

inline double Median(std::vector<double> values) { return Percentile(std::move(values), 50); }

}  // namespace reprise

#endif  // REPRISE_COMMON_PERCENTILE_H_
