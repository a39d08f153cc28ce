#include "kvstore/stream/converted_in.h"

#include <algorithm>
#include <map>
#include <utility>

#include "common/mapped_memory.h"
#include "kvstore/block/checksum.h"
#include "kvstore/block/kv_convert.h"

namespace reprise::kv {
namespace {

// The rows of one of the source's blocks that belong to one of this rank's.
struct Piece {
  size_t from = 0;  // index of the source's block among those read
  size_t to = 0;    // index of the own block
  RowMove move;
};

struct Pieces {
  std::vector<Piece> all;
  std::vector<int64_t> source_blocks;  // their numbers in the sequence, ascending
};

Pieces Cut(const std::vector<FetchItem>& items, int64_t own_rows, int64_t source_rows) {
  std::map<int64_t, std::vector<Piece>> by_source;
  for (size_t to = 0; to < items.size(); ++to) {
    const int64_t first = items[to].first_position;
    for (int64_t at = first; at < first + own_rows;) {
      const int64_t block = at / source_rows;
      const int64_t end = std::min(first + own_rows, (block + 1) * source_rows);
      by_source[block].push_back({.from = 0,
                                  .to = to,
                                  .move = {.from_row = static_cast<uint32_t>(at % source_rows),
                                           .to_row = static_cast<uint32_t>(at - first),
                                           .rows = static_cast<uint32_t>(end - at)}});
      at = end;
    }
  }
  Pieces pieces;
  for (auto& [block, of_block] : by_source) {
    for (Piece& piece : of_block) {
      piece.from = pieces.source_blocks.size();
      pieces.all.push_back(piece);
    }
    pieces.source_blocks.push_back(block);
  }
  return pieces;
}

// Hears of the source's blocks and tells of the own ones.
class Converter final : public FetchListener {
 public:
  Converter(const ConvertedInSpec& spec, MappedMemory memory, Pieces pieces,
            std::shared_ptr<FetchListener> listener)
      : listener_(std::move(listener)),
        part_(PartOfRank(spec.own_format, spec.read.own.split, spec.read.rank)),
        own_(FormatOfPart(spec.own_format, part_)),
        source_(FormatOfPart(*spec.read.source_format, part_)),
        items_(spec.read.items),
        memory_(std::move(memory)),
        pieces_(std::move(pieces)),
        missing_(items_.size() * part_.layers.size()) {
    for (const Piece& piece : pieces_.all) {
      for (uint32_t layer = 0; layer < part_.layers.size(); ++layer) ++Missing(piece.to, layer);
    }
  }

  uint8_t* Staged(size_t block) { return memory_.data() + block * source_.block_bytes(); }

  void OnLayer(size_t block, uint32_t number, uint32_t) override {
    const uint32_t layer = number - part_.layers.begin;
    const auto first =
        std::lower_bound(pieces_.all.begin(), pieces_.all.end(), block,
                         [](const Piece& piece, size_t from) { return piece.from < from; });
    for (auto piece = first; piece != pieces_.all.end() && piece->from == block; ++piece) {
      const FetchItem& item = items_[piece->to];
      uint8_t* const segment = item.destination + layer * own_.segment_bytes();
      ConvertRows(source_, Staged(block) + layer * source_.segment_bytes(), own_, segment,
                  piece->move);
      // A block's layers come in order at every one of its pieces, so they end in order too.
      if (--Missing(piece->to, layer) > 0) continue;
      listener_->OnLayer(
          piece->to, number,
          SegmentChecksum(item.id, number, item.first_position, segment, own_.segment_bytes()));
    }
  }

  void OnDone(const std::vector<Status>& blocks) override {
    std::vector<Status> statuses(items_.size());
    for (const Piece& piece : pieces_.all) {
      if (statuses[piece.to].ok()) statuses[piece.to] = blocks[piece.from];
    }
    listener_->OnDone(statuses);
  }

 private:
  uint32_t& Missing(size_t item, uint32_t layer) {
    return missing_[item * part_.layers.size() + layer];
  }

