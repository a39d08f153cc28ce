// Times sealed blocks between two processes over KvStream, verification by the receiver included.
// Without a mode it starts a serving copy of itself, fetches everything from it once and prints one
// JSON line; with --append it appends rows to it instead, which the copy verifies and scatters into
// blocks. Every byte is distinct memory on both sides, as between two nodes.
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/flags.h"
#include "common/mutex.h"
#include "common/subprocess.h"
#include "kvstore/block/checksum.h"
#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::kv {
namespace {

constexpr uint32_t kBlockTokens = 16;
constexpr int64_t kBlockBytesMax = int64_t{1} << 20;  // of a batch's blocks

struct Options {
  bool serve = false;
  bool append = false;
  std::string fetch;  // "incarnation:port" of a serving copy
  int64_t segment_bytes = 64 << 10;
  int64_t batch_bytes = 1 << 20;
  int64_t total_bytes = int64_t{2} << 30;
  int64_t window_bytes = 16 << 20;  // of fetches in flight
  bool shared_memory = true;

  int64_t block_bytes() const { return std::min(batch_bytes, kBlockBytesMax); }
  size_t blocks() const { return static_cast<size_t>(total_bytes / block_bytes()); }
};

Status Parse(int argc, char** argv, Options* options) {
  FlagSet flags("stream_bench_peer", "Times KV blocks between two processes.");
  flags.Add("serve", &options->serve, "Serve blocks; prints \"incarnation:port\".");
  flags.Add("append", &options->append, "Append batches of rows instead of fetching blocks.");
  flags.Add("fetch", &options->fetch, "Fetch from a serving copy at this incarnation:port.");
  flags.AddBytes("segment-bytes", &options->segment_bytes, 16, 1 << 26, "One layer of a block.");
  flags.AddBytes("batch-bytes", &options->batch_bytes, 16, 1 << 30, "Blocks of one fetch.");
  flags.AddBytes("total-bytes", &options->total_bytes, 1 << 20, int64_t{1} << 40, "All of it.");
  flags.AddBytes("window-bytes", &options->window_bytes, 1, int64_t{1} << 34,
                 "Fetches kept in flight.");
  flags.Add("shared-memory", &options->shared_memory, "CMA beside TCP.");
  RETURN_IF_ERROR(flags.Parse({argv + 1, argv + argc}).status());
  options->segment_bytes = std::min(options->segment_bytes, options->block_bytes());
  if (options->segment_bytes % kBlockTokens != 0 ||
      options->block_bytes() % options->segment_bytes != 0 ||
      options->batch_bytes % options->block_bytes() != 0 ||
      options->total_bytes % options->batch_bytes != 0) {
    return absl::InvalidArgumentError("sizes must divide each other: segment, block, batch, total");
  }
  return absl::OkStatus();
}

KvFormat MakeFormat(const Options& options) {
  KvFormat format;
  format.fields = {{.name = "row",
                    .heads = 1,
                    .elements = static_cast<uint32_t>(options.segment_bytes / kBlockTokens)}};
  format.layers = static_cast<uint32_t>(options.block_bytes() / options.segment_bytes);
  format.block_tokens = kBlockTokens;
  format.codec = ElementCodec::kOpaque8;
  return format;
}

TimeNs ProcessCpuNs() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return used.tv_sec * kSecond + used.tv_nsec;
}

BlockId IdOf(size_t block) {
  BlockId id;
  std::memcpy(id.bytes.data(), &block, sizeof block);
  return id;
}

// Memory as an arena of a node has it: huge pages, touched before the clock starts.
uint8_t* Allocate(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  madvise(memory, bytes, MADV_HUGEPAGE);
  std::memset(memory, 1, bytes);
  return static_cast<uint8_t*>(memory);
}

class Sealed : public SegmentSource {
 public:
  Sealed(const Options& options, uint8_t* memory) : options_(options), memory_(memory) {
    const KvFormat format = MakeFormat(options);
    checksums_.resize(options.blocks() * format.layers);
    layers_ = format.layers;
    uint64_t state = 1;
    auto* words = reinterpret_cast<uint64_t*>(memory);
    for (size_t i = 0; i < static_cast<size_t>(options.total_bytes) / 8; ++i) {
      words[i] = state = state * 6364136223846793005u + 1442695040888963407u;
    }
    for (size_t block = 0; block < options.blocks(); ++block) {
      for (uint32_t layer = 0; layer < layers_; ++layer) {
        checksums_[block * layers_ + layer] =
            SegmentChecksum(IdOf(block), layer, 0, Data(block) + layer * format.segment_bytes(),
                            format.segment_bytes());
      }
    }
  }
  Block Find(const BlockId& id) override {
    size_t block = 0;
    std::memcpy(&block, id.bytes.data(), sizeof block);
    if (block >= options_.blocks()) return {};
    return {.state = State::kReady,
            .layers_ready = layers_,
            .first_position = 0,
            .data = Data(block),
            .summed = true,
            .checksums = {checksums_.begin() + static_cast<ptrdiff_t>(block * layers_),
                          checksums_.begin() + static_cast<ptrdiff_t>((block + 1) * layers_)},
            .pin = SegmentPin()};
  }

