// Random requests, resumes, attaches, drains, cancels, losses and preemptions over three workers
// and three stores; whatever happens, every request's tokens are the expected ones and every page
// and every replica comes home.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "worker/engine/core/fake_cluster.h"

namespace reprise::worker {
namespace {

const char* const kNames[] = {"a", "b", "p"};
const char* const kStores[] = {"s0", "s1", "s2"};

// What a gateway would hold of one request.
struct Client {
  Submit request;  // of the current attempt
  std::vector<std::vector<int32_t>> emitted;
  std::vector<bool> finished;
  std::optional<Status> done;
  bool cancelled = false;
  bool listening = true;  // false: its gateway is gone
  std::string worker;
};

class Scenario {
 public:
  explicit Scenario(uint64_t seed)
      : cluster_(seed, seed % 5 == 0 ? 0 : 40), random_(cluster_.random().Split()) {
    cluster_.faults.lose_item = random_.Chance(0.5) ? 0.1 : 0;
    cluster_.faults.refuse_call = random_.Chance(0.5) ? 0.2 : 0;
    cluster_.faults.duplicate = random_.Chance(0.3) ? 0.2 : 0;
    cluster_.faults.lose_append = random_.Chance(0.3) ? 0.1 : 0;
    cluster_.faults.lose_held = random_.Chance(0.3) ? 0.2 : 0;
    cluster_.faults.full_store = random_.Chance(0.2) ? 0.1 : 0;
    cluster_.faults.lose_copy = random_.Chance(0.3) ? 0.1 : 0;
    cluster_.faults.fail_copy = random_.Chance(0.3) ? 0.3 : 0;
    cluster_.step_ns = random_.Chance(0.5) ? 100 : 0;
    for (const char* name : kStores) cluster_.AddStore(name);
    for (const char* name : kNames) {
      CoreSettings settings = cluster_.Settings(name);
      settings.append_bytes_max =
          settings.row_bytes * (1 + static_cast<int64_t>(random_.Below(40)));
      settings.rebuilds_max = 1 + static_cast<int32_t>(random_.Below(4));
      settings.store_retry_ns = 100;
      settings.store_absent_ns = 300;
      settings.replica_stall_ns = 400;
      settings.store_full_retry_ns = settings.store_refused_retry_ns = 30;
      settings.failed_release_ns = 2'000;
      settings.drain_flush_ns = 200;
      settings.prefill_tokens_per_s = random_.Chance(0.5) ? 1e8 : 1;
      settings.link_bytes_per_s = random_.Chance(0.8) ? 1e9 : 1e6;
      settings.pages = 26 + static_cast<int32_t>(random_.Below(30));
      settings.chunk_tokens = 1 + static_cast<int32_t>(random_.Below(12));
      settings.running_max = 2 + static_cast<int32_t>(random_.Below(8));
      if (random_.Chance(0.5)) {
        settings.swap_host_slots = static_cast<int32_t>(random_.Below(30));
        settings.swap_disk_slots = static_cast<int32_t>(random_.Below(80));
        settings.swap_bytes_per_s = random_.Chance(0.8) ? 1e15 : 1;
        settings.swap_disk_retry_ns = 100;
        settings.microbatches = 1 + static_cast<int32_t>(random_.Below(4));
      }
      if (random_.Chance(0.3)) settings.chunk_cost = {.max = 6, .doubles_at = 8};
      settings.append_rows = 1 + static_cast<int64_t>(random_.Below(3));
      settings.append_linger_ns = 50;
      settings.fetch_timeout_ns = 500;
      settings.leg_timeout_ns = 3000;
      settings.leg_linger_ns = 1000;
      cluster_.AddWorker(settings);
    }
    cluster_.on_emit = [this](const Emit& emit) { OnEmit(emit); };
  }

