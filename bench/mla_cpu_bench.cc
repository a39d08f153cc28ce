// Latent attention of one layer at DeepSeek-V2-Lite's size (16 heads, 512 + 64) on the CPU, bf16
// weights and cache, against the least time its reads and multiply-adds can take on this machine,
// measured in turn with it:
//   decode   one row of each of 1 and of 16 sequences at 4,096 tokens, absorbed. 16 of them hold
//            75 MB of latents, more than the caches. Attention computes in f32 (the canonical
//            order), products with weights in bf16
//   prefill  512 rows that end a prompt of 4,096, expanded
//   silence  the same at 32,768: the longest time between two signs of life within the layer, which
//            those who judge a busy worker count on
// Both are attention between the projections of the hidden state and the output projection, which
// are products like any other. Best of many on both sides; the floor over the processor time a
// thread used says how much of the machine is used, whoever else is on it.
//
// With --peer, whole steps of a few such layers are compared with llama.cpp's as well
// (mla_cpu_peer.h).
#include <time.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "bench/attention_model.h"
#include "bench/cpu_floors.h"
#include "bench/mla_cpu_peer.h"
#include "common/clock.h"
#include "worker/model/latent_layer.h"
#include "worker/model/weights.h"

namespace reprise::bench {
namespace {

constexpr int kThreads = 2;
constexpr int64_t kContext = 4096;
constexpr int64_t kPageTokens = 64;
constexpr int64_t kPages = kContext / kPageTokens;  // of a sequence
constexpr int64_t kSequences = 16;
constexpr int64_t kChunk = 512;
constexpr int kRunsPerRound = 3;
constexpr int64_t kLongContext = 32768;
constexpr double kSilenceMsMax = 250;
constexpr double kOfFloorMin = 0.4;
static_assert(kLongContext <= kSequences * kContext, "one sequence in the pages of all");

struct Sizes {
  explicit Sizes(const worker::ModelConfig& c)
      : heads(static_cast<double>(c.heads)),
        rank(static_cast<double>(c.latent->kv_rank)),
        rope(static_cast<double>(c.latent->rope_dim)),
        nope(static_cast<double>(c.latent->nope_dim)),
        value(static_cast<double>(c.latent->value_dim)) {}
  // A query in and out of the latents' space, or a key and value out of it.
  double per_head_macs() const { return rank * (nope + value); }
  double weight_bytes() const { return heads * per_head_macs() * 2; }
  double row_bytes() const { return (rank + rope) * 2; }

  double heads, rank, rope, nope, value;
};

Work DecodeWork(const Sizes& s, double sequences) {
  const double context = kContext;
  return {.read_bytes = sequences * context * s.row_bytes() + s.weight_bytes(),
          .f32_macs = sequences * s.heads * context * (2 * s.rank + s.rope),
          .bf16_macs = sequences * s.heads * s.per_head_macs()};
}

Work PrefillWork(const Sizes& s) {
  const double context = kContext;
  const double chunk = kChunk;
  const double pairs = chunk * (context - (chunk - 1) / 2);  // a row sees those up to its own
  return {.read_bytes = context * s.row_bytes() + s.weight_bytes(),
          .f32_macs = pairs * s.heads * (s.nope + s.rope + s.value),
          .bf16_macs = context * s.heads * s.per_head_macs()};
}

double ProcessorSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

class Attention {
 public:
  Attention(const worker::ModelConfig& config, const worker::LayerWeights& weights)
      : layer_(config, weights,
               {.threads = kThreads, .block_tokens = kPageTokens, .pages = kSequences * kPages}),
        hidden_(config.hidden),
        pages_(static_cast<size_t>(kSequences * kPages)),
        x_(NormedInputs(kChunk * hidden_)) {
    std::iota(pages_.begin(), pages_.end(), 0);
    // Rows of every sequence: bf16 of about one, either sign.
    const std::span<std::byte> memory = layer_.memory();
    SplitMix64 random(3);
    for (size_t at = 0; at + 8 <= memory.size(); at += 8) {
      const uint64_t bits = (random.Next() & 0x807F807F807F807F) | 0x3F003F003F003F00;
      std::memcpy(memory.data() + at, &bits, sizeof(bits));
    }
  }

  void Decode(int64_t sequences) {
    std::vector<worker::RowRun> runs;
    for (int64_t i = 0; i < sequences; ++i) {
      runs.push_back({i, 1, kContext - 1, pages_.data() + i * kPages, false});
    }
    Set(std::move(runs), sequences);
  }
  void Prefill(int64_t context) {
    Set({{0, kChunk, context - kChunk, pages_.data(), true}}, kChunk);
  }

