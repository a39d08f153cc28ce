#include "kvstore/stream/latest_connections.h"

#include <gtest/gtest.h>

namespace reprise::kv {
namespace {

using Word = LatestConnections::Word;

TEST(LatestConnections, ALaterConnectionReplacesTheEarlierForGood) {
  LatestConnections connections;
  const NodeKey peer{"w", 1};
  EXPECT_EQ(connections.Heard(peer, 4), Word::kOfLatest);
  EXPECT_EQ(connections.Heard({"w", 2}, 3), Word::kOfLatest) << "another incarnation";
  EXPECT_EQ(connections.Heard(peer, 7), Word::kReplaces);
  EXPECT_EQ(connections.Heard(peer, 4), Word::kReplaced);
  EXPECT_FALSE(connections.Ended(peer, 4));
  EXPECT_EQ(connections.Of(peer), 7u);
  EXPECT_TRUE(connections.Ended(peer, 7));
  EXPECT_EQ(connections.Of(peer), std::nullopt);
  EXPECT_EQ(connections.Of({"w", 2}), 3u);
}

}  // namespace
}  // namespace reprise::kv
