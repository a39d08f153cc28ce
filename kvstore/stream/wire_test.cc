#include "kvstore/stream/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "common/bytes.h"
#include "common/limits.h"

namespace reprise::kv::wire {
namespace {

BlockId Id(uint8_t first) {
  BlockId id;
  id.bytes.fill(first);
  return id;
}

std::vector<Envelope> OneOfEach() {
  BlockOffer offer{.source = {{"node", 5}, "10.0.0.1", 1234},
                   .fence = {{"request", {1, 2}}, 3},
                   .parent = Id(4),
                   .first_position = 128,
                   .tenant_salt = "salt",
                   .prompt_end = 7,
                   .tokens = {0, 1, 2'000'000'000},
                   .branch = 2,
                   .group = RankGroup{{.pipeline = 1, .tensor = 2, .context = 1},
                                      {{{"node", 5}, "10.0.0.1", 1234}, {{"n", 6}, "::1", 7}}}};
  const TailEntry entry{.request = {"request", {1, 2}},
                        .branch = 3,
                        .tenant_salt = "salt",
                        .prompt_end = 7,
                        .parent = Id(5),
                        .first_position = 130,
                        .tokens = {7, 8},
                        .checksum = 99};
  return {
      {0, Hello{.self = {"a", 1}, .wanted = {"b", 2}, .format = "a format"}},
      {1, Welcome{.self = {"b", 2}, .format = "a format"}},
      {2, Fetch{.fetch_id = 7,
                .request = {"request", {8, 9}},
                .leg = 1,
                .subscribe = true,
                .timeout_ms = 1000,
                .part = {{1, 3}, {2, 4}},
                .items = {{Id(1), 0}, {Id(2), 64}}}},
      {3, ItemsMissing{.fetch_id = 7, .items = {0, 5}}},
      {4, FetchDone{7, absl::StatusCode::kFailedPrecondition, "no"}},
      {5, Cancel{7}},
      {6, CancelAck{7}},
      {7, Offer{offer}},
      {8, Refusal{absl::StatusCode::kFailedPrecondition, "not me"}},
      {9, Append{.append_id = 3, .entries = {entry, entry}, .rows = "rows"}},
      {10, Held{.answered = 3, .entries = {{{"r", {1, 2}}, 1, 130, absl::StatusCode::kAborted}}}},
      {11, Release{{"r", {1, 2}}}},
      {12, QueryTails{.query_id = 4, .request = {"r", {1, 2}}}},
      {13, TailStates{.query_id = 4,
                      .code = absl::StatusCode::kAborted,
                      .message = "fenced",
                      .states = {{.branch = 1,
                                  .blocks_held = 2,
                                  .parent = Id(6),
                                  .first_position = 128,
                                  .tokens = {1, 2}}}}},
  };
}

TEST(WireTest, EveryMessageSurvivesTheRoundTrip) {
  const std::vector<Envelope> all = OneOfEach();
  ASSERT_EQ(all.size(), std::variant_size_v<Message>);
  for (const Envelope& sent : all) {
    const auto received = Decode(AsBytes(Encode(sent)));
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_EQ(received->receiver_incarnation, sent.receiver_incarnation);
    EXPECT_TRUE(received->message == sent.message) << sent.message.index();
  }
}

TEST(WireTest, EveryPrefixAndEveryExtensionIsRefused) {
  for (const Envelope& sent : OneOfEach()) {
    const std::string bytes = Encode(sent);
    for (size_t n = 0; n < bytes.size(); ++n) {
      EXPECT_FALSE(Decode(AsBytes(bytes.substr(0, n))).ok()) << sent.message.index() << ": " << n;
    }
    EXPECT_FALSE(Decode(AsBytes(bytes + '\0')).ok()) << sent.message.index();
  }
}

TEST(WireTest, EveryFlippedBitIsRefusedOrReadAsWritten) {
  for (const Envelope& sent : OneOfEach()) {
    const std::string bytes = Encode(sent);
    for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      std::string mangled = bytes;
      mangled[bit / 8] = static_cast<char>(mangled[bit / 8] ^ (1 << (bit % 8)));
      const auto read = Decode(AsBytes(mangled));
      if (read.ok()) EXPECT_EQ(Encode(*read), mangled);
    }
  }
}

std::string FetchWithItems(uint32_t claimed) {
  std::string bytes = Encode(
      {1, Fetch{.fetch_id = 1, .request = {}, .part = {{0, 1}, {0, 1}}, .items = {{Id(1), 0}}}});
  const size_t count_at = bytes.size() - (16 + 8) - 4;
  for (int i = 0; i < 4; ++i) bytes[count_at + i] = static_cast<char>(claimed >> (8 * i));
  return bytes;
}

TEST(WireTest, CountsAreComparedWithWhatIsThere) {
  EXPECT_TRUE(Decode(AsBytes(FetchWithItems(1))).ok());
  EXPECT_FALSE(Decode(AsBytes(FetchWithItems(0))).ok());
  EXPECT_FALSE(Decode(AsBytes(FetchWithItems(2))).ok());
  EXPECT_FALSE(Decode(AsBytes(FetchWithItems(UINT32_MAX))).ok());
}

TEST(WireTest, LimitsHold) {
  Fetch fetch{.fetch_id = 1, .request = {}, .part = {{0, 1}, {0, 1}}};
  fetch.items.resize(limits::kFetchItemsMax);
  EXPECT_TRUE(Decode(AsBytes(Encode({1, fetch}))).ok());
  fetch.items.resize(limits::kFetchItemsMax + 1);
  EXPECT_FALSE(Decode(AsBytes(Encode({1, fetch}))).ok());
  fetch.items = {{Id(1), -1}};
  EXPECT_FALSE(Decode(AsBytes(Encode({1, fetch}))).ok());
  fetch.items = {{Id(1), 0}};
  fetch.request.id = std::string(limits::kRequestIdBytesMax + 1, 'r');
  EXPECT_FALSE(Decode(AsBytes(Encode({1, fetch}))).ok());
}

TEST(WireTest, LimitsOfPartsAndGroupsHold) {
  const auto part = [](const KvPart& wanted) {
    const Fetch fetch{.fetch_id = 1, .request = {}, .part = wanted, .items = {{Id(1), 0}}};
    return Decode(AsBytes(Encode({1, fetch}))).ok();
  };
  EXPECT_TRUE(part({{0, limits::kLayersMax}, {0, 1 << 20}}));
  EXPECT_FALSE(part({{0, limits::kLayersMax + 1}, {0, 1}}));
  EXPECT_FALSE(part({{0, 1}, {0, (1 << 20) + 1}}));
  EXPECT_FALSE(part({{1, 1}, {0, 1}}));
  EXPECT_FALSE(part({{0, 1}, {3, 2}}));
  const auto group = [](const GroupSplit& split, size_t ranks) {
    BlockOffer offer{.source = {{"n", 1}, "h", 1}, .fence = {}, .parent = {}, .tenant_salt = {}};
    offer.group = RankGroup{split, std::vector<PeerAddress>(ranks)};
    return Decode(AsBytes(Encode({1, Offer{offer}}))).ok();
  };
  EXPECT_TRUE(group({.pipeline = 4, .tensor = 4, .context = 4}, limits::kGroupRanksMax));
  EXPECT_FALSE(group({.pipeline = 5, .tensor = 13}, 65));
  EXPECT_FALSE(group({.pipeline = 2}, 1));
  EXPECT_FALSE(group({.tensor = 0}, 0));
  EXPECT_FALSE(group({.stripe_leaves = 0}, 1));
  EXPECT_FALSE(group({.pipeline = 1u << 31, .tensor = 2}, 0));
}

TEST(WireTest, LimitsOfAppendsHold) {
  const TailEntry entry{.request = {"r", {1, 1}}, .parent = {}, .tokens = {1}};
  const auto decodes = [](const Message& message) {
    return Decode(AsBytes(Encode({1, message}))).ok();
  };
  const auto with = [&](auto change) {
    TailEntry changed = entry;
    change(changed);
    return Append{.append_id = 1, .entries = {changed}, .rows = "x"};
  };
  EXPECT_TRUE(decodes(with([](TailEntry&) {})));
  EXPECT_FALSE(decodes(with([](TailEntry& e) { e.request.id = ""; })));
  EXPECT_FALSE(decodes(with([](TailEntry& e) { e.branch = limits::kBranchesMax; })));
  EXPECT_FALSE(decodes(with([](TailEntry& e) { e.first_position = -1; })));
  EXPECT_FALSE(decodes(with([](TailEntry& e) { e.tokens.clear(); })));
  EXPECT_FALSE(decodes(with([](TailEntry& e) { e.tokens[0] = -1; })));
  EXPECT_FALSE(decodes(with([](TailEntry& e) { e.tokens.resize(limits::kBlockTokensMax + 1); })));
  Append append{.append_id = 1, .entries = {entry}, .rows = {}};
  EXPECT_FALSE(decodes(append)) << "no rows";
  append.bulk_bytes = limits::kAppendBytesMax;
  EXPECT_TRUE(decodes(append));
  append.rows = "x";
  EXPECT_FALSE(decodes(append)) << "rows twice";
  append.rows.clear();
  append.bulk_bytes = limits::kAppendBytesMax + 1;
  EXPECT_FALSE(decodes(append));
  append = {.append_id = 1, .entries = {}, .rows = std::string(limits::kAppendInlineBytesMax, 'x')};
  EXPECT_FALSE(decodes(append)) << "no entries";
  append.entries.assign(limits::kAppendEntriesMax, entry);
  EXPECT_TRUE(decodes(append));
  append.entries.push_back(entry);
  EXPECT_FALSE(decodes(append));
  append.entries.pop_back();
  append.rows += 'x';
  EXPECT_FALSE(decodes(append));
  Held held{.answered = 1, .entries = {{{"r", {1, 1}}, 0, -1}}};
  EXPECT_FALSE(decodes(held));
  held.entries[0].rows = 0;
  EXPECT_TRUE(decodes(held));
  held.entries.resize(limits::kHeldEntriesMax + 1);
  EXPECT_FALSE(decodes(held));
}

TEST(WireTest, LongErrorTextsAreCut) {
  const Refusal refusal{absl::StatusCode::kInternal, std::string(5000, 'x')};
  const auto read = Decode(AsBytes(Encode({1, refusal})));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(std::get<Refusal>(read->message).message.size(), limits::kStreamErrorBytesMax);
}

TEST(WireTest, UnknownTypesAndCodesAreRefused) {
  std::string bytes = Encode({1, Cancel{1}});
  bytes[0] = static_cast<char>(std::variant_size_v<Message>);
  EXPECT_FALSE(Decode(AsBytes(bytes)).ok());
  bytes = Encode({1, FetchDone{1, absl::StatusCode::kOk, ""}});
  bytes[1 + 8 + 8] = 17;
  EXPECT_FALSE(Decode(AsBytes(bytes)).ok());
}

TEST(WireTest, BulkHeadersSurviveTheRoundTrip) {
  const Bulk bulk{.fetch_id = 1,
                  .receiver_incarnation = UINT64_MAX,
                  .item = 3,
                  .first_layer = 4,
                  .layers = 5,
                  .attempt_n = 6,
                  .checksum = 7};
  EXPECT_TRUE(DecodeBulk(EncodeBulk(bulk)) == bulk);
}

TEST(WireTest, AppendBulkHeadersSurviveTheRoundTrip) {
  const AppendBulk bulk{.append_id = 5, .receiver_incarnation = UINT64_MAX};
  EXPECT_TRUE(DecodeAppendBulk(EncodeAppendBulk(bulk)) == bulk);
}

TEST(WireTest, TheRunChecksumCoversEverySegmentAndTheHeader) {
  const Bulk bulk{.fetch_id = 1, .receiver_incarnation = 2, .item = 3, .first_layer = 4};
  const std::vector<uint32_t> segments = {10, 20, 30};
  const Range heads{1, 3};
  const uint32_t sum = RunChecksum(bulk, heads, segments);
  EXPECT_NE(RunChecksum(bulk, {0, 2}, segments), sum) << "heads of another range";
  for (size_t i = 0; i < segments.size(); ++i) {
    for (int bit = 0; bit < 32; ++bit) {
      std::vector<uint32_t> other = segments;
      other[i] ^= uint32_t{1} << bit;
      EXPECT_NE(RunChecksum(bulk, heads, other), sum);
    }
  }
  EXPECT_NE(RunChecksum(bulk, heads, std::vector<uint32_t>{20, 10, 30}), sum);
  Bulk other = bulk;
  other.item = 2;
  EXPECT_NE(RunChecksum(other, heads, segments), sum);
}

}  // namespace
}  // namespace reprise::kv::wire