  void Run() {
    const int requests = 12 + static_cast<int>(random_.Below(12));
    for (int i = 0; i < requests; ++i) {
      cluster_.After(static_cast<TimeNs>(random_.Below(600)),
                     [this, id = absl::StrCat("r", i)] { Start(id); });
    }
    for (int i = 0; i < requests / 3; ++i) {
      cluster_.After(static_cast<TimeNs>(random_.Below(1500)), [this] { Disturb(); });
    }
    cluster_.After(1, [this] { cluster_.TellStores(); });
    for (uint64_t i = random_.Below(4); i > 0; --i) {
      cluster_.After(static_cast<TimeNs>(random_.Below(1500)), [this] { RestartStore(); });
    }
    if (random_.Chance(0.2)) {
      cluster_.After(static_cast<TimeNs>(random_.Below(1000)), [this] {
        drained_ = true;
        cluster_.Send("a", Drain{cluster_.now() + 2'000});
      });
    }
    cluster_.RunToEnd();
  }

  void Verify() {
    ASSERT_EQ(cluster_.trouble, "");
    for (const char* name : kNames) {
      const WorkerCore& core = cluster_.core(name);
      EXPECT_TRUE(core.idle()) << name << ": running " << core.running() << ", waiting "
                               << core.waiting() << ", pages free " << core.pages().free
                               << ", used " << core.pages().used << ", cached "
                               << core.pages().cached << ", quarantined "
                               << core.pages().quarantined;
    }
    for (const auto& [id, client] : clients_) {
      SCOPED_TRACE(id);
      ASSERT_TRUE(client.done.has_value());
      const bool whole = client.done->ok();
      EXPECT_TRUE(whole || client.cancelled) << *client.done;
      for (uint32_t b = 0; b < client.emitted.size(); ++b) {
        std::vector<int32_t> expected;
        for (const SampledToken& token : ExpectedTimedTokens(
                 cluster_.model(), client.request.prompt, client.request.sampling, b)) {
          expected.push_back(token.id);
        }
        if (!whole) expected.resize(std::min(expected.size(), client.emitted[b].size()));
        EXPECT_EQ(client.emitted[b], expected) << "branch " << b;
        EXPECT_TRUE(!whole || client.finished[b]);
      }
    }
    EXPECT_THAT(broken_, testing::IsEmpty());
    EXPECT_EQ(cluster_.HeldPages(), 0);
    EXPECT_EQ(cluster_.HeldSequences(), 0) << cluster_.DescribeSequences();
  }

  void Count(std::map<std::string, uint64_t>& totals) {
    for (const char* name : kNames) {
      const CoreStats& stats = cluster_.core(name).stats();
      totals["preemptions"] += stats.preemptions;
      totals["swap_ins"] += stats.swap_ins;
      totals["swap_lost"] += stats.swap_lost;
      totals["swap_failures"] += stats.swap_failures;
      totals["turns_given"] += stats.turns_given;
      totals["rotations"] += stats.rotations;
      totals["cached"] += stats.cached_tokens;
      totals["hits"] += stats.fetch_hits;
      totals["misses"] += stats.fetch_misses;
      totals["legs_failed"] += stats.legs_failed;
      totals["legs_served"] += stats.legs_served;
      totals["evictions"] += stats.evictions;
      totals["stale"] += stats.stale;
      totals["duplicates"] += stats.duplicates;
      totals["appended"] += stats.appended_rows;
      totals["replicas_lost"] += stats.replicas_lost;
      totals["rebuilds"] += stats.rebuilds;
      totals["fenced"] += stats.fenced;
      totals["restored"] += stats.restored_rows;
      totals["replayed"] += stats.replayed_rows;
      totals["restores"] += stats.restores;
      totals["recomputes"] += stats.recomputes;
      totals["orphaned"] += stats.orphaned;
      totals["attached"] += stats.attached;
      totals["windows_over"] += stats.windows_over;
    }
  }

 private:
  void Start(const std::string& id) {
    Client& client = clients_[id];
    Submit& submit = client.request;
    submit.key = {id, {1, 1}};
    // A few common beginnings, so that prefixes are shared.
    SplitMix64 shared(random_.Below(3));
    const uint64_t length = 1 + random_.Below(40);
    const uint64_t common = random_.Below(length + 1);
    for (uint64_t i = 0; i < length; ++i) {
      SplitMix64& source = i < common ? shared : random_;
      submit.prompt.push_back(static_cast<int32_t>(source.Below(64)));
    }
    submit.sampling.n = random_.Chance(0.3) ? 2 + static_cast<int32_t>(random_.Below(2)) : 1;
    submit.sampling.max_tokens = 1 + static_cast<int32_t>(random_.Below(20));
    submit.sampling.seed = random_.Next();
    if (random_.Chance(0.3)) submit.sampling.eos_ids = {1, 2, 3};
    if (random_.Chance(0.2)) submit.sampling.stop_ids = {7, 8};
    submit.sampling.min_tokens = static_cast<int32_t>(random_.Below(4));
    submit.alone = random_.Chance(0.1);
    if (random_.Chance(0.7)) {
      submit.resume_handle = absl::StrCat("handle of ", id);
      submit.resume_window_ns = 100 + static_cast<TimeNs>(random_.Below(1'000));
    }
    client.emitted.resize(static_cast<size_t>(submit.sampling.n));
    client.finished.resize(client.emitted.size());
    Place(client);
  }

  void Place(Client& client) {
    Submit& submit = client.request;
    client.worker = drained_ ? "b" : kNames[random_.Below(2)];
    submit.replicas = std::exchange(submit.stores, {});
    for (const char* name : kStores) {
      if (random_.Chance(0.5)) submit.stores.push_back(cluster_.StoreNode(name));
    }
    submit.prefill.reset();
    if (random_.Chance(0.5)) submit.prefill = cluster_.Node(kNames[random_.Below(3)]);
    submit.sources.clear();
    for (uint64_t i = random_.Below(3); i > 0; --i) {
      submit.sources.push_back({cluster_.Node(kNames[random_.Below(3)]),
                                static_cast<int32_t>(random_.Below(4)),
                                static_cast<int32_t>(random_.Below(8))});
    }
    submit.branches.clear();
    for (size_t b = 0; b < client.emitted.size(); ++b) {
      submit.branches.push_back({client.emitted[b], client.finished[b]});
    }
    cluster_.Send(client.worker, submit);
  }

  // A store dies and comes back empty.
  void RestartStore() {
    const std::string name = kStores[random_.Below(3)];
    if (dead_.contains(name)) return;
    dead_.insert(name);
    cluster_.KillStore(name);
    if (random_.Chance(0.5)) cluster_.TellStores();
    cluster_.After(static_cast<TimeNs>(random_.Below(800)), [this, name] {
      dead_.erase(name);
      cluster_.AddStore(name);
      cluster_.TellStores();
    });
  }

  // A gateway is gone; another one comes for its request, in time or too late.
  void LoseGateway(Client& client) {
    client.listening = false;
    cluster_.Send(client.worker, Orphan{client.request.key});
    cluster_.After(static_cast<TimeNs>(random_.Below(1'200)), [this, &client] {
      const RequestKey old = client.request.key;
      client.request.key.attempt = {old.attempt.owner_epoch + 1, 1};
      client.listening = true;
      cluster_.Send(client.worker, Attach{client.request.key, client.request.resume_handle});
    });
  }

  // A client leaves, or its gateway places it anew somewhere (the old worker may never hear).
  void Disturb() {
    if (clients_.empty()) return;
    auto chosen = clients_.begin();
    std::advance(chosen, static_cast<std::ptrdiff_t>(random_.Below(clients_.size())));
    Client& client = chosen->second;
    if (client.done || !client.listening) return;
    if (random_.Chance(0.4) && client.request.resume_window_ns > 0) return LoseGateway(client);
    if (random_.Chance(0.4)) {
      client.cancelled = true;
      cluster_.Send(client.worker, Cancel{client.request.key, EndReason::kCancelled});
      return;
    }
    const RequestKey old = client.request.key;
    const std::string before = client.worker;
    ++client.request.key.attempt.n;
    Place(client);
    cluster_.After(static_cast<TimeNs>(random_.Below(300)), [this, before, old] {
      cluster_.Send(before, Cancel{old, {}});
    });
  }

  void OnEmit(const Emit& emit) {
    Client& client = clients_.at(emit.key.id);
    const size_t dones = cluster_.outcome(emit.key).dones.size();
    // A late copy of a fenced attempt is refused once more; nobody waits for that answer.
    if (emit.done && absl::IsAborted(emit.done->status) && emit.key != client.request.key) return;
    if (dones > 1) broken_.push_back(absl::StrCat(emit.key.id, " ended twice"));
    if (dones == 1 && !emit.done) broken_.push_back(absl::StrCat(emit.key.id, " went on"));
    if (emit.key != client.request.key || !client.listening) return;  // fenced, or nobody there
    if (emit.stores) client.request.stores = *emit.stores;
    if (emit.attached) {
      for (std::vector<int32_t>& ids : client.emitted) ids.clear();
      client.finished.assign(client.finished.size(), false);
    }
    for (const BranchToken& token : emit.tokens) {
      if (token.index != client.emitted[token.branch].size() || client.finished[token.branch]) {
        broken_.push_back(absl::StrCat(emit.key.id, " branch ", token.branch, " gave index ",
                                       token.index, " after ",
                                       client.emitted[token.branch].size()));
      }
      client.emitted[token.branch].push_back(token.token.id);
    }
    for (const BranchEnd& end : emit.ended) client.finished[end.branch] = true;
    if (!emit.done) return;
    if (absl::IsNotFound(emit.done->status) || absl::IsUnavailable(emit.done->status)) {
      ++client.request.key.attempt.n;
      cluster_.After(1, [this, &client] { Place(client); });
      return;
    }
    client.done = emit.done->status;
  }

  FakeCluster cluster_;
  SplitMix64 random_;
  std::map<std::string, Client> clients_;
  std::set<std::string> dead_;
  bool drained_ = false;
  std::vector<std::string> broken_;
};

TEST(WorkerCoreRandom, TokensAreTheExpectedOnesAndEveryPageComesHome) {
  std::map<std::string, uint64_t> totals;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Scenario scenario(seed);
    scenario.Run();
    scenario.Verify();
    scenario.Count(totals);
    if (testing::Test::HasFailure()) return;
  }
  // The histories did visit what they are for.
  for (const auto& [what, count] : totals) {
    EXPECT_GT(count, 30u) << what;
    RecordProperty(what, static_cast<int>(count));
  }
}

}  // namespace
}  // namespace reprise::worker
