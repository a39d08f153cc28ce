#include "coordinator/core/prefix_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>

#include "common/random.h"
#include "kvstore/block/event_log.h"

namespace reprise::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

kv::BlockId Id(uint64_t n) {
  kv::BlockId id;
  n *= 0x9e3779b97f4a7c15u;  // ids are uniform
  std::memcpy(id.bytes.data(), &n, sizeof n);
  return id;
}
std::vector<kv::BlockId> Ids(uint64_t from, uint64_t to) {
  std::vector<kv::BlockId> ids;
  for (uint64_t n = from; n < to; ++n) ids.push_back(Id(n));
  return ids;
}
KvEvents Added(uint64_t first, uint64_t from, uint64_t to) {
  KvEvents events{.first = first};
  for (const kv::BlockId& id : Ids(from, to)) events.events.push_back({id, false});
  return events;
}

class PrefixIndexTest : public ::testing::Test {
 protected:
  PrefixIndex::Answer Apply(Slot slot, const KvEvents& events) {
    return index_.Apply(slot, &events, nullptr);
  }
  PrefixIndex::Answer Chunk(Slot slot, const kv::SnapshotChunk& chunk) {
    return index_.Apply(slot, nullptr, &chunk);
  }
  PrefixIndex index_{PrefixIndexOptions{}};
};

TEST_F(PrefixIndexTest, CountsLeadingBlocksPerNodeWithoutHoles) {
  Apply(3, Added(1, 0, 10));
  Apply(1, Added(1, 0, 4));
  KvEvents holed = Added(1, 0, 6);
  holed.events.push_back({Id(2), true});
  Apply(2, holed);
  Apply(4, Added(1, 1, 9));  // lacks the first
  using P = PrefixIndex::NodePrefix;
  EXPECT_THAT(index_.LongestPrefix(Ids(0, 12)), ElementsAre(P{1, 4}, P{2, 2}, P{3, 10}));
  EXPECT_THAT(index_.LongestPrefix(Ids(20, 30)), IsEmpty());
  EXPECT_EQ(index_.stats().blocks, 10u);
}

TEST_F(PrefixIndexTest, DuplicatedAndOverlappingEventsApplyOnce) {
  EXPECT_EQ(Apply(0, Added(1, 0, 4)).next_event, 5u);
  KvEvents removal{.first = 5, .events = {{Id(0), true}}};
  EXPECT_EQ(Apply(0, removal).next_event, 6u);
  EXPECT_EQ(Apply(0, Added(1, 0, 4)).next_event, 6u);  // late: must not bring block 0 back
  EXPECT_EQ(index_.NodeBlocks(0), 3u);
  KvEvents overlap{.first = 5, .events = {{Id(0), true}, {Id(9), false}}};
  EXPECT_EQ(Apply(0, overlap).next_event, 7u);
  EXPECT_EQ(index_.NodeBlocks(0), 4u);
}

TEST_F(PrefixIndexTest, AGapIsAskedForAndASecondOneNeedsASnapshot) {
  Apply(0, Added(1, 0, 4));
  PrefixIndex::Answer answer = Apply(0, Added(9, 8, 10));
  EXPECT_EQ(answer.next_event, 5u);
  EXPECT_FALSE(answer.want_snapshot);
  EXPECT_EQ(index_.NodeBlocks(0), 4u);
  answer = Apply(0, Added(11, 10, 12));
  EXPECT_TRUE(answer.want_snapshot);
  EXPECT_EQ(index_.stats().gaps, 2u);
  EXPECT_EQ(Apply(0, Added(5, 4, 12)).next_event, 13u);
}