 private:
  const uint8_t* Data(size_t block) const {
    return memory_ + block * static_cast<size_t>(options_.block_bytes());
  }
  const Options& options_;
  uint8_t* const memory_;
  uint32_t layers_ = 0;
  std::vector<uint32_t> checksums_;
};

StreamOptions MakeStreamOptions(const Options& options, NodeKey self) {
  StreamOptions stream;
  stream.self = std::move(self);
  stream.format = MakeFormat(options);
  stream.shared_memory = options.shared_memory;
  return stream;
}

// Scatters appended rows into the served memory, block after block; a query is answered with the
// process's CPU time in microseconds.
class AppendSink : public TailSink {
 public:
  AppendSink(const Options& options, uint8_t* memory)
      : options_(options), format_(MakeFormat(options)), unpacker_(format_), memory_(memory) {}
  std::vector<HeldRows> OnAppend(const NodeKey&, std::span<const TailEntry> entries,
                                 std::span<const uint8_t> rows) override {
    std::vector<HeldRows> held;
    for (const TailEntry& entry : entries) {
      const size_t bytes = PackedBytes(format_, entry.tokens.size());
      uint8_t* block = memory_ + next_++ % options_.blocks() * format_.block_bytes();
      const Status status = unpacker_.Unpack({.packed = rows.first(bytes),
                                              .checksum = entry.checksum,
                                              .seed = TailSeed(entry),
                                              .rows = static_cast<uint32_t>(entry.tokens.size())},
                                             0, {block, format_.block_bytes()}, &parts_);
      rows = rows.subspan(bytes);
      held.push_back({entry.request, entry.branch, static_cast<int64_t>(next_), status});
    }
    return held;
  }
  void OnRelease(const NodeKey&, const RequestKey&) override {}
  StatusOr<std::vector<TailState>> OnQuery(const NodeKey&, const RequestKey&) override {
    return std::vector<TailState>{
        {.blocks_held = ProcessCpuNs() / kMicrosecond, .parent = {}, .tokens = {}}};
  }
  void OnFence(const RequestKey&) override {}
  void OnPeerLost(const NodeKey&) override {}

 private:
  const Options& options_;
  const KvFormat format_;
  const TailUnpacker unpacker_;
  uint8_t* const memory_;
  std::vector<uint32_t> parts_;
  size_t next_ = 0;
};

Status Serve(const Options& options) {
  uint8_t* memory = Allocate(static_cast<size_t>(options.total_bytes));
  if (memory == nullptr) return absl::ResourceExhaustedError("no memory");
  Sealed source(options, memory);
  const NodeKey self{"bench-source", static_cast<uint64_t>(getpid())};
  AppendSink sink(options, memory);
  ASSIGN_OR_RETURN(auto stream, KvStream::Create(MakeStreamOptions(options, self), &source, &sink));
  std::printf("%lu:%d\n", self.incarnation, stream->address().port);
  std::fflush(stdout);
  for (;;) pause();
}

// Counts ended fetches and keeps the first failure.
class Progress {
 public:
  void Done(const std::vector<Status>& items) {
    MutexLock lock(mu_);
    --in_flight_;
    for (const Status& item : items) {
      if (!item.ok() && status_.ok()) status_ = item;
    }
    changed_.NotifyAll();
  }
  void Begin(int in_flight_max) {
    MutexLock lock(mu_);
    while (in_flight_ >= in_flight_max) changed_.Wait(mu_);
    ++in_flight_;
  }
  Status Drain() {
    MutexLock lock(mu_);
    while (in_flight_ > 0) changed_.Wait(mu_);
    return status_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  int in_flight_ GUARDED_BY(mu_) = 0;
  Status status_ GUARDED_BY(mu_);
};

class Listener : public FetchListener {
 public:
  explicit Listener(Progress* progress) : progress_(progress) {}
  void OnLayer(size_t, uint32_t, uint32_t) override {}
  void OnDone(const std::vector<Status>& items) override { progress_->Done(items); }

