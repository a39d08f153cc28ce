// Any group's blocks read by any other: every pair of splits that fits four ranks a side, bit for
// bit, with no byte moved twice; then what goes wrong. Over the fake network, in one thread.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "kvstore/block/checksum.h"
#include "kvstore/stream/converted_in.h"
#include "kvstore/stream/relayout_test_groups.h"
#include "kvstore/stream/stream_over.h"
#include "kvstore/transport/fake_transport.h"

namespace reprise::kv {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

MATCHER(IsOk, "") { return arg.ok(); }

constexpr uint32_t kRanks = 4;
constexpr uint64_t kFrom = 100, kTo = 200;  // incarnations

struct Shape {
  const char* name;
  std::vector<RowField> fields;
  uint32_t layers = 4;
};

KvFormat FormatOf(const Shape& shape, uint32_t block_tokens = 64) {
  KvFormat format;
  format.fields = shape.fields;
  format.layers = shape.layers;
  format.block_tokens = block_tokens;
  return format;
}

const Shape kHeads{"Heads", {{"k", 4, 2, true}, {"v", 4, 1, false}}};
const Shape kFewHeads{"FewHeads", {{"k", 2, 2, true}, {"v", 2, 1, false}}};
const Shape kLatents{"Latents", {{"c_kv", 1, 3, false}, {"k_rope", 1, 1, true}}, 5};

// Every stripe of four context ranks, there and back, and some more.
std::vector<int32_t> Tokens() { return VerifiableTokens(9 * 512 + 100); }

class Network {
 public:
  MakeStream Maker() {
    return [this](const StreamOptions& options, SegmentSource* source) {
      std::vector<std::unique_ptr<Transport>> transports;
      transports.push_back(network.NewTransport());
      return StreamOver(std::move(transports), options, source);
    };
  }
  // Every rank of `to` reads what it owns.
  void Read(TestGroup& from, TestGroup& to, const KvFormat& format, uint32_t ranks) {
    for (uint32_t rank = 0; rank < ranks; ++rank) {
      StreamInSpec spec = to.SpecOf(rank, from.address());
      // Few tokens and many context ranks: some own nothing.
      if (spec.items.empty()) continue;
      const auto started =
          StreamIn::Start(&to.stream(rank), format, spec, to.ListenerOf(rank, spec));
      ASSERT_TRUE(started.ok()) << started.status();
    }
    network.RunUntilIdle();
  }
  FakeNetwork network;
};

class RelayoutTest : public testing::TestWithParam<Shape> {};

TEST_P(RelayoutTest, EverySplitReadsEveryOtherToTheBitAndMovesNoByteTwice) {
  const KvFormat format = FormatOf(GetParam());
  size_t cells = 0;
  for (const GroupSplit& from_split : SplitsOf(kRanks)) {
    for (const GroupSplit& to_split : SplitsOf(kRanks)) {
      SCOPED_TRACE(NameOf(from_split) + " -> " + NameOf(to_split));
      Network net;
      TestGroup from("from", format, from_split, Tokens());
      TestGroup to("to", format, to_split, Tokens());
      from.Start(net.Maker(), kFrom);
      to.Start(net.Maker(), kTo);
      from.MakeBlocks();
      net.Read(from, to, format, to_split.ranks());
      for (uint32_t rank = 0; rank < to_split.ranks(); ++rank) {
        ASSERT_FALSE(to.statuses(rank).empty()) << "rank " << rank << " has not ended";
        EXPECT_THAT(to.statuses(rank), Each(IsOk())) << "rank " << rank;
        EXPECT_EQ(to.WrongBlocks(rank), 0u) << "rank " << rank;
      }
      EXPECT_EQ(from.bytes_sent(), from.canonical_bytes());
      EXPECT_EQ(to.bytes_sent(), to.handed_on_bytes());
      ++cells;
      if (HasFailure()) return;
    }
  }
  EXPECT_EQ(cells, 100u);
}

INSTANTIATE_TEST_SUITE_P(Shapes, RelayoutTest, testing::Values(kHeads, kFewHeads, kLatents),
                         [](const auto& info) { return info.param.name; });

// ---- What a group holds goes through a store and to another group. ----

TEST(RelayoutStoreTest, AStoreOfWholeBlocksServesEveryGroupUnderTheSumsOfAnother) {
  const KvFormat format = FormatOf(kHeads);
  Network net;
  TestGroup from("from", format, {.pipeline = 2, .tensor = 2}, Tokens());
  TestGroup store("store", format, {}, Tokens());
  TestGroup to("to", format, {.tensor = 4}, Tokens());
  from.Start(net.Maker(), kFrom);
  store.Start(net.Maker(), 150);
  to.Start(net.Maker(), kTo);
  from.MakeBlocks();
  net.Read(from, store, format, 1);
  EXPECT_EQ(store.WrongBlocks(0), 0u);
  net.Read(store, to, format, 4);
  for (uint32_t rank = 0; rank < 4; ++rank) {
    EXPECT_THAT(to.statuses(rank), Each(IsOk()));
    EXPECT_EQ(to.WrongBlocks(rank), 0u);
  }
  EXPECT_EQ(store.bytes_sent(), store.canonical_bytes());
}

TEST(RelayoutStoreTest, BytesThatChangeInAStoreAreRefusedInWhateverPart) {
  const KvFormat format = FormatOf(kHeads);
  for (const GroupSplit& to_split : SplitsOf(kRanks)) {
    SCOPED_TRACE(NameOf(to_split));
    Network net;
    TestGroup from("from", format, {.tensor = 2}, VerifiableTokens(64));
    TestGroup store("store", format, {}, VerifiableTokens(64));
    TestGroup to("to", format, to_split, VerifiableTokens(64));
    from.Start(net.Maker(), kFrom);
    store.Start(net.Maker(), 150);
    to.Start(net.Maker(), kTo);
    from.MakeBlocks();
    StreamInSpec spec = store.SpecOf(0, from.address());
    uint8_t* const block = spec.items[0].destination;
    ASSERT_TRUE(StreamIn::Start(&store.stream(0), format, spec, store.ListenerOf(0, spec)).ok());
    net.network.RunUntilIdle();
    // In the third head of every layer's v.
    for (uint32_t layer = 0; layer < format.layers; ++layer) {
      const size_t v = size_t{4} * 2 * 64 * 2;
      block[layer * format.segment_bytes() + v + size_t{2} * 1 * 64 * 2 + 5] ^= 1;
    }
    net.Read(store, to, format, to_split.ranks());
    for (uint32_t rank = 0; rank < to_split.ranks(); ++rank) {
      if (!to.Owns(rank, 0)) continue;
      ASSERT_EQ(to.statuses(rank).size(), 1u);
      EXPECT_FALSE(to.statuses(rank)[0].ok()) << "rank " << rank;
    }
  }
}

// ---- Failures. ----

class TwoToFourTest : public testing::Test {
 protected:
  TwoToFourTest() {
    from_.Start(net_.Maker(), kFrom);
    to_.Start(net_.Maker(), kTo);
    from_.MakeBlocks();
  }
  const KvFormat format_ = FormatOf(kHeads);
  Network net_;
  TestGroup from_{"from", format_, {.tensor = 2}, VerifiableTokens(128)};
  TestGroup to_{"to", format_, {.pipeline = 2, .tensor = 1}, VerifiableTokens(128)};
};

TEST_F(TwoToFourTest, ADamagedPartIsDataLossAndTheOtherBlocksArrive) {
  net_.network.CorruptBulk(1);
  net_.Read(from_, to_, format_, 1);
  const auto& statuses = to_.statuses(0);
  ASSERT_EQ(statuses.size(), 2u);
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kDataLoss) << statuses[0];
  EXPECT_TRUE(statuses[1].ok()) << statuses[1];
  EXPECT_EQ(to_.WrongBlocks(0), 1u);
}

