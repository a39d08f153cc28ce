// The stream's counters as Prometheus metrics, under the same names in every role that has one.
#ifndef REPRISE_KVSTORE_STREAM_STREAM_METRICS_H_
#define REPRISE_KVSTORE_STREAM_STREAM_METRICS_H_

#include "common/metrics.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::kv {

// `stream` outlives the last server of `metrics`.
void AddStreamMetrics(MetricsRegistry* metrics, const KvStream* stream);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_STREAM_METRICS_H_
