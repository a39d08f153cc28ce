// The engine's Prometheus series, read at each scrape. Any thread.
#ifndef REPRISE_WORKER_ENGINE_ENGINE_METRICS_H_
#define REPRISE_WORKER_ENGINE_ENGINE_METRICS_H_

#include "common/metrics.h"

namespace reprise::worker {

class Engine;

// `engine` outlives every scrape of `metrics`.
void RegisterEngineMetrics(const Engine& engine, MetricsRegistry& metrics);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_ENGINE_METRICS_H_