 private:
  Progress* const progress_;
};

Status FetchAll(const Options& options, KvStream* stream, const PeerAddress& source,
                uint8_t* memory) {
  const auto block_bytes = static_cast<size_t>(options.block_bytes());
  const size_t per_batch = static_cast<size_t>(options.batch_bytes) / block_bytes;
  const int window =
      static_cast<int>(std::max<int64_t>(2, options.window_bytes / options.batch_bytes));
  Progress progress;
  for (size_t block = 0; block < options.blocks(); block += per_batch) {
    FetchSpec spec;
    spec.source = source;
    spec.timeout_ns = kMinute;
    for (size_t i = block; i < block + per_batch; ++i) {
      spec.items.push_back({IdOf(i), 0, memory + i * block_bytes});
    }
    progress.Begin(window);
    RETURN_IF_ERROR(stream->Fetch(std::move(spec), std::make_shared<Listener>(&progress)).status());
  }
  return progress.Drain();
}

// One append of a batch; its entries are whole blocks.
StatusOr<TailAppend> MakeAppend(const Options& options, const uint8_t* memory) {
  const KvFormat format = MakeFormat(options);
  const size_t entries = static_cast<size_t>(options.batch_bytes / options.block_bytes());
  auto packed = std::make_shared<PackedRows>(static_cast<size_t>(options.batch_bytes));
  TailAppend append;
  for (size_t i = 0; i < entries; ++i) {
    TailEntry entry{.request = {"bench", {1, 1}}, .parent = {}};
    entry.tokens.assign(kBlockTokens, 1);
    ASSIGN_OR_RETURN(
        entry.checksum,
        PackTail(format, {memory + i * format.block_bytes(), format.block_bytes()},
                 {0, kBlockTokens}, TailSeed(entry),
                 packed->writable().subspan(i * format.block_bytes(), format.block_bytes())));
    append.entries.push_back(std::move(entry));
  }
  append.rows = packed;
  return append;
}

int64_t StoreCpuMicroseconds(KvStream* stream, const PeerAddress& store) {
  Progress progress;
  int64_t cpu = 0;
  progress.Begin(1);
  stream->QueryTails(store, {"bench", {1, 1}}, kMinute,
                     [&](const Status& status, const std::vector<TailState>& states) {
                       if (!states.empty()) cpu = states[0].blocks_held;
                       progress.Done({status});
                     });
  return progress.Drain().ok() ? cpu : 0;
}

// How many entries the store has taken.
class Taken {
 public:
  void Set(int64_t entries, const Status& status) {
    MutexLock lock(mu_);
    entries_ = std::max(entries_, entries);
    if (status_.ok()) status_ = status;
    changed_.NotifyAll();
  }
  Status Await(int64_t entries) {
    MutexLock lock(mu_);
    while (entries_ < entries && status_.ok()) changed_.Wait(mu_);
    return status_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  int64_t entries_ GUARDED_BY(mu_) = 0;
  Status status_ GUARDED_BY(mu_);
};

// Appends all of it, packing each batch as a replicator would, and prints one JSON line.
Status AppendAll(const Options& options, KvStream* stream, const PeerAddress& store,
                 const uint8_t* memory) {
  Taken taken;
  stream->OnHeld([&](const NodeKey&, const std::vector<HeldRows>& held) {
    for (const HeldRows& one : held) taken.Set(one.rows, one.status);
  });
  stream->OnReplicaLost([&](const NodeKey&, const Status& status) { taken.Set(0, status); });
  const int64_t entries = options.batch_bytes / options.block_bytes();
  const int64_t window = std::clamp<int64_t>(
      std::min<int64_t>(options.window_bytes, 8 << 20) / options.batch_bytes, 1, 128);
  const int64_t appends = options.total_bytes / options.batch_bytes;
  const int64_t store_start_us = StoreCpuMicroseconds(stream, store);
  const TimeNs cpu_start_ns = ProcessCpuNs();
  const TimeNs start_ns = RealClock().NowNs();
  for (int64_t i = 0; i < appends; ++i) {
    ASSIGN_OR_RETURN(TailAppend append, MakeAppend(options, memory + i * options.batch_bytes));
    RETURN_IF_ERROR(taken.Await((i - window) * entries));
    stream->Append(store, std::move(append));
  }
  RETURN_IF_ERROR(taken.Await(appends * entries));
  const double seconds = SecondsFromNs(RealClock().NowNs() - start_ns);
  const double worker_us = static_cast<double>(ProcessCpuNs() - cpu_start_ns) / kMicrosecond;
  const auto store_us = static_cast<double>(StoreCpuMicroseconds(stream, store) - store_start_us);
  std::printf(
      "{\"append_mb_per_s\": %.0f, \"store_cpu_us_per_append\": %.1f, "
      "\"worker_cpu_us_per_append\": %.1f, \"batch_bytes\": %ld, \"block_bytes\": %ld, "
      "\"shared_memory\": %s}\n",
      static_cast<double>(options.total_bytes) / seconds / 1e6,
      store_us / static_cast<double>(appends), worker_us / static_cast<double>(appends),
      options.batch_bytes, options.block_bytes(), options.shared_memory ? "true" : "false");
  return absl::OkStatus();
}

Status RunFetch(const Options& options) {
  const std::vector<std::string> parts = absl::StrSplit(options.fetch, ':');
  PeerAddress source{{"bench-source", 0}, "127.0.0.1", 0};
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &source.key.incarnation) ||
      !absl::SimpleAtoi(parts[1], &source.port)) {
    return absl::InvalidArgumentError("--fetch takes incarnation:port");
  }
  uint8_t* memory = Allocate(static_cast<size_t>(options.total_bytes));
  if (memory == nullptr) return absl::ResourceExhaustedError("no memory");
  const NodeKey self{"bench-sink", static_cast<uint64_t>(getpid())};
  ASSIGN_OR_RETURN(auto stream, KvStream::Create(MakeStreamOptions(options, self), nullptr));
  if (options.append) return AppendAll(options, stream.get(), source, memory);
  Options warm_up = options;  // connects
  warm_up.total_bytes = options.batch_bytes;
  RETURN_IF_ERROR(FetchAll(warm_up, stream.get(), source, memory));
  const TimeNs cpu_start_ns = ProcessCpuNs();
  const TimeNs start_ns = RealClock().NowNs();
  RETURN_IF_ERROR(FetchAll(options, stream.get(), source, memory));
  const double seconds = SecondsFromNs(RealClock().NowNs() - start_ns);
  const double cpu_seconds = SecondsFromNs(ProcessCpuNs() - cpu_start_ns);
  ASSIGN_OR_RETURN(const std::string lanes, stream->DescribeLanes(source.key));
  const auto has = [&](const char* lane) { return lanes.find(lane) != std::string::npos; };
  std::printf(
      "{\"gb_per_s\": %.3f, \"seconds\": %.4f, \"receiver_cpu_seconds\": %.4f, \"total_bytes\": "
      "%ld, \"batch_bytes\": %ld, "
      "\"segment_bytes\": %ld, \"shared_memory\": %s, \"lane_posix\": %s, \"lane_cma\": %s, "
      "\"checksum_failures\": %lu}\n",
      static_cast<double>(options.total_bytes) / seconds / 1e9, seconds, cpu_seconds,
      options.total_bytes, options.batch_bytes, options.segment_bytes,
      options.shared_memory ? "true" : "false", has("posix") ? "true" : "false",
      has("cma") ? "true" : "false", stream->stats().checksum_failures);
  return absl::OkStatus();
}

