// A store core with the bytes around it, for tests of live sequences: appends travel packed and are
// verified, slots and disk hold real bytes, and every checksum that leaves the core is compared
// with the bytes it speaks of. Invariants are checked after every event. Header-only; one thread.
#ifndef REPRISE_KVSTORE_NODE_STORE_TAILS_FIXTURE_H_
#define REPRISE_KVSTORE_NODE_STORE_TAILS_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kvstore/block/checksum.h"
#include "kvstore/node/store_core.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::kv {

inline const NodeKey kWorker{"w1", 7};
inline const NodeKey kOther{"w2", 8};

inline constexpr auto kAborted = absl::StatusCode::kAborted;
inline constexpr auto kNotFound = absl::StatusCode::kNotFound;
inline constexpr auto kGap = absl::StatusCode::kOutOfRange;
inline constexpr auto kDamaged = absl::StatusCode::kDataLoss;
inline constexpr auto kNoRoom = absl::StatusCode::kResourceExhausted;
inline constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

inline constexpr int kBlock = 4;
inline constexpr uint32_t kLayers = 2;

// A row lies in three pieces of one 32-bit element.
inline KvFormat TailsFormat() {
  KvFormat format;
  format.fields = {{.name = "k", .heads = 2, .elements = 1}, {.name = "v", .elements = 1}};
  format.layers = kLayers;
  format.block_tokens = kBlock;
  format.codec = ElementCodec::kF32;
  return format;
}