TEST_F(TwoToFourTest, ADeadRankOfTheSourceEndsWhatIsOfNoUseWithoutIt) {
  TestGroup pending("pending", format_, {.tensor = 2}, VerifiableTokens(128));
  pending.Start(net_.Maker(), 150);
  pending.SpecOf(0, pending.address());  // its blocks are on their way to it, for ever
  StreamInSpec spec = to_.SpecOf(0, pending.address());
  spec.subscribe = true;
  net_.network.Freeze(pending.stream(1).address().port);
  ASSERT_TRUE(StreamIn::Start(&to_.stream(0), format_, spec, to_.ListenerOf(0, spec)).ok());
  net_.network.Advance(5 * kSecond);  // of a minute
  ASSERT_EQ(to_.statuses(0).size(), 2u);
  for (const Status& status : to_.statuses(0)) EXPECT_FALSE(status.ok());
}

TEST_F(TwoToFourTest, CancelEndsEveryLeg) {
  StreamInSpec spec = to_.SpecOf(0, from_.address());
  spec.subscribe = true;
  net_.network.HoldBulk(true);
  const auto started = StreamIn::Start(&to_.stream(0), format_, spec, to_.ListenerOf(0, spec));
  ASSERT_TRUE(started.ok());
  net_.network.RunUntilIdle();
  EXPECT_TRUE(to_.statuses(0).empty());
  (*started)->Cancel();
  net_.network.RunUntilIdle();
  EXPECT_TRUE(to_.statuses(0).empty()) << "ended while something may be written";
  net_.network.ReleaseHeld();
  net_.network.RunUntilIdle();
  ASSERT_EQ(to_.statuses(0).size(), 2u);
  EXPECT_EQ(to_.statuses(0)[1].code(), absl::StatusCode::kCancelled);
}

