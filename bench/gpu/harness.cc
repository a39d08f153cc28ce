#include "bench/gpu/harness.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "bench/gpu/fill.h"

namespace reprise::bench::gpu {
namespace {

constexpr int kGroups = 15;             // of launches, of which the median counts
constexpr double kGroupSeconds = 4e-3;  // at least
constexpr size_t kCopyBytes = size_t{4} << 30;

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

}  // namespace

void Harness::Open() {
  const int e = cuda::FindDevice(&device_);
  if (e != 0) {
    std::fprintf(stderr, "no device: %s\n", cuda::ErrorText(e).c_str());
    std::exit(3);
  }
}

void Harness::Check(int error, const char* what) const {
  if (error == 0) return;
  std::fprintf(stderr, "%s: %s\n", what, cuda::ErrorText(error).c_str());
  std::exit(1);
}

cuda::Buffer Harness::Memory(size_t bytes) const {
  cuda::Buffer memory;
  Check(memory.Reset(bytes), "device memory");
  return memory;
}

cuda::Buffer Harness::RandomBf16(size_t count, uint64_t seed) const {
  cuda::Buffer memory = Memory(count * 2);
  Check(FillRandom(memory.as<uint16_t>(), static_cast<int64_t>(count), seed * 0x100000001B3ULL,
                   nullptr),
        "fill");
  Check(cuda::Synchronize(nullptr), "fill");
  return memory;
}

std::vector<uint8_t> Harness::Download(const void* device, size_t bytes) const {
  std::vector<uint8_t> values(bytes);
  Check(cuda::CopyOut(values.data(), device, bytes, nullptr), "copy out");
  Check(cuda::Synchronize(nullptr), "copy out");
  return values;
}

double Harness::Time(const std::function<int(int)>& launch) const {
  cuda::Event from = nullptr;
  cuda::Event to = nullptr;
  Check(cuda::MakeEvent(&from, true), "event");
  Check(cuda::MakeEvent(&to, true), "event");
  int next = 0;
  const auto run = [&](int count) {
    Check(cuda::Record(from, nullptr), "event");
    for (int i = 0; i < count; ++i) Check(launch(next++), "launch");
    Check(cuda::Record(to, nullptr), "event");
    Check(cuda::AwaitEvent(to), "kernel");
    float ms = 0;
    Check(cuda::Elapsed(&ms, from, to), "event");
    return static_cast<double>(ms) * 1e-3;
  };
  run(1);
  const double once = run(tiny_ ? 1 : 3) / (tiny_ ? 1 : 3);
  const int count =
      tiny_ ? 1 : std::clamp(static_cast<int>(kGroupSeconds / std::max(once, 1e-7)), 1, 200);
  std::vector<double> seconds;
  for (int i = 0; i < (tiny_ ? 1 : kGroups); ++i) seconds.push_back(run(count) / count);
  std::sort(seconds.begin(), seconds.end());
  cuda::DestroyEvent(from);
  cuda::DestroyEvent(to);
  return seconds[seconds.size() / 2];
}

void Harness::Add(Row row) { rows_.push_back(std::move(row)); }

void Harness::Expect(bool ok, const std::string& what) {
  if (ok) return;
  failed_ = true;
  broken_.push_back(what);
  std::fprintf(stderr, "NOT TRUE: %s\n", what.c_str());
}

double Harness::CopyBytesPerSecond() {
  if (copy_ > 0) return copy_;
  const size_t bytes = tiny_ ? size_t{1} << 20 : kCopyBytes;
  const cuda::Buffer from = RandomBf16(bytes / 2, 1);
  const cuda::Buffer to = Memory(bytes);
  const double seconds =
      Time([&](int) { return cuda::CopyWithin(to.data(), from.data(), bytes, nullptr); });
  copy_ = 2 * static_cast<double>(bytes) / seconds;
  Add({.kernel = "copy",
       .shape = std::to_string(bytes >> 20) + " MiB",
       .value = copy_ / 1e12,
       .unit = "TB/s",
       .peer = "copy"});
  return copy_;
}

void Harness::PrintTable() const {
  std::printf("%-14s %-34s %10s %-8s %9s %9s %9s\n", "kernel", "shape", "measured", "", "floor",
              "at least", "aim");
  for (const Row& row : rows_) {
    const bool met =
        row.least == 0 || (row.less_is_better ? row.value <= row.least : row.value >= row.least);
    std::printf("%-14s %-34s %10.4g %-8s %9.4g %9.4g %9.4g%s%s%s\n", row.kernel.c_str(),
                row.shape.c_str(), row.value, row.unit.c_str(), row.floor, row.least, row.aim,
                row.least == 0 ? ""
                : met          ? "  ok"
                               : "  NOT MET",
                row.note.empty() ? "" : "  ", row.note.c_str());
  }
  for (const std::string& what : broken_) std::printf("NOT TRUE: %s\n", what.c_str());
}

std::string Harness::Json() const {
  std::string text = "{\"device\": \"" + device_.name + "\", \"rows\": [";
  for (size_t i = 0; i < rows_.size(); ++i) {
    const Row& r = rows_[i];
    text += (i == 0 ? "" : ", ");
    text += "{\"kernel\": \"" + r.kernel + "\", \"shape\": \"" + r.shape +
            "\", \"value\": " + Number(r.value) + ", \"unit\": \"" + r.unit +
            "\", \"less_is_better\": " + (r.less_is_better ? "true" : "false") +
            ", \"floor\": " + Number(r.floor) + ", \"least\": " + Number(r.least) +
            ", \"aim\": " + Number(r.aim) + ", \"peer\": \"" + r.peer + "\"}";
  }
  text += "], \"broken\": [";
  for (size_t i = 0; i < broken_.size(); ++i) {
    text += (i == 0 ? "\"" : ", \"") + broken_[i] + "\"";
  }
  return text + "]}";
}

}  // namespace reprise::bench::gpu