TEST_F(PrefixIndexTest, ASnapshotReplacesTheCopyWhenItsLastChunkArrives) {
  Apply(0, Added(1, 0, 4));
  PrefixIndex::Answer answer = Chunk(0, {.as_of = 20, .chunk = 0, .last = false, .ids = Ids(2, 6)});
  EXPECT_TRUE(answer.want_snapshot);
  EXPECT_EQ(answer.next_event, 21u);
  EXPECT_EQ(index_.NodeBlocks(0), 4u);
  EXPECT_EQ(index_.LongestPrefix(Ids(0, 9)).at(0).blocks, 4u);
  answer = Chunk(0, {.as_of = 20, .chunk = 1, .last = true, .ids = Ids(6, 9)});
  EXPECT_FALSE(answer.want_snapshot);
  EXPECT_EQ(answer.next_event, 21u);
  EXPECT_THAT(index_.LongestPrefix(Ids(0, 9)), IsEmpty());
  EXPECT_EQ(index_.LongestPrefix(Ids(2, 9)).at(0).blocks, 7u);
}

TEST_F(PrefixIndexTest, AMissingChunkStartsTheSnapshotAgainAndAnOldOneIsIgnored) {
  Chunk(0, {.as_of = 20, .chunk = 0, .last = false, .ids = Ids(0, 4)});
  PrefixIndex::Answer answer = Chunk(0, {.as_of = 20, .chunk = 2, .last = true, .ids = Ids(8, 9)});
  EXPECT_TRUE(answer.want_snapshot);
  EXPECT_EQ(answer.next_event, 1u);
  Chunk(0, {.as_of = 21, .chunk = 0, .last = true, .ids = Ids(0, 4)});
  EXPECT_EQ(index_.NodeBlocks(0), 4u);
  Chunk(0, {.as_of = 20, .chunk = 0, .last = true, .ids = {}});
  EXPECT_EQ(index_.NodeBlocks(0), 4u);
}

TEST_F(PrefixIndexTest, ADroppedNodeLeavesNothingBehindAndBeginsAtEventOne) {
  Apply(0, Added(1, 0, 4));
  Apply(1, Added(1, 0, 2));
  EXPECT_EQ(index_.Drop(0), 4u);
  EXPECT_EQ(index_.stats().entries, 2u);
  EXPECT_EQ(index_.stats().blocks, 2u);
  EXPECT_EQ(Apply(0, Added(5, 4, 6)).next_event, 1u);
}

TEST_F(PrefixIndexTest, BlocksBeyondTheLimitAreLeftOutAndNumberingGoesOn) {
  PrefixIndex small({.blocks_per_node_max = 3, .entries_max = 5});
  const KvEvents events = Added(1, 0, 10);
  EXPECT_EQ(small.Apply(0, &events, nullptr).next_event, 11u);
  EXPECT_EQ(small.NodeBlocks(0), 3u);
  EXPECT_EQ(small.stats().over_limit, 7u);
  small.Apply(1, &events, nullptr);
  EXPECT_EQ(small.stats().entries, 5u);
  const kv::SnapshotChunk chunk{.as_of = 30, .chunk = 0, .last = true, .ids = Ids(0, 10)};
  EXPECT_EQ(small.Apply(0, nullptr, &chunk).next_event, 31u);
  EXPECT_EQ(small.NodeBlocks(0), 3u);
}

// A node that restarts now and then and reports over a link that loses, doubles and reorders.
struct Producer {
  std::unique_ptr<kv::EventLog> log = std::make_unique<kv::EventLog>(/*window_events=*/40);
  std::unique_ptr<kv::EventReporter> reporter =
      std::make_unique<kv::EventReporter>(log.get(), /*events_max=*/6, /*chunk_blocks=*/5);

  // What one report carries, kept by value as a message is.
  struct Message {
    KvEvents events;
    std::optional<kv::SnapshotChunk> chunk;
  };
  Message Send() const {
    const kv::EventReporter::Part part = reporter->Prepare();
    Message message{.events = {part.events.first, part.events.events}};
    if (part.chunk != nullptr) message.chunk = *part.chunk;
    return message;
  }
  void Restart() { *this = Producer(); }
};

size_t NaiveLeading(const kv::EventLog& log, std::span<const kv::BlockId> ids) {
  size_t blocks = 0;
  while (blocks < ids.size() && log.Lists(ids[blocks])) ++blocks;
  return blocks;
}

class Story {
 public:
  explicit Story(uint64_t seed) : random_(seed) {}

