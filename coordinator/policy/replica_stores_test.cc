#include "coordinator/policy/replica_stores.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "absl/strings/str_cat.h"

namespace reprise::coordinator {
namespace {

std::vector<NodeInfo> MakeStores(int count) {
  std::vector<NodeInfo> stores(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i)
    stores[static_cast<size_t>(i)].ref.key.name = absl::StrCat("store-", i);
  return stores;
}
std::vector<std::string> Pick(const std::string& id, const std::vector<NodeInfo>& stores, int count,
                              const std::string& decode_domain = "") {
  std::vector<const NodeInfo*> pointers;
  for (const NodeInfo& store : stores) pointers.push_back(&store);
  std::vector<std::string> names;
  for (const NodeInfo* store : PickStores(id, decode_domain, pointers, count)) {
    names.push_back(store->ref.key.name);
  }
  return names;
}

TEST(ReplicaStores, ScoresAreTheSameInEveryVersion) {
  // From an independent implementation of the formula.
  EXPECT_EQ(RendezvousScore("request-1", "store-0"), 10108039959155805700u);
}

TEST(ReplicaStores, RequestsSpreadEvenly) {
  const std::vector<NodeInfo> stores = MakeStores(10);
  std::map<std::string, int> count;
  for (int i = 0; i < 10'000; ++i) ++count[Pick(absl::StrCat("request-", i), stores, 1)[0]];
  // Binomial(10,000, 0.1) has a standard deviation of 30; five of them.
  for (const auto& [name, n] : count) EXPECT_NEAR(n, 1000, 150) << name;
  EXPECT_EQ(count.size(), 10u);
}

TEST(ReplicaStores, AStoreThatJoinsOrLeavesMovesOnlyItsShare) {
  const std::vector<NodeInfo> nine = MakeStores(9), ten = MakeStores(10);
  int moved = 0;
  for (int i = 0; i < 10'000; ++i) {
    const std::string id = absl::StrCat("request-", i);
    const std::string before = Pick(id, nine, 1)[0], after = Pick(id, ten, 1)[0];
    if (before == after) continue;
    EXPECT_EQ(after, "store-9");  // read backwards: only what store-9 held moves when it leaves
    ++moved;
  }
  EXPECT_NEAR(moved, 1000, 150);
}

TEST(ReplicaStores, ReplicasOfOneRequestAreDifferentStoresInDifferentDomains) {
  std::vector<NodeInfo> stores = MakeStores(9);
  for (size_t i = 0; i < stores.size(); ++i) stores[i].failure_domain = absl::StrCat("d", i % 3);
  for (int i = 0; i < 200; ++i) {
    const std::vector<std::string> names = Pick(absl::StrCat("r", i), stores, 3, "d0");
    ASSERT_EQ(names.size(), 3u);
    std::set<std::string> domains;
    for (const std::string& name : names) {
      domains.insert(absl::StrCat("d", std::stoi(name.substr(6)) % 3));
    }
    // Two domains beside the decode worker's, then one that is shared.
    EXPECT_FALSE(std::stoi(names[0].substr(6)) % 3 == 0);
    EXPECT_FALSE(std::stoi(names[1].substr(6)) % 3 == 0);
    EXPECT_GE(domains.size(), 2u);
  }
}

TEST(ReplicaStores, UnknownDomainsKeepNobodyApartAndTooFewStoresAreAllTaken) {
  EXPECT_EQ(Pick("r", MakeStores(2), 5).size(), 2u);
  EXPECT_TRUE(Pick("r", {}, 1).empty());
}

}  // namespace
}  // namespace reprise::coordinator
