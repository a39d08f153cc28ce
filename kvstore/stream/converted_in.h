// StreamIn from a group whose blocks have another page size or element codec: the source's blocks
// that cover this rank's are read under the source's ids into memory of their own, and their rows
// become rows of this rank's blocks, layer by layer. As StreamIn in everything else, its invariants
// included; the checksums are of the bytes as converted, which are made here.
#ifndef REPRISE_KVSTORE_STREAM_CONVERTED_IN_H_
#define REPRISE_KVSTORE_STREAM_CONVERTED_IN_H_

#include <memory>
#include <string>
#include <vector>

#include "common/status.h"
#include "kvstore/stream/stream_in.h"

namespace reprise::kv {

struct ConvertedInSpec {
  // Its items are this rank's blocks under their own ids. `read.source_format` is the source's.
  StreamInSpec read;
  KvFormat own_format;
  // The sequence from position 0 on, at least as far as the items reach; from it follow the ids
  // under which the source keeps its blocks.
  std::vector<int32_t> tokens;
  std::string tenant_salt;
  int64_t prompt_end = kOneForm;
};

// The memory for the source's blocks is taken at once: RESOURCE_EXHAUSTED when there is none.
// OUT_OF_RANGE when the source has no whole block for some rows: they are in its open tail.
StatusOr<std::shared_ptr<StreamIn>> StartConvertedIn(KvStream* stream, const ConvertedInSpec& spec,
                                                     std::shared_ptr<FetchListener> listener);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_CONVERTED_IN_H_
