#include "cli/roles.h"
#include "common/limits.h"
#include "worker/server/worker_main.h"

namespace reprise::cli {
namespace {

void DeclareTimed(FlagSet& flags, worker::WorkerOptions& o) {
  worker::TimedSettings& t = o.timed_settings;
  flags.Add("timed", &o.timed, "no model: the timed engine, for cluster behaviour at scale");
  flags.AddRange("timed-prefill-ms-per-token", &t.prefill_ms_per_token, 0.0, 10'000.0,
                 "of prompt chunks");
  flags.AddRange("timed-step-ms", &t.step_ms, 0.0, 60'000.0, "of every step");
  flags.AddRange("timed-hidden-ms", &t.hidden_ms, 0.0, 60'000.0,
                 "work between steps that the device does not wait for");
  flags.AddRange("timed-layers", &t.layers, 1, 1024, "layers");
  flags.Add("timed-two-forms", &t.two_forms,
            "KV rows of generated positions have other bits than a prompt's.");
  flags.AddRange("timed-row-bytes", &t.row_bytes, 8, 1 << 20,
                 "KV bytes of a token in a layer; a multiple of 8");
  flags.AddRange("timed-context", &t.context_tokens, 1, 1 << 20, "context in tokens");
  flags.AddRange("timed-vocab", &t.vocab_size, 2, 1 << 24, "vocabulary");
  flags.Add("timed-key", &t.key, "of the fold; workers share KV only with the same key");
}

void DeclareKv(FlagSet& flags, worker::WorkerOptions& o) {
  flags.AddBytes("pool-bytes", &o.pool_bytes, 1 << 10, int64_t{1} << 44, "memory of the KV pool");
  flags.AddBytes("swap-host-bytes", &o.swap_host_bytes, 0, int64_t{1} << 44,
                 "memory for sequences that leave the pool; 0: they are computed again");
  flags.AddBytes("swap-disk-bytes", &o.swap_disk_bytes, 0, int64_t{1} << 44,
                 "disk for sequences that leave the pool when that memory is full");
  flags.Add("swap-dir", &o.swap_dir, "folder of the swap file");
  flags.AddBytes("swap-bytes-per-s", &o.swap_bytes_per_s, 0, int64_t{1} << 44,
                 "cap on copies out of the pool and back, for benchmarks; 0: none");
  flags.AddRange("microbatches", &o.microbatches, 1, static_cast<int32_t>(limits::kMicrobatchesMax),
                 "the running set takes turns in so many parts, one a step; with room to swap to, "
                 "together they may exceed the pool");
  flags.AddRange("block-tokens", &o.block_tokens, 1, 1024, "tokens per KV block");
  flags.Add("kv-dtype", &o.kv_dtype,
            "KV element type: auto, f32, bf16, f16; fp8 (latents of 512 + 64, on a device)");
  flags.Add("devices", &o.devices, "network devices of the KV stream");
  flags.Add("shared-memory", &o.shared_memory, "use shared memory to peers on this machine");
  flags.Add("layer-streaming", &o.publish_layers, "serve each layer as it is computed");
  flags.AddBytes("throttle-bytes-per-s", &o.throttle_bytes_per_s, 0, int64_t{1} << 44,
                 "cap on KV sent, for benchmarks; 0: none");
  flags.AddDurationMs("fetch-timeout", &o.fetch_timeout_ms, 10, 3'600'000, "of a known prefix");
  flags.AddChoice("recovery", &o.recovery, {"planned", "restore", "recompute", "wait"},
                  "how a resumed request gets its rows; all but planned for measurements");
  flags.AddDurationMs("leg-timeout", &o.leg_timeout_ms, 10, 3'600'000,
                      "of a remote prefill, order to last layer");
  flags.AddDurationMs("leg-linger", &o.leg_linger_ms, 0, 3'600'000,
                      "how long a finished leg keeps its pages unless released");
}

void DeclareGroup(FlagSet& flags, worker::WorkerOptions& o) {
  flags.Add("group", &o.group,
            "shape of the group of ranks that this worker drives, e.g. tp2 or pp2,tp2 or cp4; "
            "empty: it computes alone");
  flags.Add("ranks", &o.ranks,
            "gRPC addresses of the processes (reprise rank) that are its other ranks, comma "
            "between; more than needed are spares");
  flags.Add("group-listen", &o.group_listen, "address for the other ranks, loopback only");
}

void Declare(FlagSet& flags, worker::WorkerOptions& o) {
  flags.Add("name", &o.name, "name in logs and status; unique in the cluster");
  flags.Add("coordinator", &o.coordinator,
            "the coordinators' addresses, comma between; empty: reports to nobody");
  flags.Add("model", &o.model, "model folder");
  flags.Add("listen", &o.listen, "gRPC address, loopback only");
  flags.Add("advertise", &o.advertise,
            "gRPC address told to others, of a forwarder; empty: the own");
  flags.Add("kv-listen", &o.kv_listen, "KV stream address, loopback only");
  flags.Add("metrics-listen", &o.metrics_listen, "Prometheus address, loopback only");
  flags.Add("failure-domain", &o.failure_domain, "replicas go to other domains first");
  flags.Add("prefill", &o.prefill, "serve prefill legs of requests that decode elsewhere");
  flags.Add("decode", &o.decode, "take requests to decode");
  flags.AddChoice("device", &o.device, {"cpu", "gpu", "emulated"},
                  "what computes; emulated: the CPU as a GPU would, slowly (docs/gpu.md)");
  flags.Add("unproven-kernels", &o.unproven_kernels,
            "use a GPU's kernels that no card has passed the tests of, too");
  flags.AddRange("threads", &o.threads, 1, 256, "compute threads");
  flags.AddChoice("isa", &o.isa, {"auto", "avx512", "avx2", "scalar"},
                  "instruction set; the bits are the same");
  flags.AddRange("chunk-tokens", &o.chunk_tokens, 0, 1 << 20,
                 "prompt tokens a step may hold; 0: what keeps a layer below 250 ms");
  flags.AddRange("running-max", &o.running_max, 1, 2048, "requests that hold pages at a time");
  flags.AddRange("waiting-max", &o.waiting_max, 1, 4096, "requests waiting; more are refused");
  flags.AddRange("local-suffix-tokens", &o.local_suffix_tokens, 0, 1 << 20,
                 "a missing suffix up to this long is computed here in any case");
  flags.AddRange("report-interval-ms", &o.report_interval_ms, 10, 60'000,
                 "until the coordinator says otherwise");
  flags.AddDurationMs("stop-grace", &o.stop_grace_ms, 0, 600'000,
                      "for running calls when stopping");
  flags.AddDurationMs("drain-deadline", &o.drain_deadline_ms, 0, 3'600'000,
                      "for live streams to go elsewhere when stopping");
  DeclareKv(flags, o);
  DeclareTimed(flags, o);
  DeclareGroup(flags, o);
}

}  // namespace

int RunWorkerCommand(const Args& args) {
  worker::WorkerOptions o;
  FlagSet flags("reprise worker", "Runs a worker: prefill and decode of one model.");
  Declare(flags, o);
  RoleFlags common;
  return RunRole(flags, common, args,
                 [&](const RoleControl& control) { return worker::RunWorker(o, control); });
}

}  // namespace reprise::cli
