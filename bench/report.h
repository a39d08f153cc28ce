// What a benchmark prints: a short table, then one JSON line {"bench", "figures", "bars"} that
// names every demand with its limit. One thread.
#ifndef REPRISE_BENCH_REPORT_H_
#define REPRISE_BENCH_REPORT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/percentile.h"

namespace reprise::bench {

class Report {
 public:
  explicit Report(absl::string_view bench) : bench_(bench) {}

  // A measured value; also a row of the table.
  void Figure(absl::string_view name, double value, absl::string_view unit);
  // Explains the setting: goes into the table only.
  void Note(absl::string_view text);
  // A demand: `op` is one of "<=", ">=", "==", ">". `samples` is how many runs or cells it rests
  // on.
  void Bar(absl::string_view name, double value, absl::string_view op, double limit,
           int64_t samples);

  // Prints everything to standard output; returns the exit status: 1 when a bar is not met, or when
  // there is none.
  int Finish() const;

 private:
  struct FigureRow {
    std::string name;
    double value;
    std::string unit;
  };
  struct BarRow {
    std::string name;
    double value;
    std::string op;
    double limit;
    int64_t samples;
    bool ok;
  };
  const std::string bench_;
  std::vector<FigureRow> figures_;
  std::vector<std::string> notes_;
  std::vector<BarRow> bars_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_REPORT_H_