TEST_F(TwoToFourTest, LayersComeInOrderUnderTheSumsOfTheOwnSegments) {
  class Recorder : public FetchListener {
   public:
    void OnLayer(size_t item, uint32_t layer, uint32_t checksum) override {
      layers[item].push_back(layer);
      checksums[item].push_back(checksum);
    }
    void OnDone(const std::vector<Status>& items) override { done = items; }
    std::map<size_t, std::vector<uint32_t>> layers, checksums;
    std::vector<Status> done;
  };
  const auto recorder = std::make_shared<Recorder>();
  const StreamInSpec spec = to_.SpecOf(1, from_.address());
  ASSERT_TRUE(StreamIn::Start(&to_.stream(1), format_, spec, recorder).ok());
  net_.network.RunUntilIdle();
  EXPECT_THAT(recorder->done, Each(IsOk()));
  const size_t bytes = FormatOfPart(format_, to_.PartOf(1)).segment_bytes();
  for (size_t item = 0; item < 2; ++item) {
    EXPECT_THAT(recorder->layers[item], testing::ElementsAre(2, 3));
    for (uint32_t i = 0; i < 2; ++i) {
      EXPECT_EQ(recorder->checksums[item][i],
                SegmentChecksum(spec.items[item].id, 2 + i, spec.items[item].first_position,
                                spec.items[item].destination + i * bytes, bytes));
    }
  }
}

TEST_F(TwoToFourTest, WhatDoesNotFitIsRefusedByName) {
  const auto refusal = [&](auto change, uint32_t rank = 0) {
    StreamInSpec spec = to_.SpecOf(rank, from_.address());
    change(spec);
    const auto planned = PlanStreamIn(format_, spec);
    return planned.ok() ? std::string() : std::string(planned.status().message());
  };
  EXPECT_EQ(refusal([](StreamInSpec&) {}), "");
  EXPECT_THAT(refusal([](StreamInSpec& s) { s.source.ranks.pop_back(); }), HasSubstr("2 ranks"));
  EXPECT_THAT(refusal([](StreamInSpec& s) { s.rank = 2; }), HasSubstr("rank 2 of 2"));
  EXPECT_THAT(refusal([](StreamInSpec& s) { s.items.clear(); }), HasSubstr("0 blocks"));
  EXPECT_THAT(refusal([](StreamInSpec& s) { s.own.split.tensor = 3; }), HasSubstr("3 tensor"));
  EXPECT_THAT(refusal([](StreamInSpec& s) {
                s.own.split = {.context = 2};
                s.items[0].first_position = 512;
              }),
              HasSubstr("belongs to context rank 1, this is 0"));
}

// ---- Other page sizes and codecs. ----

struct Conversion {
  const char* name;
  uint32_t from_block;
  uint32_t to_block;
  ElementCodec from;
  ElementCodec to;
};

class ConversionTest : public testing::TestWithParam<Conversion> {};