  void Step() {
    const Slot slot = static_cast<Slot>(random_.Below(kNodes));
    Producer& node = nodes_[slot];
    if (random_.Chance(0.005)) {
      node.Restart();
      index_.Drop(slot);
      in_flight_[slot].clear();  // membership refuses what an old incarnation sent
    }
    if (random_.Chance(0.02)) index_.Drop(slot);  // judged dead, though it lives on
    for (uint64_t i = random_.Below(8); i > 0; --i) {
      const kv::BlockId id = Id(random_.Below(kUniverse));
      random_.Chance(0.6) ? node.log->Added(id) : node.log->Removed(id);
    }
    std::deque<Producer::Message>& link = in_flight_[slot];
    link.push_back(node.Send());
    if (random_.Chance(0.2)) link.push_back(link.back());
    if (random_.Chance(0.2)) std::swap(link.front(), link.back());
    if (random_.Chance(0.4)) return;  // delayed
    const Producer::Message message = link.front();
    link.pop_front();
    if (link.size() > 3) link.pop_front();  // lost
    const PrefixIndex::Answer answer = Deliver(slot, message);
    const bool answers_latest = link.empty();
    if (answers_latest && !random_.Chance(0.2)) Acknowledge(node, answer);
  }

  void Settle() {
    for (Slot slot = 0; slot < kNodes; ++slot) {
      in_flight_[slot].clear();
      for (int i = 0; i < 100 && (i == 0 || nodes_[slot].reporter->behind()); ++i) {
        Acknowledge(nodes_[slot], Deliver(slot, nodes_[slot].Send()));
      }
    }
  }

  void CheckAgainstTruth() {
    size_t entries = 0;
    for (Slot slot = 0; slot < kNodes; ++slot) {
      EXPECT_EQ(index_.NodeBlocks(slot), nodes_[slot].log->listed());
      entries += nodes_[slot].log->listed();
    }
    EXPECT_EQ(index_.stats().entries, entries);
    for (uint64_t from = 0; from < kUniverse; ++from) {
      const std::vector<kv::BlockId> ids = Ids(from, kUniverse);
      std::vector<PrefixIndex::NodePrefix> expected;
      for (Slot slot = 0; slot < kNodes; ++slot) {
        const size_t blocks = NaiveLeading(*nodes_[slot].log, ids);
        if (blocks > 0) expected.push_back({slot, blocks});
      }
      EXPECT_EQ(index_.LongestPrefix(ids), expected);
    }
  }
  const PrefixIndex& index() const { return index_; }

 private:
  static constexpr Slot kNodes = 4;
  static constexpr uint64_t kUniverse = 30;

  PrefixIndex::Answer Deliver(Slot slot, const Producer::Message& message) {
    return index_.Apply(slot, &message.events, message.chunk ? &*message.chunk : nullptr);
  }
  static void Acknowledge(Producer& node, const PrefixIndex::Answer& answer) {
    node.reporter->OnAnswer({.coordinator_incarnation = 1,
                             .next_event = answer.next_event,
                             .want_snapshot = answer.want_snapshot});
  }

  SplitMix64 random_;
  PrefixIndex index_{PrefixIndexOptions{}};
  std::array<Producer, kNodes> nodes_;
  std::array<std::deque<Producer::Message>, kNodes> in_flight_;
};

TEST(PrefixIndexProperty, ConvergesToWhatNodesListThroughLossDuplicationReorderingAndRestarts) {
  uint64_t gaps = 0, snapshots = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(seed);
    Story story(seed);
    for (int round = 0; round < 3; ++round) {
      for (int step = 0; step < 400; ++step) story.Step();
      story.Settle();
      story.CheckAgainstTruth();
      if (::testing::Test::HasFailure()) return;
    }
    gaps += story.index().stats().gaps;
    snapshots += story.index().stats().snapshots;
  }
  EXPECT_GT(gaps, 100u);
  EXPECT_GT(snapshots, 100u);
}

}  // namespace
}  // namespace reprise::coordinator
