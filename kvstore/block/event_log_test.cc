#include "kvstore/block/event_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "common/random.h"

namespace reprise::kv {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

BlockId Id(uint64_t n) {
  BlockId id;
  for (int i = 0; i < 8; ++i)
    id.bytes[static_cast<size_t>(i)] = static_cast<uint8_t>(n >> (56 - 8 * i));
  return id;
}

TEST(EventLog, NumbersChangesFromOneAndIgnoresWhatChangesNothing) {
  EventLog log;
  EXPECT_EQ(log.last(), 0u);
  EXPECT_TRUE(log.Added(Id(7)));
  EXPECT_FALSE(log.Added(Id(7)));
  EXPECT_FALSE(log.Removed(Id(8)));
  EXPECT_TRUE(log.Removed(Id(7)));
  EXPECT_EQ(log.last(), 2u);
  const EventBatch batch = log.Next(1, 10);
  EXPECT_EQ(batch.first, 1u);
  EXPECT_THAT(batch.events, ElementsAre(KvEvent{Id(7), false}, KvEvent{Id(7), true}));
  EXPECT_EQ(log.listed(), 0u);
}

TEST(EventLog, SendsAtMostWhatWasAskedAndNothingWhenTheReceiverHasAll) {
  EventLog log;
  for (uint64_t n = 1; n <= 5; ++n) log.Added(Id(n));
  EXPECT_THAT(log.Next(2, 3).events, SizeIs(3));
  EXPECT_EQ(log.Next(2, 3).first, 2u);
  const EventBatch none = log.Next(6, 3);
  EXPECT_THAT(none.events, IsEmpty());
  EXPECT_EQ(none.first, 6u);
  EXPECT_FALSE(none.snapshot_needed);
}

TEST(EventLog, AsksForASnapshotOutsideTheWindow) {
  EventLog log(/*window_events=*/4);
  for (uint64_t n = 1; n <= 10; ++n) log.Added(Id(n));
  EXPECT_TRUE(log.Next(6, 10).snapshot_needed);
  EXPECT_FALSE(log.Next(7, 10).snapshot_needed);
  EXPECT_TRUE(log.Next(0, 10).snapshot_needed);
  EXPECT_TRUE(log.Next(12, 10).snapshot_needed);  // an event that never was
}

TEST(EventReporter, RepeatsAChunkUnchangedUntilItIsAcknowledged) {
  EventLog log(/*window_events=*/2);
  for (uint64_t n = 10; n < 16; ++n) log.Added(Id(n));
  EventReporter reporter(&log, /*events_max=*/8, /*chunk_blocks=*/4);
  const SnapshotChunk sent = *reporter.Prepare().chunk;
  EXPECT_THAT(sent.ids, SizeIs(4));
  log.Added(Id(1));  // sorts before everything sent
  EXPECT_EQ(reporter.Prepare().chunk->ids, sent.ids);
  EXPECT_EQ(reporter.Prepare().chunk->as_of, 6u);
}

TEST(EventReporter, StartsAgainForAnotherCoordinator) {
  EventLog log(/*window_events=*/2);
  for (uint64_t n = 10; n < 20; ++n) log.Added(Id(n));
  EventReporter reporter(&log, 8, 4);
  reporter.Prepare();
  reporter.OnAnswer({.coordinator_incarnation = 1, .next_event = 11, .want_snapshot = true});
  reporter.Prepare();
  reporter.OnAnswer({.coordinator_incarnation = 1, .next_event = 11, .want_snapshot = true});
  EXPECT_EQ(reporter.Prepare().chunk->chunk, 1u);
  reporter.OnAnswer({.coordinator_incarnation = 2, .next_event = 11, .want_snapshot = true});
  EXPECT_EQ(reporter.Prepare().chunk->chunk, 0u);
}

// A receiver that follows the rules of cluster.proto by the simplest means.
class NaiveReceiver {
 public:
  EventReporter::Answer Take(const EventReporter::Part& part) {
    if (part.chunk != nullptr) {
      const SnapshotChunk& chunk = *part.chunk;
      if (chunk.chunk == 0 && chunk.as_of + 1 != next_)
        collecting_.emplace(), as_of_ = chunk.as_of, chunks_ = 0;
      if (collecting_ && chunk.as_of == as_of_ && chunk.chunk == chunks_) {
        collecting_->insert(chunk.ids.begin(), chunk.ids.end());
        ++chunks_;
        if (chunk.last) {
          listed = std::move(*collecting_);
          collecting_.reset();
          next_ = as_of_ + 1;
        }
      }
    }
    uint64_t number = part.events.first;
    for (const KvEvent& event : part.events.events) {
      if (number == next_) {
        event.removed ? (void)listed.erase(event.id) : (void)listed.insert(event.id);
        ++next_;
      }
      ++number;
    }
    return {.coordinator_incarnation = 9,
            .next_event = collecting_ ? as_of_ + 1 : next_,
            .want_snapshot = collecting_.has_value()};
  }
  std::set<BlockId> listed;

 private:
  uint64_t next_ = 1;
  std::optional<std::set<BlockId>> collecting_;
  uint64_t as_of_ = 0;
  uint32_t chunks_ = 0;
};

TEST(EventReporter, AReceiverConvergesWhileTheListChangesAndReportsAndAnswersAreLost) {
  int snapshots = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    SplitMix64 random(seed);
    EventLog log(/*window_events=*/30);
    EventReporter reporter(&log, /*events_max=*/5, /*chunk_blocks=*/4);
    NaiveReceiver receiver;
    for (int step = 0; step < 300; ++step) {
      const uint64_t changes = random.Below(6);
      for (uint64_t i = 0; i < changes; ++i) {
        const BlockId id = Id(random.Below(24));
        random.Chance(0.5) ? log.Added(id) : log.Removed(id);
      }
      const EventReporter::Part part = reporter.Prepare();
      const bool outage = step % 100 >= 60;        // long enough to leave the window
      if (outage || random.Chance(0.3)) continue;  // the report is lost
      if (part.chunk != nullptr && part.chunk->last) ++snapshots;
      const EventReporter::Answer answer = receiver.Take(part);
      if (random.Chance(0.2)) continue;  // its answer is lost
      reporter.OnAnswer(answer);
    }
    for (int i = 0; i < 100 && (i == 0 || reporter.behind()); ++i) {
      reporter.OnAnswer(receiver.Take(reporter.Prepare()));
    }
    EXPECT_FALSE(reporter.behind());
    const std::vector<BlockId> all = log.ListedAfter(std::nullopt, 1000);
    EXPECT_EQ(receiver.listed, std::set<BlockId>(all.begin(), all.end()));
  }
  EXPECT_GT(snapshots, 100);  // the story was told
}

}  // namespace
}  // namespace reprise::kv
