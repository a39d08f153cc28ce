// Sealed blocks between two processes over the KV stream, verified by the receiver, against
// ucx_perftest's active messages of the same size on the same transport in the same run. The
// stream moves distinct buffers on both sides; ucx_perftest sends one buffer over and over.
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "bench/bench_main.h"
#include "bench/process_output.h"
#include "common/free_ports.h"
#include "common/json.h"
#include "common/percentile.h"
#include "common/role.h"
#include "common/subprocess.h"
#include "kvstore/block/kv_format.h"
#include "kvstore/stream/pack.h"

namespace reprise::bench {
namespace {

constexpr int64_t kTotalBytes = int64_t{2} << 30;
constexpr double kRatioMin = 0.75;

struct Size {
  const char* name;
  int64_t bytes;
};
constexpr Size kSizes[] = {{"64KiB", 64 << 10}, {"1MiB", 1 << 20}, {"16MiB", 16 << 20}};

// GB/s of ucp_am_bw. Shared memory alone cannot connect with -e (error mode PEER), so it runs there
// in mode NONE.
StatusOr<double> Perftest(bool shared_memory, const Size& size) {
  ASSIGN_OR_RETURN(const std::vector<uint16_t> ports, FreePorts(1));
  SubprocessOptions server;
  server.argv = {"ucx_perftest", "-p", absl::StrCat(ports[0])};
  server.extra_env = {{"UCX_TLS", shared_memory ? "posix,cma,self" : "tcp,self"},
                      {"UCX_NET_DEVICES", shared_memory ? "all" : "lo"}};
  if (!shared_memory) server.argv.push_back("-e");
  SubprocessOptions client = server;
  client.argv.insert(client.argv.begin() + 1, "127.0.0.1");
  const int64_t iterations = kTotalBytes / size.bytes;
  for (const std::string& arg :
       {std::string("-t"), std::string("ucp_am_bw"), std::string("-s"), absl::StrCat(size.bytes),
        std::string("-n"), absl::StrCat(iterations), std::string("-w"),
        absl::StrCat(iterations / 20 + 1), std::string("-f"), std::string("-v")}) {
    client.argv.push_back(arg);
  }
  server.out = SubprocessOutput::File("/dev/null");
  client.err = SubprocessOutput::File("/dev/null");
  ASSIGN_OR_RETURN(const auto serving, Subprocess::Spawn(server));
  StopSignal never;
  StatusOr<std::string> text = absl::UnavailableError("ucx_perftest was not tried");
  for (int attempt = 0; attempt < 50 && !text.ok(); ++attempt) {
    never.WaitFor(100 * kMillisecond);  // until the server listens
    text = OutputOf(client);
  }
  RETURN_IF_ERROR(text.status());
  // iterations, 3 latencies, average and overall bandwidth in MiB/s, 2 rates
  const std::vector<std::string> lines = absl::StrSplit(*text, '\n', absl::SkipEmpty());
  const std::vector<std::string> cells = absl::StrSplit(lines.empty() ? "" : lines.back(), ',');
  double mib_per_s = 0;
  if (cells.size() != 8 || !absl::SimpleAtod(cells[5], &mib_per_s)) {
    return absl::InternalError(absl::StrCat("ucx_perftest printed: ", *text));
  }
  return mib_per_s * 1048576 / 1e9;
}

struct Measured {
  double gb_per_s = 0;
  int64_t distinct_bytes = 0;
  bool lanes_right = false;
};

StatusOr<Measured> Stream(const std::string& peer, bool shared_memory, const Size& size) {
  SubprocessOptions run;
  run.argv = {peer, absl::StrCat("--batch-bytes=", size.bytes),
              absl::StrCat("--total-bytes=", kTotalBytes),
              shared_memory ? "--shared-memory" : "--no-shared-memory"};
  ASSIGN_OR_RETURN(const std::string text, OutputOf(run));
  ASSIGN_OR_RETURN(const JsonDocument json, ParseJson(text));
  Measured measured;
  ASSIGN_OR_RETURN(measured.gb_per_s, GetNumber(json, "gb_per_s", 0));
  ASSIGN_OR_RETURN(measured.distinct_bytes, GetInt(json, "total_bytes", 0));
  ASSIGN_OR_RETURN(const bool posix, GetBool(json, "lane_posix", false));
  ASSIGN_OR_RETURN(const bool cma, GetBool(json, "lane_cma", false));
  ASSIGN_OR_RETURN(const int64_t failures, GetInt(json, "checksum_failures", -1));
  if (failures != 0) return absl::DataLossError(absl::StrCat(failures, " checksum failures"));
  measured.lanes_right = shared_memory ? posix && cma : !posix && !cma;
  return measured;
}

std::string PeerPath() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return (self.parent_path().parent_path() / "kvstore/stream/stream_bench_peer").string();
}

// The KV of one layer and block of a 160M-parameter Llama: 196,608 bytes.
kv::KvFormat PackFormat() {
  kv::KvFormat format;
  for (const char* field : {"k", "v"}) {
    format.fields.push_back({.name = field, .heads = 12, .elements = 64});
  }
  format.layers = 1;
  format.block_tokens = 64;
  format.codec = kv::ElementCodec::kBF16;
  return format;
}

// Whole segments gathered into rows, checksum in the same pass, against memcpy of as many bytes:
// distinct segments beyond the caches, one pass of each per pair.
Status MeasurePack(int pairs, Report& report) {
  const kv::KvFormat format = PackFormat();
  const size_t bytes = format.segment_bytes();
  const size_t segments = (size_t{256} << 20) / bytes;
  const std::vector<uint8_t> source(segments * bytes, 3);
  std::vector<uint8_t> packed(segments * bytes, 1);
  std::vector<double> pack;
  std::vector<double> copy;
  std::vector<double> ratios;
  uint32_t crc = 0;
  for (int pair = 0; pair < pairs; ++pair) {
    const TimeNs start = RealClock().NowNs();
    for (size_t i = 0; i < segments; ++i) {
      ASSIGN_OR_RETURN(crc, kv::Gather(format, std::span(source).subspan(i * bytes, bytes),
                                       {.first_row = 0, .rows = format.block_tokens},
                                       std::span(packed).subspan(i * bytes, bytes), crc));
    }
    const TimeNs middle = RealClock().NowNs();
    std::memcpy(packed.data(), source.data(), packed.size());
    const TimeNs end = RealClock().NowNs();
    pack.push_back(static_cast<double>(packed.size()) / static_cast<double>(middle - start));
    copy.push_back(static_cast<double>(packed.size()) / static_cast<double>(end - middle));
    ratios.push_back(pack.back() / copy.back());
  }
  report.Note(absl::StrCat("pack: segments of ", bytes, " bytes to rows; checksum ", crc));
  report.Figure("pack_with_checksum", Median(pack), "GB/s");
  report.Figure("memcpy", Median(copy), "GB/s");
  report.Figure("pack_over_memcpy", Median(ratios), "");
  return absl::OkStatus();
}

struct Samples {
  std::vector<double> ours;
  std::vector<double> theirs;
  std::vector<double> ratios;
};

Status Run(const BenchFlags& flags, Report& report) {
  const int pairs = flags.long_run ? 21 : 9;
  std::map<std::pair<std::string, std::string>, Samples> samples;
  int64_t distinct_bytes = INT64_MAX;
  bool lanes_right = true;
  for (int pair = 0; pair < pairs; ++pair) {
    for (const bool shared_memory : {true, false}) {
      for (const Size& size : kSizes) {
        double theirs = 0;
        Measured ours;
        for (const int turn : {0, 1}) {
          if ((pair + turn) % 2 == 0) {
            ASSIGN_OR_RETURN(theirs, Perftest(shared_memory, size));
          } else {
            ASSIGN_OR_RETURN(ours, Stream(PeerPath(), shared_memory, size));
          }
        }
        Samples& cell = samples[{shared_memory ? "shm" : "tcp", size.name}];
        cell.theirs.push_back(theirs);
        cell.ours.push_back(ours.gb_per_s);
        cell.ratios.push_back(ours.gb_per_s / theirs);
        distinct_bytes = std::min(distinct_bytes, ours.distinct_bytes);
        lanes_right = lanes_right && ours.lanes_right;
        std::fprintf(stderr, "%s %s: %.2f GB/s, ucx_perftest %.2f\n", shared_memory ? "shm" : "tcp",
                     size.name, ours.gb_per_s, theirs);
      }
    }
  }
  report.Note("ours: distinct buffers, checksum verified by the receiver, error mode PEER");
  report.Note("ucx_perftest: ucp_am_bw; TCP in mode PEER (-e), shared memory in mode NONE");
  for (const auto& [key, cell] : samples) {
    const std::string where = absl::StrCat(key.first, "_", key.second);
    report.Figure("stream_" + where, Median(cell.ours), "GB/s");
    report.Figure("ucx_perftest_" + where, Median(cell.theirs), "GB/s");
    if (key.second == "64KiB") {
      report.Figure("ratio_" + where, Median(cell.ratios), "");
    } else {
      report.Bar("ratio_" + where, Median(cell.ratios), ">=", kRatioMin, pairs);
    }
  }
  report.Bar("distinct_bytes", static_cast<double>(distinct_bytes),
             ">=", static_cast<double>(kTotalBytes), pairs * 6);
  report.Bar("lanes_asserted", lanes_right ? 1 : 0, "==", 1, pairs * 6);
  return MeasurePack(pairs, report);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("kv_stream", argc, argv, reprise::bench::Run);
}
