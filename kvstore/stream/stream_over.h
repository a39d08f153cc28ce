// A KvStream over transports made by the caller: what KvStream::Create uses with UCX, and tests
// with fakes. `transports` are not started; the first one listens and serves.
#ifndef REPRISE_KVSTORE_STREAM_STREAM_OVER_H_
#define REPRISE_KVSTORE_STREAM_STREAM_OVER_H_

#include <memory>
#include <vector>

#include "kvstore/stream/kv_stream.h"
#include "kvstore/transport/transport.h"

namespace reprise::kv {

std::unique_ptr<KvStream> StreamOver(std::vector<std::unique_ptr<Transport>> transports,
                                     const StreamOptions& options, SegmentSource* source,
                                     TailSink* tails = nullptr);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_STREAM_OVER_H_
