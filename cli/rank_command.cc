#include "cli/roles.h"
#include "worker/group/rank_main.h"

namespace reprise::cli {

int RunRankCommand(const Args& args) {
  worker::RankOptions o;
  FlagSet flags("reprise rank",
                "Runs a rank of a worker's group: its share of the model, driven by the worker.");
  flags.Add("name", &o.name, "name in logs");
  flags.Add("model", &o.model, "model folder, the worker's");
  flags.Add("group", &o.group, "shape of the group, the worker's: e.g. tp2 or pp2,tp2 or cp4");
  flags.AddRange("rank", &o.rank, -1, 63,
                 "whose weights it loads at start; -1: a spare, that holds every rank's");
  flags.Add("listen", &o.listen, "gRPC address, loopback only");
  flags.Add("group-listen", &o.group_listen, "address for the other ranks, loopback only");
  flags.Add("metrics-listen", &o.metrics_listen, "Prometheus address, loopback only");
  flags.AddChoice("device", &o.device, {"cpu", "gpu", "emulated"},
                  "what computes, the worker's too; emulated: the CPU as a GPU would, slowly");
  flags.Add("unproven-kernels", &o.unproven_kernels,
            "use a GPU's kernels that no card has passed the tests of, too; as the worker");
  flags.AddRange("threads", &o.threads, 1, 256, "compute threads");
  flags.AddChoice("isa", &o.isa, {"auto", "avx512", "avx2", "scalar"},
                  "instruction set; the bits are the same");
  flags.AddRange("block-tokens", &o.block_tokens, 1, 1024, "tokens per KV block, the worker's");
  flags.Add("kv-dtype", &o.kv_dtype, "KV element type, the worker's: auto, f32, bf16, f16, fp8");
  flags.Add("devices", &o.devices, "network devices between ranks");
  flags.Add("shared-memory", &o.shared_memory, "use shared memory to ranks on this machine");
  flags.AddDurationMs("stop-grace", &o.stop_grace_ms, 0, 600'000,
                      "for running calls when stopping");
  RoleFlags common;
  return RunRole(flags, common, args,
                 [&](const RoleControl& control) { return worker::RunRank(o, control); });
}

}  // namespace reprise::cli
