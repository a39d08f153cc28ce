#include "worker/group/step_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/bytes.h"

namespace reprise::worker {
namespace {

using ::testing::HasSubstr;

StepOrder Example() {
  StepOrder order{.loads = {{3, 0}, {9, 1}}, .items = {}, .parts = {1, 1}};
  order.items.push_back({.tokens = {5, 6, 7},
                         .first_position = 40,
                         .prompt_end = 42,
                         .wants_output = true,
                         .pages = {3, 9, 4}});
  order.items.push_back({.tokens = {1}, .first_position = 0, .pages = {2}});
  return order;
}

TEST(StepOrder, WhatIsEncodedDecodes) {
  const std::string bytes = EncodeStep(Example());
  const auto order = DecodeStep(AsBytes(bytes));
  ASSERT_TRUE(order.ok()) << order.status();
  EXPECT_EQ(*order, Example());
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(DecodeStep(AsBytes(bytes).first(n)).ok()) << n;
  }
}

TEST(StepOrder, AHeaderSaysHowLongTheOrderIsAndTheStepMayTake) {
  const auto decode = [](const OrderHeader& header) {
    return DecodeHeader(AsBytes(EncodeHeader(header)));
  };
  const OrderHeader header{.bytes = 77, .step_ms = 600'000};
  EXPECT_EQ(EncodeHeader(header).size(), kOrderHeaderBytes);
  EXPECT_EQ(*decode(header), header);
  EXPECT_THAT(std::string(decode({.bytes = uint64_t{1} << 40, .step_ms = 1}).status().message()),
              HasSubstr("1099511627776 bytes, the limit is 67108864"));
  for (const uint64_t ms : {uint64_t{0}, UINT64_MAX}) {
    EXPECT_THAT(std::string(decode({.bytes = 1, .step_ms = ms}).status().message()),
                HasSubstr("ms, allowed are 1 to 3600000"));
  }
  EXPECT_FALSE(DecodeHeader(AsBytes(EncodeHeader(header)).first(15)).ok());
}

TEST(StepOrder, RefusesByName) {
  const auto refusal = [](auto&& damage) {
    StepOrder order = Example();
    damage(order);
    return std::string(DecodeStep(AsBytes(EncodeStep(order))).status().message());
  };
  EXPECT_THAT(refusal([](StepOrder& o) { o.items[0].tokens[1] = -2; }),
              HasSubstr("tokens holds -2"));
  EXPECT_THAT(refusal([](StepOrder& o) { o.items[1].first_position = -1; }),
              HasSubstr("first position is -1"));
  EXPECT_THAT(refusal([](StepOrder& o) { o.loads[0].page = -5; }), HasSubstr("load page is -5"));
  EXPECT_THAT(refusal([](StepOrder& o) { o.parts = {2, 0}; }), HasSubstr("a part is empty"));
  EXPECT_THAT(refusal([](StepOrder& o) { o.parts = {1}; }), HasSubstr("parts hold 1 items of 2"));
}

TEST(StepOrder, PartsHaveAboutAsManyRows) {
  const std::vector<int32_t> tokens(64);
  const auto items = [&](const std::vector<size_t>& rows) {
    std::vector<StepItem> items;
    for (const size_t n : rows) items.push_back({.tokens = std::span(tokens).first(n)});
    return items;
  };
  EXPECT_EQ(PartsOf(items({1, 1, 1, 1}), 2), (std::vector<uint32_t>{2, 2}));
  EXPECT_EQ(PartsOf(items({64, 1, 1}), 2), (std::vector<uint32_t>{1, 2}));
  EXPECT_EQ(PartsOf(items({1, 64, 1}), 2), (std::vector<uint32_t>{2, 1}));
  EXPECT_EQ(PartsOf(items({5}), 4), (std::vector<uint32_t>{1}));
  EXPECT_EQ(PartsOf(items({1, 1, 1}), 4), (std::vector<uint32_t>{1, 1, 1}));
  EXPECT_EQ(PartsOf(items({1, 1, 1}), 1), (std::vector<uint32_t>{3}));
}

}  // namespace
}  // namespace reprise::worker
