#include "kvstore/node/store_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "common/random.h"

namespace reprise::kv {
namespace {

StoreCoreOptions Small(Slot memory, Slot disk) {
  return {.format_digest = {},
          .block_tokens = 2,
          .layers = 3,
          .memory_slots = memory,
          .disk_slots = disk};
}

std::vector<int32_t> Tokens(int first, int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<BlockId> Ids(const std::vector<int32_t>& tokens) {
  return ChainIds({.format_digest = {}, .block_tokens = 2, .tenant_salt = {}}, tokens);
}

StoreCore::Offer OfferOf(const std::vector<int32_t>& tokens) {
  return {.source = {"w1", 7},
          .request = {"r", {1, 1}},
          .parent = {},
          .first_position = 0,
          .tenant_salt = {},
          .tokens = tokens};
}

template <typename T>
std::vector<T> Of(const std::vector<StoreCommand>& commands) {
  std::vector<T> found;
  for (const StoreCommand& command : commands) {
    if (const T* one = std::get_if<T>(&command)) found.push_back(*one);
  }
  return found;
}

void Conserved(const StoreCore& core) {
  for (const TierCounts& tier : {core.memory(), core.disk()}) {
    ASSERT_EQ(tier.used + tier.free + tier.quarantined, tier.total);
  }
}

// Delivers every layer of every item of a fetch, then ends it.
void Complete(StoreCore& core, const StartStoreFetch& fetch) {
  for (size_t i = 0; i < fetch.items.size(); ++i) {
    for (uint32_t layer = 0; layer < 3; ++layer) core.OnLayer(fetch.fetch, i, layer, layer + 1);
  }
  core.OnFetchDone(fetch.fetch, std::vector<Status>(fetch.items.size()), 0);
}

void Store(StoreCore& core, const std::vector<int32_t>& tokens) {
  core.OnOffer(OfferOf(tokens), 0);
  for (const auto& fetch : Of<StartStoreFetch>(core.TakeCommands())) Complete(core, fetch);
}

TEST(StoreCore, FetchesAnOfferOnceAndServesIt) {
  StoreCore core(Small(4, 0));
  const auto tokens = Tokens(0, 4);
  core.OnOffer(OfferOf(tokens), 0);
  core.OnOffer(OfferOf(tokens), 0);
  const auto fetches = Of<StartStoreFetch>(core.TakeCommands());
  ASSERT_EQ(fetches.size(), 1u);
  ASSERT_EQ(fetches[0].items.size(), 2u);
  EXPECT_EQ(fetches[0].items[1].first_position, 2);
  EXPECT_EQ(core.Find(Ids(tokens)[0], 0).state, StoreCore::Found::State::kPending);
  EXPECT_EQ(core.events().last(), 0u);
  Complete(core, fetches[0]);
  const auto found = core.Find(Ids(tokens)[1], 0);
  EXPECT_EQ(found.state, StoreCore::Found::State::kReady);
  EXPECT_EQ(found.checksums, (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_EQ(core.events().last(), 2u);
  Conserved(core);
}

TEST(StoreCore, PassesLayersOnAsTheyArrive) {
  StoreCore core(Small(4, 0));
  core.OnOffer(OfferOf(Tokens(0, 2)), 0);
  const auto fetch = Of<StartStoreFetch>(core.TakeCommands())[0];
  core.OnLayer(fetch.fetch, 0, 0, 9);
  core.OnLayer(fetch.fetch, 0, 0, 9);  // a repeated announcement changes nothing
  const auto published = Of<PublishBlock>(core.TakeCommands());
  ASSERT_EQ(published.size(), 1u);
  EXPECT_EQ(published[0].layers_ready, 1u);
  EXPECT_EQ(core.Find(fetch.items[0].id, 0).layers_ready, 1u);
}

TEST(StoreCore, QuarantinesTheSlotOfAFailedBlockWhileItIsRead) {
  StoreCore core(Small(1, 0));
  core.OnOffer(OfferOf(Tokens(0, 2)), 0);
  const auto fetch = Of<StartStoreFetch>(core.TakeCommands())[0];
  const auto found = core.Find(fetch.items[0].id, 0);
  core.OnFetchDone(fetch.fetch, {absl::DataLossError("checksum")}, 0);
  EXPECT_EQ(Of<WithdrawBlock>(core.TakeCommands()).size(), 1u);
  EXPECT_EQ(core.memory().quarantined, 1);
  core.OnOffer(OfferOf(Tokens(10, 2)), 0);
  EXPECT_TRUE(Of<StartStoreFetch>(core.TakeCommands()).empty()) << "handed out a slot being read";
  core.Unpin(found.pin);
  EXPECT_EQ(core.memory().free, 1);
  EXPECT_EQ(core.counters().offers_dropped, 1u);
  Conserved(core);
}

TEST(StoreCore, EvictsTheDeepestOfTheLeastRecent) {
  StoreCore core(Small(3, 0));
  const auto old_tokens = Tokens(0, 4);
  Store(core, old_tokens);
  Store(core, Tokens(100, 4));  // needs one slot more than is free
  EXPECT_EQ(core.Find(Ids(old_tokens)[0], 0).state, StoreCore::Found::State::kReady);
  EXPECT_EQ(core.Find(Ids(old_tokens)[1], 0).state, StoreCore::Found::State::kMissing);
  EXPECT_EQ(core.counters().memory_evictions, 1u);
  Conserved(core);
}

TEST(StoreCore, NeverEvictsABlockThatIsRead) {
  StoreCore core(Small(1, 0));
  const auto tokens = Tokens(0, 2);
  Store(core, tokens);
  const auto found = core.Find(Ids(tokens)[0], 0);
  core.OnOffer(OfferOf(Tokens(10, 2)), 0);
  EXPECT_EQ(core.counters().memory_evictions, 0u);
  EXPECT_EQ(core.memory().used, 1);
  core.Unpin(found.pin);
  core.OnOffer(OfferOf(Tokens(10, 2)), 0);
  EXPECT_EQ(core.counters().memory_evictions, 1u);
  Conserved(core);
}

TEST(StoreCore, WritesBackAndLoadsWhatMemoryLost) {
  StoreCore core(Small(1, 4));
  const auto first = Tokens(0, 2);
  Store(core, first);
  const auto writes = Of<WriteDisk>(core.TakeCommands());
  ASSERT_EQ(writes.size(), 1u);
  core.OnOffer(OfferOf(Tokens(10, 2)), 0);
  EXPECT_TRUE(core.TakeCommands().empty()) << "evicted a slot that is being written";
  core.OnDiskWritten(writes[0].record.id, absl::OkStatus());
  Store(core, Tokens(10, 2));
  core.OnDiskWritten(Ids(Tokens(10, 2))[0], absl::OkStatus());
  core.TakeCommands();
  const auto found = core.Find(Ids(first)[0], 0);
  EXPECT_EQ(found.state, StoreCore::Found::State::kPending);
  ASSERT_EQ(Of<LoadDisk>(core.TakeCommands()).size(), 1u);
  core.OnDiskLoaded(Ids(first)[0], absl::OkStatus());
  EXPECT_EQ(Of<PublishBlock>(core.TakeCommands())[0].layers_ready, 3u);
  EXPECT_EQ(core.events().listed(), 2u) << "both blocks are still held, one only on disk";
  Conserved(core);
}

TEST(StoreCore, DropsADamagedDiskBlock) {
  StoreCore core(Small(1, 2));
  core.Restore({Ids(Tokens(0, 2))[0], 0, {1, 2, 3}}, 1);
  EXPECT_EQ(core.events().last(), 1u);
  core.Unpin(core.Find(Ids(Tokens(0, 2))[0], 0).pin);
  core.OnDiskLoaded(Ids(Tokens(0, 2))[0], absl::DataLossError("checksum"));
  EXPECT_EQ(core.events().listed(), 0u);
  const auto commands = core.TakeCommands();
  EXPECT_EQ(Of<WithdrawBlock>(commands).size(), 1u);
  EXPECT_EQ(Of<ForgetDisk>(commands).size(), 1u);
  EXPECT_EQ(core.Find(Ids(Tokens(0, 2))[0], 0).state, StoreCore::Found::State::kMissing);
  Conserved(core);
}

// Random offers, fetch results, disk results, reads and unpins: slots are conserved after every
// event, no slot has two users, and once all is quiet the lists agree with what can be found.
TEST(StoreCore, ConservesSlotsUnderRandomHistories) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    SplitMix64 random(seed);
    StoreCore core(
        Small(static_cast<Slot>(1 + random.Below(8)), static_cast<Slot>(random.Below(8))));
    std::vector<StartStoreFetch> fetches;
    std::vector<StoreCommand> disk;
    std::vector<uint64_t> pins;
    const auto collect = [&] {
      for (StoreCommand& command : core.TakeCommands()) {
        if (auto* fetch = std::get_if<StartStoreFetch>(&command)) fetches.push_back(*fetch);
        if (std::holds_alternative<WriteDisk>(command) ||
            std::holds_alternative<LoadDisk>(command)) {
          disk.push_back(command);
        }
      }
    };
    const auto finish_fetch = [&](size_t at) {
      const StartStoreFetch fetch = fetches[at];
      fetches.erase(fetches.begin() + static_cast<ptrdiff_t>(at));
      if (random.Chance(0.7)) return Complete(core, fetch);
      core.OnFetchDone(fetch.fetch,
                       std::vector<Status>(fetch.items.size(), absl::UnavailableError("gone")), 0);
    };
    const auto finish_disk = [&](size_t at) {
      const StoreCommand command = disk[at];
      disk.erase(disk.begin() + static_cast<ptrdiff_t>(at));
      const Status status = random.Chance(0.8) ? absl::OkStatus() : absl::DataLossError("disk");
      if (const auto* write = std::get_if<WriteDisk>(&command)) {
        core.OnDiskWritten(write->record.id, status);
      } else {
        core.OnDiskLoaded(std::get<LoadDisk>(command).id, status);
      }
    };
    for (int i = 0; i < 400; ++i) {
      const int base = static_cast<int>(random.Below(6)) * 100;
      switch (random.Below(5)) {
        case 0:
          core.OnOffer(OfferOf(Tokens(base, 2 * static_cast<int>(1 + random.Below(4)))),
                       i * kSecond);
          break;
        case 1:
          if (!fetches.empty()) finish_fetch(random.Below(fetches.size()));
          break;
        case 2:
          if (!disk.empty()) finish_disk(random.Below(disk.size()));
          break;
        case 3: {
          const auto ids = Ids(Tokens(base, 8));
          const auto found = core.Find(ids[random.Below(ids.size())], i * kSecond);
          if (found.state != StoreCore::Found::State::kMissing) pins.push_back(found.pin);
          break;
        }
        default:
          if (pins.empty()) break;
          core.Unpin(pins.back());
          pins.pop_back();
      }
      collect();
      Conserved(core);
    }
    while (!fetches.empty() || !disk.empty()) {
      if (!fetches.empty()) finish_fetch(0);
      if (!disk.empty()) finish_disk(0);
      collect();
      Conserved(core);
    }
    for (const uint64_t pin : pins) core.Unpin(pin);
    Conserved(core);
    EXPECT_EQ(core.memory().quarantined, 0);
    std::set<BlockId> all;
    for (int base = 0; base < 600; base += 100) {
      for (const BlockId& id : Ids(Tokens(base, 8))) all.insert(id);
    }
    size_t found = 0;
    for (const BlockId& id : all) found += core.events().Lists(id);
    EXPECT_EQ(found, core.blocks());
  }
}

}  // namespace
}  // namespace reprise::kv
