// Two groups of ranks that hold verifiable blocks of one sequence in their parts, over any kind of
// stream: the first made them, the second reads them. Used by the tests of StreamIn; one thread.
#ifndef REPRISE_KVSTORE_STREAM_RELAYOUT_TEST_GROUPS_H_
#define REPRISE_KVSTORE_STREAM_RELAYOUT_TEST_GROUPS_H_

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kvstore/block/block_id.h"
#include "kvstore/stream/rank_blocks.h"
#include "kvstore/stream/stream_in.h"
#include "kvstore/stream/verifiable_blocks.h"

namespace reprise::kv {

using MakeStream = std::function<std::unique_ptr<KvStream>(const StreamOptions&, SegmentSource*)>;

// All splits with sizes of 1, 2 and 4 that fit `ranks` ranks.
inline std::vector<GroupSplit> SplitsOf(uint32_t ranks) {
  std::vector<GroupSplit> splits;
  for (const uint32_t tensor : {1u, 2u, 4u}) {
    for (const uint32_t pipeline : {1u, 2u, 4u}) {
      for (const uint32_t context : {1u, 2u, 4u}) {
        const GroupSplit split{.pipeline = pipeline, .tensor = tensor, .context = context};
        if (split.ranks() <= ranks) splits.push_back(split);
      }
    }
  }
  return splits;
}

inline std::string NameOf(const GroupSplit& split) {
  return "TP" + std::to_string(split.tensor) + " PP" + std::to_string(split.pipeline) + " CP" +
         std::to_string(split.context);
}

class TestGroup {
 public:
  TestGroup(const std::string& name, KvFormat format, const GroupSplit& split,
            std::vector<int32_t> tokens)
      : name_(name), format_(std::move(format)), split_(split), tokens_(std::move(tokens)) {
    ids_ = ChainIds({.format_digest = format_.Digest(),
                     .block_tokens = static_cast<int>(format_.block_tokens),
                     .tenant_salt = {}},
                    tokens_);
    ranks_.resize(split_.ranks());
    for (uint32_t rank = 0; rank < split_.ranks(); ++rank) {
      ranks_[rank].blocks = std::make_unique<RankBlocks>(format_, PartOf(rank));
    }
  }

  KvPart PartOf(uint32_t rank) const { return PartOfRank(format_, split_, rank); }
  const std::vector<BlockId>& ids() const { return ids_; }
  KvStream& stream(uint32_t rank) { return *ranks_[rank].stream; }
  RankGroup address() const {
    RankGroup group{.split = split_, .ranks = {}};
    for (const Rank& rank : ranks_) group.ranks.push_back(rank.stream->address());
    return group;
  }
  uint64_t canonical_bytes() const { return ids_.size() * format_.block_bytes(); }
  uint64_t bytes_sent() const {
    uint64_t bytes = 0;
    for (const Rank& rank : ranks_) bytes += rank.stream->stats().bytes_sent;
    return bytes;
  }
  // A receiver may have the last bytes before their sender knows that they went: until it does.
  void AwaitSent() const {
    for (const Rank& rank : ranks_) {
      while (rank.stream->stats().posted_bytes > 0) std::this_thread::yield();
    }
  }
  // What leaves the group when each of its ranks gets what it holds: the first of those that hold
  // the same hands it on to the others.
  uint64_t handed_on_bytes() const {
    return canonical_bytes() * (HeadReplicas(format_, split_) - 1);
  }

  void Start(const MakeStream& make, uint64_t incarnation, bool convert_codecs = false) {
    for (uint32_t r = 0; r < ranks_.size(); ++r) {
      StreamOptions options;
      options.self = {name_ + std::to_string(r), incarnation + r};
      options.format = format_;
      options.part = PartOf(r);
      options.convert_codecs = convert_codecs;
      ranks_[r].stream = make(options, ranks_[r].blocks.get());
    }
  }

  bool Owns(uint32_t rank, size_t block) const {
    return ContextOwner(split_, PositionOf(block)) == PlaceOf(split_, rank).context;
  }
  int64_t PositionOf(size_t block) const {
    return static_cast<int64_t>(block) * int64_t{format_.block_tokens};
  }

  void MakeBlocks() {
    for (uint32_t rank = 0; rank < ranks_.size(); ++rank) {
      for (size_t block = 0; block < ids_.size(); ++block) {
        if (Owns(rank, block)) {
          Write(rank, block, ranks_[rank].blocks->AddMade(ids_[block], PositionOf(block)));
        }
      }
    }
  }

  // What rank `rank` asks for; its blocks are listed as arriving.
  StreamInSpec SpecOf(uint32_t rank, const RankGroup& source) {
    StreamInSpec spec{.source = source,
                      .own = address(),
                      .rank = rank,
                      .fence = {},
                      .items = {},
                      .timeout_ns = kMinute};
    for (size_t block = 0; block < ids_.size(); ++block) {
      if (!Owns(rank, block)) continue;
      spec.items.push_back({ids_[block], PositionOf(block),
                            ranks_[rank].blocks->AddArriving(ids_[block], PositionOf(block))});
    }
    return spec;
  }
  std::shared_ptr<FetchListener> ListenerOf(
      uint32_t rank, const StreamInSpec& spec, std::function<void()> done = [] {}) {
    std::vector<BlockId> ids;
    for (const FetchItem& item : spec.items) ids.push_back(item.id);
    return ranks_[rank].blocks->Arrivals(
        ranks_[rank].stream.get(), std::move(ids),
        [this, rank, done = std::move(done)](const std::vector<Status>& statuses) {
          ranks_[rank].statuses = statuses;
          done();
        });
  }

  // Of the blocks a rank asked for; empty: not ended.
  const std::vector<Status>& statuses(uint32_t rank) const { return ranks_[rank].statuses; }

  // The number of blocks of this rank that are not what they must be.
  size_t WrongBlocks(uint32_t rank) const {
    const size_t bytes = FormatOfPart(format_, PartOf(rank)).block_bytes();
    std::vector<uint8_t> expected(bytes);
    size_t wrong = 0;
    for (size_t block = 0; block < ids_.size(); ++block) {
      if (!Owns(rank, block)) continue;
      Write(rank, block, expected.data());
      const uint8_t* const data = ranks_[rank].blocks->Data(ids_[block]);
      wrong += data == nullptr || std::memcmp(data, expected.data(), bytes) != 0;
    }
    return wrong;
  }

 private:
  struct Rank {
    std::unique_ptr<RankBlocks> blocks;
    std::unique_ptr<KvStream> stream;
    std::vector<Status> statuses;
  };
  void Write(uint32_t rank, size_t block, uint8_t* out) const {
    const size_t rows = format_.block_tokens;
    WriteVerifiableBlock(format_, PartOf(rank), std::span(tokens_).subspan(block * rows, rows),
                         PositionOf(block), out);
  }

  const std::string name_;
  const KvFormat format_;
  const GroupSplit split_;
  const std::vector<int32_t> tokens_;
  std::vector<BlockId> ids_;
  std::vector<Rank> ranks_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_RELAYOUT_TEST_GROUPS_H_