TEST_P(ConversionTest, EveryRowIsTheSameInTheOtherFormat) {
  const Conversion& conversion = GetParam();
  KvFormat source = FormatOf(kFewHeads, conversion.from_block);
  KvFormat own = FormatOf(kFewHeads, conversion.to_block);
  source.codec = conversion.from;
  own.codec = conversion.to;
  const std::vector<int32_t> tokens = VerifiableTokens(2 * 512 + 192);
  const std::vector<GroupSplit> splits = {
      {}, {.tensor = 2}, {.tensor = 4}, {.pipeline = 2, .context = 2}};
  for (const GroupSplit& from_split : splits) {
    for (const GroupSplit& to_split : splits) {
      SCOPED_TRACE(NameOf(from_split) + " -> " + NameOf(to_split));
      Network net;
      TestGroup from("from", source, from_split, tokens);
      TestGroup to("to", own, to_split, tokens);
      from.Start(net.Maker(), kFrom, true);
      to.Start(net.Maker(), kTo, true);
      from.MakeBlocks();
      for (uint32_t rank = 0; rank < to_split.ranks(); ++rank) {
        ConvertedInSpec spec{.read = to.SpecOf(rank, from.address()),
                             .own_format = own,
                             .tokens = tokens,
                             .tenant_salt = {}};
        spec.read.source_format = std::make_shared<KvFormat>(source);
        const auto started =
            StartConvertedIn(&to.stream(rank), spec, to.ListenerOf(rank, spec.read));
        ASSERT_TRUE(started.ok()) << started.status();
      }
      net.network.RunUntilIdle();
      for (uint32_t rank = 0; rank < to_split.ranks(); ++rank) {
        ASSERT_FALSE(to.statuses(rank).empty()) << "rank " << rank << " has not ended";
        EXPECT_THAT(to.statuses(rank), Each(IsOk())) << "rank " << rank;
        EXPECT_EQ(to.WrongBlocks(rank), 0u) << "rank " << rank;
      }
      EXPECT_EQ(from.bytes_sent(), from.canonical_bytes());
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, ConversionTest,
    testing::Values(Conversion{"Pages16To64", 16, 64, ElementCodec::kBF16, ElementCodec::kBF16},
                    Conversion{"Pages64To16", 64, 16, ElementCodec::kBF16, ElementCodec::kBF16},
                    Conversion{"F32ToBf16", 64, 64, ElementCodec::kF32, ElementCodec::kBF16},
                    Conversion{"Bf16ToF16", 64, 64, ElementCodec::kBF16, ElementCodec::kF16},
                    Conversion{"F16ToF32AndPages", 16, 64, ElementCodec::kF16, ElementCodec::kF32}),
    [](const auto& info) { return info.param.name; });

TEST(ConversionRefusedTest, RowsOfTheOpenTailHaveNoBlock) {
  const std::vector<int32_t> tokens = VerifiableTokens(96);
  const KvFormat source = FormatOf(kHeads, 64);
  const KvFormat own = FormatOf(kHeads, 16);
  Network net;
  TestGroup from("from", source, {}, tokens);
  TestGroup to("to", own, {}, tokens);
  from.Start(net.Maker(), kFrom);
  to.Start(net.Maker(), kTo);
  ConvertedInSpec spec{
      .read = to.SpecOf(0, from.address()), .own_format = own, .tokens = tokens, .tenant_salt = {}};
  spec.read.source_format = std::make_shared<KvFormat>(source);
  const auto started = StartConvertedIn(&to.stream(0), spec, to.ListenerOf(0, spec.read));
  EXPECT_EQ(started.status().code(), absl::StatusCode::kOutOfRange) << started.status();
}

// What a reader of format `own` hears from a source of another.
std::string Refusal(const KvFormat& source, const KvFormat& own, bool reader_converts,
                    bool source_converts) {
  Network net;
  const std::vector<int32_t> tokens = VerifiableTokens(64);
  TestGroup from("from", source, {}, tokens);
  TestGroup to("to", own, {}, tokens);
  from.Start(net.Maker(), kFrom, source_converts);
  to.Start(net.Maker(), kTo, reader_converts);
  from.MakeBlocks();
  StreamInSpec spec = to.SpecOf(0, from.address());
  spec.source_format = std::make_shared<KvFormat>(source);
  // Large enough for either format.
  std::vector<uint8_t> memory(source.block_bytes() + own.block_bytes());
  spec.items.resize(1);
  spec.items[0].id = from.ids()[0];
  spec.items[0].destination = memory.data();
  if (!StreamIn::Start(&to.stream(0), source, spec, to.ListenerOf(0, spec)).ok()) return "bad spec";
  net.network.RunUntilIdle();
  if (to.statuses(0).empty()) return "not ended";
  const Status& status = to.statuses(0)[0];
  if (!status.ok()) EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  return std::string(status.message());
}

TEST(ConversionRefusedTest, PairsWithoutARegisteredConversionAreRefusedWithBothFormatsNamed) {
  const KvFormat own = FormatOf(kHeads);
  EXPECT_EQ(Refusal(own, own, false, false), "");
  const auto refused = [&](auto change, bool reader, bool source) {
    KvFormat other = own;
    change(other);
    std::string text = Refusal(other, own, reader, source);
    EXPECT_THAT(text, HasSubstr(own.CanonicalText()));
    EXPECT_THAT(text, HasSubstr(other.CanonicalText()));
    return text;
  };
  const auto opaque = [](KvFormat& f) { f.codec = ElementCodec::kOpaque8; };
  EXPECT_THAT(refused(opaque, true, true), HasSubstr("no conversion from"));
  EXPECT_THAT(refused([](KvFormat& f) { f.layers = 5; }, true, true),
              HasSubstr("no conversion between them"));
  EXPECT_THAT(refused([](KvFormat& f) { f.fields[0].heads = 2; }, true, true),
              HasSubstr("no conversion between them"));
  EXPECT_THAT(refused([](KvFormat& f) { f.numerics_class[0] = 1; }, true, true),
              HasSubstr("no conversion between them"));
  // Both sides have to allow what is not to the bit.
  const auto f32 = [](KvFormat& f) { f.codec = ElementCodec::kF32; };
  EXPECT_THAT(refused(f32, true, false), HasSubstr("is not allowed here"));
  EXPECT_THAT(refused(f32, false, true), HasSubstr("is not allowed here"));
}

}  // namespace
}  // namespace reprise::kv
