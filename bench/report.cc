#include "bench/report.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "common/json.h"

namespace reprise::bench {
namespace {

// A value that is not a number meets no demand.
bool Meets(double value, absl::string_view op, double limit) {
  if (op == "<=") return value <= limit;
  if (op == ">=") return value >= limit;
  if (op == "==") return value == limit;
  if (op == ">") return value > limit;
  return false;
}

}  // namespace

void Report::Figure(absl::string_view name, double value, absl::string_view unit) {
  figures_.push_back({std::string(name), value, std::string(unit)});
}

void Report::Note(absl::string_view text) { notes_.emplace_back(text); }

void Report::Bar(absl::string_view name, double value, absl::string_view op, double limit,
                 int64_t samples) {
  bars_.push_back({std::string(name), value, std::string(op), limit, samples,
                   samples > 0 && Meets(value, op, limit)});
}

int Report::Finish() const {
  for (const std::string& note : notes_) std::printf("# %s\n", note.c_str());
  for (const FigureRow& f : figures_) {
    std::printf("%-48s %14.6g %s\n", f.name.c_str(), f.value, f.unit.c_str());
  }
  for (const BarRow& b : bars_) {
    std::printf("%-48s %14.6g %s %g over %ld: %s\n", b.name.c_str(), b.value, b.op.c_str(), b.limit,
                static_cast<long>(b.samples), b.ok ? "ok" : "NOT MET");
  }
  JsonWriter figures;
  for (const FigureRow& f : figures_) {
    figures.Field(f.unit.empty() ? f.name : absl::StrCat(f.name, " [", f.unit, "]"), f.value);
  }
  std::string bars = "[";
  bool ok = !bars_.empty();
  for (const BarRow& b : bars_) {
    absl::StrAppend(&bars, bars.size() > 1 ? ", " : "",
                    JsonWriter()
                        .Field("name", b.name)
                        .Field("value", b.value)
                        .Field("op", b.op)
                        .Field("limit", b.limit)
                        .Field("samples", b.samples)
                        .Field("ok", b.ok)
                        .Take());
    ok = ok && b.ok;
  }
  std::printf("%s\n", JsonWriter()
                          .Field("bench", bench_)
                          .Raw("figures", figures.Take())
                          .Raw("bars", bars + "]")
                          .Take()
                          .c_str());
  return ok ? 0 : 1;
}

}  // namespace reprise::bench