inline std::vector<int32_t> Numbers(int first, int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

inline std::vector<BlockId> Ids(const std::vector<int32_t>& tokens) {
  return ChainIds({.format_digest = {}, .block_tokens = kBlock, .tenant_salt = {}}, tokens);
}

class Store {
 public:
  enum class Rows { kWhole, kDamaged };
  using Bytes = std::vector<uint8_t>;

  explicit Store(Slot memory, Slot disk = 0)
      : core({.format_digest = {},
              .block_tokens = kBlock,
              .layers = kLayers,
              .segment_bytes = TailsFormat().segment_bytes(),
              .memory_slots = memory,
              .disk_slots = disk}),
        slots_(static_cast<size_t>(memory), Bytes(format_.block_bytes(), 0xee)) {}

  // Rows [first, first + count) of the sequence with these tokens.
  static TailEntry Entry(const std::vector<int32_t>& tokens, int first, int count,
                         const Attempt& attempt = {1, 1}, const std::string& request = "r",
                         uint32_t branch = 0) {
    const int index = first / kBlock;
    TailEntry entry{.request = {request, attempt},
                    .branch = branch,
                    .parent = {},
                    .first_position = first,
                    .tokens = {tokens.begin() + first, tokens.begin() + first + count}};
    if (index > 0) entry.parent = Ids(tokens)[static_cast<size_t>(index) - 1];
    return entry;
  }

  // Begins to take an entry: its rows are in their slot, and not counted yet.
  StoreCore::AppendPlan Plan(TailEntry entry, Rows rows = Rows::kWhole,
                             const NodeKey& from = kWorker) {
    StoreCore::AppendPlan plan = core.OnAppend(from, entry, now);
    Collect();
    if (plan.write == 0) return plan;
    Bytes packed(PackedBytes(format_, entry.tokens.size()));
    entry.checksum =
        *PackTail(format_, BlockOf(entry.tokens), {0, static_cast<uint32_t>(entry.tokens.size())},
                  TailSeed(entry), packed);
    if (rows == Rows::kDamaged) packed.back() ^= 1;
    Bytes& slot = Slots(plan.slot);
    if (plan.copy_from >= 0) slot = Slots(plan.copy_from);
    Written& written = writes_[plan.write];
    written.slot = plan.slot;
    written.status = unpacker_.Unpack({.packed = packed,
                                       .checksum = entry.checksum,
                                       .seed = TailSeed(entry),
                                       .rows = static_cast<uint32_t>(entry.tokens.size()),
                                       .skip = plan.skip},
                                      plan.first_row, slot, &written.parts);
    return plan;
  }
  HeldRows End(const StoreCore::AppendPlan& plan) {
    const Written written = std::move(writes_.extract(plan.write).mapped());
    const size_t before = published.size();
    HeldRows held = core.OnAppended(plan.write, written.status, written.parts, now);
    Collect();
    for (size_t i = before; i < published.size(); ++i) {
      ExpectSums(published[i].id, published[i].checksums, plan.slot);
    }
    return held;
  }
  HeldRows Append(const TailEntry& entry, Rows rows = Rows::kWhole, const NodeKey& from = kWorker) {
    const StoreCore::AppendPlan plan = Plan(entry, rows, from);
    EXPECT_FALSE(plan.busy);
    return plan.write == 0 ? plan.held : End(plan);
  }
  // All rows of `tokens`, block by block; what the last answer said.
  HeldRows AppendAll(const std::vector<int32_t>& tokens, int rows,
                     const std::string& request = "r") {
    HeldRows held;
    for (int at = 0; at < rows; at += kBlock) {
      held = Append(Entry(tokens, at, std::min(kBlock, rows - at), {1, 1}, request));
    }
    return held;
  }

  void Offer(const std::vector<int32_t>& tokens, const std::string& request = "r",
             const NodeKey& from = kWorker, const Attempt& attempt = {1, 1}) {
    core.OnOffer({.source = from,
                  .request = {request, attempt},
                  .parent = {},
                  .first_position = 0,
                  .tenant_salt = {},
                  .tokens = tokens,
                  .branch = 0},
                 now);
    Collect();
  }
  // The next layer of an item arrives.
  void ArriveLayer(const StartStoreFetch& fetch, size_t item, uint32_t layer) {
    const StartStoreFetch::Item& to = fetch.items[item];
    Bytes& slot = Slots(to.slot);
    const size_t bytes = format_.segment_bytes();
    for (size_t i = 0; i < bytes; ++i) {
      slot[layer * bytes + i] = static_cast<uint8_t>(to.id.bytes[i % 16] + i + layer);
    }
    core.OnLayer(fetch.fetch, item, layer,
                 SegmentChecksum(to.id, layer, to.first_position, &slot[layer * bytes], bytes));
    Collect();
    ExpectSums(published.back().id, published.back().checksums, to.slot);
  }
  void EndFetch(size_t at, const Status& status = absl::OkStatus()) {
    const StartStoreFetch fetch = fetches[at];
    fetches.erase(fetches.begin() + static_cast<std::ptrdiff_t>(at));
    if (status.ok()) {
      for (size_t i = 0; i < fetch.items.size(); ++i) {
        for (uint32_t layer = 0; layer < kLayers; ++layer) ArriveLayer(fetch, i, layer);
      }
    }
    core.OnFetchDone(fetch.fetch, std::vector<Status>(fetch.items.size(), status), now);
    Collect();
  }
  void EndDisk(const Status& status = absl::OkStatus()) {
    const StoreCommand command = disk.front();
    disk.erase(disk.begin());
    if (const auto* write = std::get_if<WriteDisk>(&command)) {
      ExpectSums(write->record.id, write->record.checksums, write->memory_slot,
                 write->record.first_position);
      if (status.ok()) disk_[write->disk_slot] = Slots(write->memory_slot);
      core.OnDiskWritten(write->record.id, status);
    } else {
      const auto& load = std::get<LoadDisk>(command);
      if (status.ok()) Slots(load.memory_slot) = disk_.at(load.disk_slot);
      core.OnDiskLoaded(load.id, status);
    }
    Collect();
  }
  void Tick(TimeNs at) {
    now = at;
    core.OnTick(now);
    Collect();
  }
  void Release(const Attempt& attempt = {1, 1}, const std::string& request = "r") {
    core.OnRelease({request, attempt}, now);
    Collect();
  }

  // What a reader sees; the checksums of what is ready must be those of its bytes.
  StoreCore::Found Find(const BlockId& id) {
    StoreCore::Found found = core.Find(id, now);
    Collect();
    if (found.state != StoreCore::Found::State::kMissing) {
      EXPECT_EQ(found.checksums.size(), found.layers_ready);
      ExpectSums(id, found.checksums, found.slot, found.first_position);
    }
    return found;
  }
  StoreCore::Found FindTail(int64_t first_position, const std::string& request = "r",
                            uint32_t branch = 0) {
    return Find(ReplicaTailId(request, branch, first_position));
  }
  // The tokens whose rows the first `rows` rows of a slot are, in all layers and heads.
  std::vector<int32_t> Tokens(Slot slot, size_t rows) const {
    const Bytes& bytes = slots_[static_cast<size_t>(slot)];
    std::vector<int32_t> tokens(rows);
    std::memcpy(tokens.data(), bytes.data(), rows * sizeof(int32_t));
    std::vector<int32_t> padded = tokens;
    padded.resize(kBlock);
    const Bytes expected = BlockOf(padded);
    for (size_t lane = 0; lane < bytes.size() / (kBlock * sizeof(int32_t)); ++lane) {
      const size_t at = lane * kBlock * sizeof(int32_t);
      EXPECT_EQ(std::memcmp(&bytes[at], &expected[at], rows * sizeof(int32_t)), 0) << lane;
    }
    return tokens;
  }
  const Bytes& SlotBytes(Slot slot) const { return slots_[static_cast<size_t>(slot)]; }
  void Flip(Slot slot, size_t byte) { Slots(slot).at(byte) ^= 1; }
  // Whether a reader of these bytes would take layer `layer`.
  bool Verifies(const BlockId& id, const StoreCore::Found& found, uint32_t layer) const {
    return found.checksums.at(layer) == SumOf(id, found.first_position, found.slot, layer);
  }
  std::vector<TailState> Query(const NodeKey& from, const Attempt& attempt) {
    const auto states = core.OnQuery(from, {"r", attempt}, now);
    EXPECT_TRUE(states.ok()) << states.status();
    return states.ok() ? *states : std::vector<TailState>();
  }

  void Collect() {
    for (StoreCommand& command : core.TakeCommands()) {
      if (auto* fetch = std::get_if<StartStoreFetch>(&command)) fetches.push_back(*fetch);
      if (auto* clear = std::get_if<ClearRows>(&command)) {
        unpacker_.Clear({clear->first_row, kBlock - clear->first_row}, Slots(clear->slot));
      }
      if (auto* cancel = std::get_if<CancelStoreFetch>(&command))
        cancelled.push_back(cancel->fetch);
      if (auto* publish = std::get_if<PublishBlock>(&command)) published.push_back(*publish);
      if (std::holds_alternative<WriteDisk>(command) || std::holds_alternative<LoadDisk>(command)) {
        disk.push_back(command);
      }
    }
    for (ToldHeld& one : core.TakeTold()) told.push_back(std::move(one));
    for (const TierCounts& tier : {core.memory(), core.disk()}) {
      ASSERT_EQ(tier.used + tier.free + tier.quarantined, tier.total);
    }
    const Status audit = core.Audit();
    ASSERT_TRUE(audit.ok()) << audit;
  }

  // A block of these tokens, at most kBlock, as a worker has it.
  static Bytes BlockOf(const std::vector<int32_t>& tokens) {
    const KvFormat format = TailsFormat();
    Bytes block(format.block_bytes(), 0);
    const size_t lanes = kLayers * format.row_elements();
    for (size_t lane = 0; lane < lanes; ++lane) {
      for (size_t row = 0; row < tokens.size(); ++row) {
        const int32_t value = tokens[row] + static_cast<int32_t>(lane) * 1'000'003;
        std::memcpy(&block[(lane * kBlock + row) * sizeof value], &value, sizeof value);
      }
    }
    return block;
  }

 private:
  struct Written {
    Slot slot = -1;
    Status status;
    std::vector<uint32_t> parts;
  };

  Bytes& Slots(Slot slot) { return slots_.at(static_cast<size_t>(slot)); }
  uint32_t SumOf(const BlockId& id, int64_t first_position, Slot slot, uint32_t layer) const {
    const size_t bytes = format_.segment_bytes();
    return SegmentChecksum(id, layer, first_position, &SlotBytes(slot)[layer * bytes], bytes);
  }
  // Of an id whose position the test does not know: any one of a short sequence.
  void ExpectSums(const BlockId& id, const std::vector<uint32_t>& checksums, Slot slot) const {
    for (int64_t position = 0; position < 64; position += kBlock) {
      bool all = true;
      for (uint32_t layer = 0; layer < checksums.size(); ++layer) {
        all = all && checksums[layer] == SumOf(id, position, slot, layer);
      }
      if (all) return;
    }
    ADD_FAILURE() << "published checksums are not those of the slot";
  }
  void ExpectSums(const BlockId& id, const std::vector<uint32_t>& checksums, Slot slot,
                  int64_t first_position) const {
    for (uint32_t layer = 0; layer < checksums.size(); ++layer) {
      EXPECT_EQ(checksums[layer], SumOf(id, first_position, slot, layer)) << "layer " << layer;
    }
  }

  const KvFormat format_ = TailsFormat();
  const TailUnpacker unpacker_{format_};

 public:
  StoreCore core;
  TimeNs now = 0;
  std::vector<StartStoreFetch> fetches;
  std::vector<uint64_t> cancelled;  // fetches
  std::vector<StoreCommand> disk;
  std::vector<PublishBlock> published;
  std::vector<ToldHeld> told;

 private:
  std::vector<Bytes> slots_;
  std::map<Slot, Bytes> disk_;
  std::map<uint64_t, Written> writes_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_NODE_STORE_TAILS_FIXTURE_H_
