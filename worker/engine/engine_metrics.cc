#include "worker/engine/engine_metrics.h"

#include <string>

#include "worker/engine/engine.h"

namespace reprise::worker {
namespace {

void AddCounter(const Engine& engine, MetricsRegistry& metrics, const std::string& name,
                const std::string& help, uint64_t CoreStats::*field,
                const MetricLabels& labels = {}) {
  metrics.RegisterCallbackCounter(
      name, help, [&engine, field] { return static_cast<double>(engine.stats().core.*field); },
      labels);
}

void AddPages(const Engine& engine, MetricsRegistry& metrics, const std::string& state,
              int32_t PagePool::Counts::*field) {
  metrics.RegisterCallbackGauge(
      "reprise_worker_pages", "KV pages by state; the states but total sum up to total.",
      [&engine, field] { return static_cast<double>(engine.stats().pages.*field); },
      {{"state", state}});
}

void RegisterReplicaMetrics(const Engine& engine, MetricsRegistry& metrics) {
  metrics.RegisterCallbackGauge(
      "reprise_replication_lag_tokens", "Rows beyond the watermark, the worst request's.",
      [&engine] { return static_cast<double>(engine.stats().lag.tokens); });
  metrics.RegisterCallbackGauge(
      "reprise_replication_lag_bytes", "Bytes beyond the watermark, the worst request's.",
      [&engine] { return static_cast<double>(engine.stats().lag.bytes); });
  metrics.RegisterCallbackGauge("reprise_replication_lag_seconds",
                                "Age of a row that some replica lacks, the worst request's.",
                                [&engine] { return SecondsFromNs(engine.stats().lag.ns); });
  metrics.RegisterCallbackGauge(
      "reprise_stranded_bytes", "KV bytes still held for requests that have ended.",
      [&engine] { return static_cast<double>(engine.stats().stranded_bytes); });
  metrics.RegisterCallbackCounter("reprise_replication_step_thread_seconds_total",
                                  "Time of the step thread spent on replicas.",
                                  [&engine] { return SecondsFromNs(engine.stats().replicas_ns); });
  metrics.RegisterCallbackCounter(
      "reprise_replication_step_thread_cpu_seconds_total",
      "Processor time of the step thread spent on replicas.",
      [&engine] { return SecondsFromNs(engine.stats().replicas_cpu_ns); });
  AddCounter(engine, metrics, "reprise_replication_bytes_total", "Rows appended to replicas.",
             &CoreStats::appended_bytes);
  AddCounter(engine, metrics, "reprise_replicas_lost_total",
             "Replicas of live requests that were lost.", &CoreStats::replicas_lost);
  AddCounter(engine, metrics, "reprise_worker_rebuilds_total", "Replicas begun anew.",
             &CoreStats::rebuilds);
  AddCounter(engine, metrics, "reprise_worker_restored_rows_total",
             "Rows of resumed requests found here or fetched.", &CoreStats::restored_rows);
  AddCounter(engine, metrics, "reprise_worker_replayed_rows_total",
             "Rows of resumed requests computed again.", &CoreStats::replayed_rows);
  const std::string plans = "reprise_worker_recoveries_total";
  const std::string plans_help = "Resumed requests whose rows others held, by what was chosen.";
  AddCounter(engine, metrics, plans, plans_help, &CoreStats::restores, {{"choice", "restore"}});
  AddCounter(engine, metrics, plans, plans_help, &CoreStats::recomputes, {{"choice", "recompute"}});
  AddCounter(engine, metrics, plans, plans_help, &CoreStats::waits, {{"choice", "wait"}});
  const std::string windows = "reprise_worker_windows_total";
  const std::string windows_help =
      "Requests whose gateway left, was replaced, or that nobody came for.";
  AddCounter(engine, metrics, windows, windows_help, &CoreStats::orphaned, {{"event", "orphaned"}});
  AddCounter(engine, metrics, windows, windows_help, &CoreStats::attached, {{"event", "attached"}});
  AddCounter(engine, metrics, windows, windows_help, &CoreStats::windows_over, {{"event", "over"}});
  const std::string stale = "reprise_stale_refused_total";
  const std::string stale_help = "What came from owners that are not the owner any more.";
  AddCounter(engine, metrics, stale, stale_help, &CoreStats::stale, {{"what", "attempt"}});
  AddCounter(engine, metrics, stale, stale_help, &CoreStats::fenced, {{"what", "fenced_by_store"}});
}

void RegisterSwapMetrics(const Engine& engine, MetricsRegistry& metrics) {
  const std::string bytes = "reprise_worker_swap_bytes_total";
  const std::string bytes_help = "KV bytes copied out of the pool and back.";
  AddCounter(engine, metrics, bytes, bytes_help, &CoreStats::swapped_out_bytes,
             {{"direction", "out"}});
  AddCounter(engine, metrics, bytes, bytes_help, &CoreStats::swapped_in_bytes,
             {{"direction", "in"}});
  AddCounter(engine, metrics, "reprise_worker_swap_ins_total", "Times a sequence came back.",
             &CoreStats::swap_ins);
  AddCounter(engine, metrics, "reprise_worker_swap_lost_total",
             "Copied blocks that did not come back right: computed again.", &CoreStats::swap_lost);
  AddCounter(engine, metrics, "reprise_worker_swap_failures_total",
             "Orders to copy out that could not be written.", &CoreStats::swap_failures);
  AddCounter(engine, metrics, "reprise_worker_rotations_total",
             "Requests admitted beyond the pool, to take turns.", &CoreStats::rotations);
  AddCounter(engine, metrics, "reprise_worker_turns_given_total",
             "Times a sequence made room for the next microbatch.", &CoreStats::turns_given);
  const std::string refused = "reprise_worker_swap_refused_total";
  const std::string refused_help = "Requests that the planner did not let swap, by reason.";
  AddCounter(engine, metrics, refused, refused_help, &CoreStats::swap_refused_slots,
             {{"why", "slots"}});
  AddCounter(engine, metrics, refused, refused_help, &CoreStats::swap_refused_room,
             {{"why", "room"}});
  AddCounter(engine, metrics, refused, refused_help, &CoreStats::swap_refused_slow,
             {{"why", "slow"}});
  const auto gauge = [&](const std::string& name, const std::string& help, const char* tier,
                         int32_t SwapUse::*field) {
    metrics.RegisterCallbackGauge(
        name, help, [&engine, field] { return static_cast<double>(engine.stats().swap.*field); },
        {{"tier", tier}});
  };
  const std::string slots = "reprise_worker_swap_slots";
  const std::string slots_help = "Blocks that have a copy outside the pool.";
  gauge(slots, slots_help, "host", &SwapUse::host_slots);
  gauge(slots, slots_help, "disk", &SwapUse::disk_slots);
  const std::string sequences = "reprise_worker_swapped_sequences";
  const std::string sequences_help = "Sequences that are outside the pool.";
  gauge(sequences, sequences_help, "host", &SwapUse::sequences_on_host);
  gauge(sequences, sequences_help, "disk", &SwapUse::sequences_on_disk);
}

}  // namespace

void RegisterEngineMetrics(const Engine& engine, MetricsRegistry& metrics) {
  metrics.RegisterCallbackGauge("reprise_worker_running", "Requests that hold pages.",
                                [&] { return static_cast<double>(engine.stats().running); });
  metrics.RegisterCallbackGauge("reprise_worker_waiting", "Requests that wait for pages.",
                                [&] { return static_cast<double>(engine.stats().waiting); });
  AddPages(engine, metrics, "total", &PagePool::Counts::total);
  AddPages(engine, metrics, "free", &PagePool::Counts::free);
  AddPages(engine, metrics, "used", &PagePool::Counts::used);
  AddPages(engine, metrics, "cached", &PagePool::Counts::cached);
  AddPages(engine, metrics, "quarantined", &PagePool::Counts::quarantined);
  const std::string tokens = "reprise_worker_tokens_total";
  const std::string tokens_help = "Rows computed of prompts, prompt rows reused, tokens given.";
  AddCounter(engine, metrics, tokens, tokens_help, &CoreStats::prompt_tokens, {{"kind", "prompt"}});
  AddCounter(engine, metrics, tokens, tokens_help, &CoreStats::cached_tokens, {{"kind", "cached"}});
  AddCounter(engine, metrics, tokens, tokens_help, &CoreStats::generated_tokens,
             {{"kind", "generated"}});
  AddCounter(engine, metrics, "reprise_worker_requests_accepted_total", "Requests and legs taken.",
             &CoreStats::accepted);
  AddCounter(engine, metrics, "reprise_worker_requests_refused_total",
             "Requests and legs refused, for load or otherwise.", &CoreStats::refused);
  AddCounter(engine, metrics, "reprise_worker_stale_attempts_total", "Attempts below the highest.",
             &CoreStats::stale);
  AddCounter(engine, metrics, "reprise_worker_steps_total", "Steps run.", &CoreStats::steps);
  AddCounter(engine, metrics, "reprise_worker_preemptions_total",
             "Requests that gave their pages up to an older one.", &CoreStats::preemptions);
  AddCounter(engine, metrics, "reprise_worker_evictions_total", "Cached pages reused.",
             &CoreStats::evictions);
  AddCounter(engine, metrics, "reprise_worker_fetch_items_total", "Blocks fetched from peers.",
             &CoreStats::fetch_hits, {{"result", "hit"}});
  AddCounter(engine, metrics, "reprise_worker_fetch_items_total", "Blocks fetched from peers.",
             &CoreStats::fetch_misses, {{"result", "miss"}});
  const std::string legs = "reprise_worker_legs_total";
  const std::string legs_help = "Prefill legs ordered, failed, and served for others.";
  AddCounter(engine, metrics, legs, legs_help, &CoreStats::legs_called, {{"event", "called"}});
  AddCounter(engine, metrics, legs, legs_help, &CoreStats::legs_failed, {{"event", "failed"}});
  AddCounter(engine, metrics, legs, legs_help, &CoreStats::legs_served, {{"event", "served"}});
  RegisterReplicaMetrics(engine, metrics);
  RegisterSwapMetrics(engine, metrics);
  metrics.RegisterCallbackCounter("reprise_worker_progress_total",
                                  "Layers and parts of long layers computed.",
                                  [&] { return static_cast<double>(engine.progress()); });
}

}  // namespace reprise::worker
