#include "cli/steady_rate.h"

#include <gtest/gtest.h>

namespace reprise::cli {
namespace {

TEST(SteadyRate, OneStreamCountsFromItsFirstTokenToItsLast) {
  SteadyRate rate(1);
  rate.OnFirst(5 * kSecond);
  for (int i = 1; i <= 10; ++i) rate.OnTokens((5 + i) * kSecond, 2);
  EXPECT_EQ(rate.tokens(), 0) << "not over";
  rate.OnEnd();
  EXPECT_EQ(rate.tokens(), 20);
  EXPECT_EQ(rate.seconds(), 10);
  EXPECT_EQ(rate.rate(), 2);
}

TEST(SteadyRate, OnlyTheTimeOfAllStreamsCounts) {
  SteadyRate rate(2);
  rate.OnFirst(1 * kSecond);
  rate.OnTokens(2 * kSecond, 100);  // alone
  rate.OnFirst(3 * kSecond);
  rate.OnTokens(4 * kSecond, 3);
  rate.OnTokens(5 * kSecond, 3);
  rate.OnEnd();
  rate.OnTokens(9 * kSecond, 100);  // alone again
  EXPECT_EQ(rate.tokens(), 6);
  EXPECT_EQ(rate.seconds(), 2);
  rate.OnFirst(20 * kSecond);  // the next takes the place
  rate.OnTokens(21 * kSecond, 1);
  rate.OnEnd();
  EXPECT_EQ(rate.tokens(), 7);
  EXPECT_EQ(rate.seconds(), 3);
}

TEST(SteadyRate, WithoutSuchATimeThereIsNoRate) {
  SteadyRate rate(2);
  rate.OnFirst(1 * kSecond);
  rate.OnTokens(2 * kSecond, 100);
  rate.OnEnd();
  EXPECT_EQ(rate.rate(), 0);
}

}  // namespace
}  // namespace reprise::cli