Status RunBoth(Options options, const char* program) {
  const auto bytes = [](int64_t n) { return absl::StrCat(n); };
  ASSIGN_OR_RETURN(
      auto child,
      Subprocess::Spawn(
          {.argv = {program, "--serve", "--segment-bytes=" + bytes(options.segment_bytes),
                    "--batch-bytes=" + bytes(options.batch_bytes),
                    "--total-bytes=" + bytes(options.total_bytes),
                    options.shared_memory ? "--shared-memory" : "--no-shared-memory"},
           .extra_env = {},
           .out = SubprocessOutput::Pipe(),
           .err = SubprocessOutput::Inherit()}));
  char c = 0;
  while (read(child->out_fd(), &c, 1) == 1 && c != '\n') options.fetch += c;
  if (c != '\n') return absl::UnavailableError("the serving copy did not start");
  return RunFetch(options);
}

Status Run(int argc, char** argv) {
  Options options;
  RETURN_IF_ERROR(Parse(argc, argv, &options));
  if (options.serve) return Serve(options);
  if (!options.fetch.empty()) return RunFetch(options);
  return RunBoth(options, argv[0]);
}

}  // namespace
}  // namespace reprise::kv

int main(int argc, char** argv) {
  const absl::Status status = reprise::kv::Run(argc, argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
