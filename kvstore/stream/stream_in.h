// One rank's reading of blocks from a group of ranks that may hold them in other parts: which of
// its blocks it fetches from which rank, and one listener for all of it. A store that keeps whole
// blocks is a group of one rank, on either side. Owned by its fetches: what Start returns is only
// for Cancel. Any thread; the listener's calls never overlap. They come on the stream's threads, or
// on that of Start or Cancel when something came meanwhile: hold no lock that the listener takes.
//
// Invariants:
// 1. OnLayer comes once a (block, layer) when all heads of it that this rank holds have arrived and
//    verified, in ascending order of layers; its checksum is that of this rank's segment.
// 2. OnDone comes once, when nothing writes to a destination any more. A block is OK when all of it
//    came.
// 3. What several ranks of the own group need leaves the sending group once: all but the first of
//    them read it from the first, which must know the blocks as pending by then, publish their
//    layers as they arrive and withdraw those that will not come.
#ifndef REPRISE_KVSTORE_STREAM_STREAM_IN_H_
#define REPRISE_KVSTORE_STREAM_STREAM_IN_H_

#include <memory>
#include <vector>

#include "common/status.h"
#include "kvstore/block/group_split.h"
#include "kvstore/block/kv_format.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::kv {

struct StreamInSpec {
  RankGroup source;
  // The receiving group and this rank's place in it. Its other ranks' addresses are used only to
  // hand on; a group of one names nobody.
  RankGroup own;
  uint32_t rank = 0;
  Fence fence;
  // Blocks that this rank owns; destinations are laid out as the part it holds.
  std::vector<FetchItem> items;
  bool subscribe = false;
  TimeNs timeout_ns = 0;
  // As FetchSpec's: the source's format when it is not the stream's own.
  std::shared_ptr<const KvFormat> source_format = nullptr;
};

// One fetch of it; `items` are indices into the spec's.
struct StreamInLeg {
  FetchSpec fetch;
  std::vector<size_t> items;
};

// `format` is that of the blocks that are read. INVALID_ARGUMENT names what does not fit: a split,
// a missing address, a block that another context rank owns.
StatusOr<std::vector<StreamInLeg>> PlanStreamIn(const KvFormat& format, const StreamInSpec& spec);

class StreamIn {
 public:
  // Errors are those of PlanStreamIn; anything later comes through the listener.
  static StatusOr<std::shared_ptr<StreamIn>> Start(KvStream* stream, const KvFormat& format,
                                                   const StreamInSpec& spec,
                                                   std::shared_ptr<FetchListener> listener);
  virtual ~StreamIn() = default;
  // As KvStream::CancelFetch. The stream lives.
  virtual void Cancel() = 0;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_STREAM_IN_H_