  struct Time {
    double wall = std::numeric_limits<double>::infinity();  // seconds
    double processor =
        std::numeric_limits<double>::infinity();  // of all threads, over their number
  };
  struct Silence {
    Time longest{0, 0};
    int64_t ticks = 0;
  };
  Silence AttendListening() {
    Silence silence;
    Start last = Now();
    const auto listen = [&] {
      const Time since = Since(last);
      silence.longest.wall = std::max(silence.longest.wall, since.wall);
      silence.longest.processor = std::max(silence.longest.processor, since.processor);
      last = Now();
    };
    layer_.SetTick([&] {
      listen();
      ++silence.ticks;
    });
    layer_.Attend();
    layer_.SetTick(nullptr);
    listen();
    return silence;
  }

  Time Attend() {
    const Start start = Now();
    layer_.Attend();
    return Since(start);
  }

 private:
  struct Start {
    TimeNs wall;
    double processor;
  };
  static Start Now() { return {RealClock().NowNs(), ProcessorSeconds()}; }
  static Time Since(const Start& start) {
    return {SecondsFromNs(RealClock().NowNs() - start.wall),
            (ProcessorSeconds() - start.processor) / kThreads};
  }

  void Set(std::vector<worker::RowRun> runs, int64_t rows) {
    layer_.SetRuns(std::move(runs));
    layer_.Project({x_.data(), rows, hidden_, hidden_});
  }

  worker::LatentLayer layer_;
  const int64_t hidden_;
  std::vector<int32_t> pages_;
  std::vector<float> x_;
};

struct Case {
  std::string name;
  Work work;
  std::function<void()> prepare;
  Attention::Time best;
};

void Add(const Case& c, const CpuRates& rates, int64_t runs, Report& report) {
  const double floor = FloorSeconds(rates, c.work);
  report.Figure(c.name + "_ms", c.best.wall * 1e3, "ms");
  report.Figure(c.name + "_processor_ms", c.best.processor * 1e3, "ms a thread");
  report.Figure(c.name + "_floor_ms", floor * 1e3, "ms");
  report.Figure(c.name + "_read_floor_ms", c.work.read_bytes / rates.read_bytes_per_s * 1e3, "ms");
  report.Bar(c.name + "_of_floor", floor / c.best.processor, ">=", kOfFloorMin, runs);
}

Status Run(const BenchFlags& flags, Report& report) {
  ASSIGN_OR_RETURN(const worker::ModelFolder folder,
                   MadeAttention(flags, "v2-lite", V2LiteAttention()));
  ASSIGN_OR_RETURN(const worker::ModelWeights weights, worker::LoadModelWeights(folder));
  const Sizes sizes(folder.config());
  Attention attention(folder.config(), weights.layers[0]);
  std::vector<Case> cases = {
      {"decode_1", DecodeWork(sizes, 1), [&] { attention.Decode(1); }, {}},
      {"decode_16", DecodeWork(sizes, kSequences), [&] { attention.Decode(kSequences); }, {}},
      {"prefill_512", PrefillWork(sizes), [&] { attention.Prefill(kContext); }, {}}};
  CpuFloors floors(kernels::BestIsa(), kThreads);
  const int rounds = flags.long_run ? 20 : 6;
  for (int round = 0; round < rounds; ++round) {
    for (Case& c : cases) {
      floors.Measure();
      c.prepare();
      for (int i = 0; i < kRunsPerRound; ++i) {
        const Attention::Time time = attention.Attend();
        c.best.wall = std::min(c.best.wall, time.wall);
        c.best.processor = std::min(c.best.processor, time.processor);
      }
    }
  }
  for (const Case& c : cases) Add(c, floors.best(), int64_t{rounds} * kRunsPerRound, report);
  attention.Prefill(kLongContext);
  const Attention::Silence silence = attention.AttendListening();
  report.Figure("silence_32768_ms", silence.longest.wall * 1e3, "ms");
  report.Bar("silence_32768_processor_ms", silence.longest.processor * 1e3, "<=", kSilenceMsMax,
             silence.ticks);
  report.Figure("read", floors.best().read_bytes_per_s / 1e9, "GB/s");
  report.Figure("f32", floors.best().f32_macs_per_s / 1e9, "G multiply-adds/s");
  report.Figure("bf16", floors.best().bf16_macs_per_s / 1e9, "G multiply-adds/s");
  return CompareWithLlamaCpp(flags, kThreads, report);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("mla-cpu", argc, argv, reprise::bench::Run);
}
