#include "cli/plan_command.h"

#include <cstdio>

#include "absl/strings/str_format.h"
#include "cli/plan_options.h"
#include "common/json.h"

namespace reprise::cli {
namespace {

constexpr char kSummary[] =
    "Computes KV memory, machines, DejaVu's prompt/token split and swap feasibility.\n"
    "Example: reprise plan --preset=opt-66b --machines=4 --batch=8 --prompt-ms=1400 --token-ms=66\n"
    "Formulas and sources: docs/planner.md";

// The most steps of the event model that a call may cost: a second or so.
constexpr double kSimulatedPassesMax = 3e7;

struct Plan {
  planner::ModelShape shape;
  std::vector<planner::NamedLayout> layouts;
  std::vector<int64_t> kv_bytes;  // of each layout at token_slots
  Status split_refusal;
  planner::SplitPlan split;
  Status simulation_refusal;
  planner::SimulatedGain simulated;
  planner::SwapPlan swap;
};

Status Simulate(const PlanOptions& o, Plan* plan) {
  if (o.machines < 2) return absl::FailedPreconditionError("one machine has nothing to split");
  const double passes = static_cast<double>(o.machines) * o.machines * o.microbatches *
                        static_cast<double>(o.new_tokens);
  if (passes > kSimulatedPassesMax) {
    return absl::FailedPreconditionError(
        absl::StrFormat("machines^2 x microbatches x new-tokens is %.3g, the limit is %.3g", passes,
                        kSimulatedPassesMax));
  }
  plan->simulated = planner::SimulateBestSplit(o.machines, PlanLoad(o));
  return absl::OkStatus();
}

StatusOr<Plan> MakePlan(const PlanOptions& o) {
  Plan plan;
  ASSIGN_OR_RETURN(plan.shape, PlanShape(o));
  plan.layouts = planner::CompareLayouts(plan.shape, o.group);
  for (const planner::NamedLayout& named : plan.layouts) {
    ASSIGN_OR_RETURN(const int64_t bytes, planner::KvBytes(named.layout, o.token_slots));
    plan.kv_bytes.push_back(bytes);
  }
  const auto split = planner::PlanSplit(PlanSplitInput(o, plan.shape));
  if (split.ok()) {
    plan.split = *split;
  } else if (split.status().code() == absl::StatusCode::kResourceExhausted) {
    plan.split_refusal = split.status();
  } else {
    return split.status();
  }
  plan.simulation_refusal = Simulate(o, &plan);
  ASSIGN_OR_RETURN(plan.swap, planner::PlanSwap(PlanSwapInput(o, plan.shape)));
  return plan;
}

std::string Reason(const Status& status) { return std::string(status.message()); }

std::string SplitText(const planner::Split& split) {
  return absl::StrCat(split.prompt_machines, " prompt + ", split.token_machines, " token");
}

void PrintMemory(const PlanOptions& o, const Plan& plan) {
  std::printf("model       %s: %ld layers, %ld heads, %.4g GB of weights\n",
              plan.shape.name.c_str(), plan.shape.layers, plan.shape.heads,
              static_cast<double>(plan.shape.weight_bytes) / planner::kGB);
  std::printf("memory      KV at %ld token slots, %ld bytes an element; machines of %.4g GB\n\n",
              o.token_slots, plan.shape.kv.element_bytes,
              static_cast<double>(o.machine_bytes) / planner::kGB);
  std::printf("  %-6s %-26s %12s %12s %12s %9s\n", "layout", "rows", "bytes/token", "GiB", "GB",
              "machines");
  for (size_t i = 0; i < plan.layouts.size(); ++i) {
    const planner::NamedLayout& named = plan.layouts[i];
    const auto bytes = static_cast<double>(plan.kv_bytes[i]);
    std::printf("  %-6s %-26s %12ld %12.5g %12.5g %9ld\n", named.name.c_str(), named.what.c_str(),
                planner::BytesPerToken(named.layout), bytes / planner::kGiB, bytes / planner::kGB,
                planner::MachinesFor(plan.shape.weight_bytes, plan.kv_bytes[i], o.machine_bytes));
  }
}

void PrintSplit(const PlanOptions& o, const Plan& plan) {
  std::printf("\nsplit       of %d machines; Y %.4g ms, t %.4g ms, N %ld, batch %d, m %.4g\n",
              o.machines, o.prompt_ms, o.token_ms, o.new_tokens, o.batch, o.stream_overhead);
  if (!plan.split_refusal.ok()) {
    std::printf("  refused   %s\n", Reason(plan.split_refusal).c_str());
  } else {
    std::printf("  ideal     %.3g prompt + %.3g token; memory needs at least %d + %d\n",
                plan.split.ideal_prompt_machines, plan.split.ideal_token_machines,
                plan.split.prompt_machines_min, plan.split.token_machines_min);
    std::printf("  chosen    %s: %.4g s for %d microbatches, mixed pipeline %.4g s: %.3gx\n",
                SplitText(plan.split.split).c_str(), plan.split.split_s, o.machines,
                plan.split.mixed_s, plan.split.gain());
    std::printf("  wins      in the ideal from Y/t %.3g on, here %.3g\n", plan.split.win_ratio_min,
                o.prompt_ms / o.token_ms);
  }
  if (!plan.simulation_refusal.ok()) {
    std::printf("  simulated refused: %s\n", Reason(plan.simulation_refusal).c_str());
    return;
  }
  std::printf("  simulated %s: %.3gx over %d microbatches, lengths of sigma %.3g, memory aside\n",
              SplitText(plan.simulated.split).c_str(), plan.simulated.gain(), o.microbatches,
              o.sigma);
}

void PrintSwap(const PlanOptions& o, const Plan& plan) {
  std::printf("\nswap        microbatches of %d instead of %d over %.4g GB/s\n", 2 * o.batch,
              o.batch, o.link_gb_per_s);
  std::printf(
      "  transfer  %.4g ms at the longest context, a step takes %.4g ms; hides up to %ld "
      "tokens\n",
      plan.swap.last_transfer_s * 1e3, o.token_ms, plan.swap.hidden_tokens);
  std::printf("  memory    %.4g GB a stage for 2 resident, %.4g GB unswapped\n",
              plan.swap.resident_bytes / planner::kGB, plan.swap.unswapped_bytes / planner::kGB);
  std::printf("  speedup   %.3gx over a request\n", plan.swap.speedup);
  std::printf("  verdict   %s\n",
              plan.swap.refusal.ok() ? "swap" : ("refused: " + Reason(plan.swap.refusal)).c_str());
}

std::string LayoutsJson(const PlanOptions& o, const Plan& plan) {
  std::string json = "[";
  for (size_t i = 0; i < plan.layouts.size(); ++i) {
    const planner::NamedLayout& named = plan.layouts[i];
    absl::StrAppend(&json, i > 0 ? ", " : "",
                    JsonWriter()
                        .Field("layout", named.name)
                        .Field("rows", named.what)
                        .Field("bytes_per_token", planner::BytesPerToken(named.layout))
                        .Field("kv_bytes", plan.kv_bytes[i])
                        .Field("machines", planner::MachinesFor(plan.shape.weight_bytes,
                                                                plan.kv_bytes[i], o.machine_bytes))
                        .Take());
  }
  return json + "]";
}

std::string SplitJson(const Plan& plan) {
  if (!plan.split_refusal.ok()) {
    return JsonWriter().Field("refused", Reason(plan.split_refusal)).Take();
  }
  const planner::SplitPlan& split = plan.split;
  return JsonWriter()
      .Field("ideal_prompt_machines", split.ideal_prompt_machines)
      .Field("ideal_token_machines", split.ideal_token_machines)
      .Field("prompt_machines_min", split.prompt_machines_min)
      .Field("token_machines_min", split.token_machines_min)
      .Field("prompt_machines", split.split.prompt_machines)
      .Field("token_machines", split.split.token_machines)
      .Field("split_s", split.split_s)
      .Field("mixed_s", split.mixed_s)
      .Field("gain", split.gain())
      .Field("win_ratio_min", split.win_ratio_min)
      .Take();
}

std::string SimulatedJson(const Plan& plan) {
  if (!plan.simulation_refusal.ok()) {
    return JsonWriter().Field("refused", Reason(plan.simulation_refusal)).Take();
  }
  return JsonWriter()
      .Field("prompt_machines", plan.simulated.split.prompt_machines)
      .Field("token_machines", plan.simulated.split.token_machines)
      .Field("gain", plan.simulated.gain())
      .Take();
}

std::string SwapJson(const Plan& plan) {
  JsonWriter json;
  json.Field("last_transfer_s", plan.swap.last_transfer_s)
      .Field("hidden_tokens", plan.swap.hidden_tokens)
      .Field("speedup", plan.swap.speedup)
      .Field("resident_bytes", plan.swap.resident_bytes)
      .Field("unswapped_bytes", plan.swap.unswapped_bytes);
  if (!plan.swap.refusal.ok()) json.Field("refused", Reason(plan.swap.refusal));
  return json.Take();
}

void PrintJson(const PlanOptions& o, const Plan& plan) {
  std::printf("%s\n", JsonWriter()
                          .Field("model", plan.shape.name)
                          .Field("weight_bytes", plan.shape.weight_bytes)
                          .Field("token_slots", o.token_slots)
                          .Raw("layouts", LayoutsJson(o, plan))
                          .Raw("split", SplitJson(plan))
                          .Raw("simulated", SimulatedJson(plan))
                          .Raw("swap", SwapJson(plan))
                          .Take()
                          .c_str());
}

}  // namespace

int RunPlan(const Args& args) {
  PlanOptions o;
  FlagSet flags("reprise plan", kSummary);
  o.Declare(flags);
  if (const auto exit = ParseFlags(flags, args, 0, nullptr)) return *exit;
  const auto plan = MakePlan(o);
  if (!plan.ok()) return Fail("plan", plan.status());
  if (o.json) {
    PrintJson(o, *plan);
    return 0;
  }
  PrintMemory(o, *plan);
  PrintSplit(o, *plan);
  PrintSwap(o, *plan);
  return 0;
}

}  // namespace reprise::cli