  const std::shared_ptr<FetchListener> listener_;
  const KvPart part_;
  const KvFormat own_;     // of the part
  const KvFormat source_;  // of the same part
  const std::vector<FetchItem> items_;
  MappedMemory memory_;
  const Pieces pieces_;
  std::vector<uint32_t> missing_;  // pieces, by item and layer
};

// The source's blocks as items to be read; destinations follow.
StatusOr<std::vector<FetchItem>> SourceItems(const ConvertedInSpec& spec,
                                             const std::vector<int64_t>& blocks) {
  const KvFormat& format = *spec.read.source_format;
  const std::vector<BlockId> ids = ChainIds({.format_digest = format.Digest(),
                                             .block_tokens = static_cast<int>(format.block_tokens),
                                             .tenant_salt = spec.tenant_salt},
                                            spec.tokens, spec.prompt_end);
  std::vector<FetchItem> items;
  for (const int64_t block : blocks) {
    if (block >= static_cast<int64_t>(ids.size())) {
      return absl::OutOfRangeError(absl::StrCat(spec.tokens.size(), " tokens fill ", ids.size(),
                                                " of the source's blocks, block ", block,
                                                " is needed"));
    }
    items.push_back({ids[static_cast<size_t>(block)], block * int64_t{format.block_tokens}});
  }
  return items;
}

Status Check(const ConvertedInSpec& spec) {
  if (spec.read.source_format == nullptr) {
    return absl::InvalidArgumentError("a converted stream names no source format");
  }
  RETURN_IF_ERROR(ValidateFormat(spec.own_format));
  RETURN_IF_ERROR(ValidateFormat(*spec.read.source_format));
  RETURN_IF_ERROR(CheckExchange(spec.own_format, *spec.read.source_format, true));
  RETURN_IF_ERROR(CheckSplit(spec.own_format, spec.read.own.split));
  // Blocks of both sizes lie within one owner's stripe.
  RETURN_IF_ERROR(CheckSplit(*spec.read.source_format, spec.read.own.split));
  if (spec.read.rank >= spec.read.own.split.ranks() || spec.read.items.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", spec.read.rank, " of ",
                                                   spec.read.own.split.ranks(), " asks for ",
                                                   spec.read.items.size(), " blocks"));
  }
  for (const FetchItem& item : spec.read.items) {
    if (item.destination != nullptr && item.first_position >= 0 &&
        item.first_position % int64_t{spec.own_format.block_tokens} == 0) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("a block at position ", item.first_position, " lacks a destination, or does ",
                     "not begin at a multiple of ", spec.own_format.block_tokens));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::shared_ptr<StreamIn>> StartConvertedIn(KvStream* stream, const ConvertedInSpec& spec,
                                                     std::shared_ptr<FetchListener> listener) {
  RETURN_IF_ERROR(Check(spec));
  const GroupSplit& own = spec.read.own.split;
  if (PlaceOf(own, spec.read.rank).tensor % HeadReplicas(spec.own_format, own) != 0) {
    // Handed on by a sibling, converted.
    StreamInSpec handed = spec.read;
    handed.source = handed.own;
    handed.source_format = nullptr;
    return StreamIn::Start(stream, spec.own_format, handed, std::move(listener));
  }
  const KvFormat& source = *spec.read.source_format;
  Pieces pieces = Cut(spec.read.items, spec.own_format.block_tokens, source.block_tokens);
  StreamInSpec read = spec.read;
  ASSIGN_OR_RETURN(read.items, SourceItems(spec, pieces.source_blocks));
  const KvPart part = PartOfRank(source, own, spec.read.rank);
  ASSIGN_OR_RETURN(MappedMemory memory,
                   MappedMemory::Map(read.items.size() * FormatOfPart(source, part).block_bytes(),
                                     "blocks to be converted"));
  const auto converter =
      std::make_shared<Converter>(spec, std::move(memory), std::move(pieces), std::move(listener));
  for (size_t i = 0; i < read.items.size(); ++i) read.items[i].destination = converter->Staged(i);
  return StreamIn::Start(stream, source, read, converter);
}

}  // namespace reprise::kv
