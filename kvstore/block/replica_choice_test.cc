#include "kvstore/block/replica_choice.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "absl/strings/str_cat.h"

namespace reprise::kv {
namespace {

struct Store {
  std::string name;
  std::string domain;
};

std::vector<Store> MakeStores(size_t count) {
  std::vector<Store> stores(count);
  for (size_t i = 0; i < count; ++i) stores[i].name = absl::StrCat("store-", i);
  return stores;
}
std::vector<std::string> Pick(const std::string& id, const std::vector<Store>& stores, int count,
                              const std::string& decode_domain = "") {
  std::vector<ReplicaCandidate> candidates;
  for (const Store& store : stores) candidates.push_back({store.name, store.domain});
  std::vector<std::string> names;
  for (const size_t i : PickReplicas(id, {decode_domain}, candidates, count)) {
    names.push_back(stores[i].name);
  }
  return names;
}

TEST(ReplicaChoice, ScoresAreTheSameInEveryVersion) {
  // From an independent implementation of the formula.
  EXPECT_EQ(RendezvousScore("request-1", "store-0"), 10108039959155805700u);
}

TEST(ReplicaChoice, RequestsSpreadEvenly) {
  const std::vector<Store> stores = MakeStores(10);
  std::map<std::string, int> count;
  for (int i = 0; i < 10'000; ++i) ++count[Pick(absl::StrCat("request-", i), stores, 1)[0]];
  // Binomial(10,000, 0.1) has a standard deviation of 30; five of them.
  for (const auto& [name, n] : count) EXPECT_NEAR(n, 1000, 150) << name;
  EXPECT_EQ(count.size(), 10u);
}

TEST(ReplicaChoice, AStoreThatJoinsOrLeavesMovesOnlyItsShare) {
  const std::vector<Store> nine = MakeStores(9), ten = MakeStores(10);
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

TEST(ReplicaChoice, ReplicasOfOneRequestAreDifferentStoresInDifferentDomains) {
  std::vector<Store> stores = MakeStores(9);
  for (size_t i = 0; i < stores.size(); ++i) stores[i].domain = absl::StrCat("d", i % 3);
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

TEST(ReplicaChoice, UnknownDomainsKeepNobodyApartAndTooFewStoresAreAllTaken) {
  EXPECT_EQ(Pick("r", MakeStores(2), 5).size(), 2u);
  EXPECT_TRUE(Pick("r", {}, 1).empty());
}

}  // namespace
}  // namespace reprise::kv
