// Random histories of live sequences in StoreCore, against a naive model where tokens never change,
// and against the invariants where attempts disagree. Every checksum given out is compared with the
// bytes it speaks of (by the fixture), and nothing that is read may change.
#include <gtest/gtest.h>

#include <optional>

#include "common/random.h"
#include "kvstore/node/store_tails_fixture.h"

namespace reprise::kv {
namespace {

constexpr uint64_t kSeeds = 60;
constexpr int kSteps = 400;

// Somebody who looks at a slot and keeps it pinned.
struct Reading {
  StoreCore::Found found;
  std::optional<Store::Bytes> seen;  // absent: not readable yet
  BlockId id;
};

class History {
 public:
  History(uint64_t seed, Slot memory, Slot disk) : random_(seed), store_(memory, disk) {}

 protected:
  void CheckReaders() const {
    for (const Reading& reading : readings_) {
      if (!reading.seen.has_value()) continue;
      ASSERT_EQ(store_.SlotBytes(reading.found.slot), *reading.seen) << "it changed under a reader";
    }
  }
  void Unread(size_t at) {
    store_.core.Unpin(readings_[at].found.pin);
    readings_.erase(readings_.begin() + static_cast<std::ptrdiff_t>(at));
  }
  void EndDisk(double good) {
    while (!store_.disk.empty()) {
      store_.EndDisk(random_.Chance(good) ? absl::OkStatus() : Status(absl::DataLossError("disk")));
    }
  }
  // Nothing is left when everybody has gone.
  void ExpectQuiet() {
    while (!store_.disk.empty()) store_.EndDisk();
    EXPECT_EQ(store_.core.memory().quarantined, 0);
    const ReplicaCounts counts = store_.core.replicas();
    EXPECT_EQ(counts.sequences + counts.leased_blocks + counts.tail_rows + counts.stranded_slots,
              0);
  }

  SplitMix64 random_;
  Store store_;
  std::vector<Reading> readings_;
};

// ---- One text a request: what is held is a number of rows. ----

struct Model {
  std::string name;
  std::vector<int32_t> tokens;
  Attempt highest{1, 0};
  std::optional<Attempt> ended;
  int64_t rows = 0;
};

class ModelledHistory : History {
 public:
  explicit ModelledHistory(uint64_t seed) : ModelledHistory(seed, SplitMix64(seed).Chance(0.3)) {}

  void Run() {
    for (int step = 0; step < kSteps && !testing::Test::HasFatalFailure(); ++step) {
      store_.now = step * kSecond;
      Step(models_[random_.Below(models_.size())]);
      CheckReaders();
      CheckSealedBlocks();
    }
    while (!readings_.empty()) Unread(0);
    for (const Model& model : models_) store_.Release({1, 1000}, model.name);
    ExpectQuiet();
  }

 private:
  ModelledHistory(uint64_t seed, bool tight)
      : History(seed, tight ? 6 : 60, static_cast<Slot>(seed % 2 * 40)), tight_(tight) {
    for (int i = 0; i < 3; ++i) {
      models_.push_back({.name = absl::StrCat("r", i), .tokens = Numbers(i * 1000, 40)});
    }
  }

  void Step(Model& model) {
    switch (random_.Below(8)) {
      case 0:
        return Read(model);
      case 1:
        if (!readings_.empty()) Unread(random_.Below(readings_.size()));
        return;
      case 2:
        return EndDisk(tight_ ? 1 : 0.9);
      case 3:
        if (random_.Chance(0.15)) Release(model);
        return;
      case 4:
        if (random_.Chance(0.05)) LoseOwner();
        return;
      default:
        return Append(model);
    }
  }

  void Append(Model& model) {
    // Mostly what comes next.
    int64_t first =
        random_.Chance(0.6) ? model.rows : static_cast<int64_t>(random_.Below(model.tokens.size()));
    if (first > model.rows && first % kBlock == 0) ++first;  // not a tail of its own
    first = std::min<int64_t>(first, 39);
    if (first > model.rows && first % kBlock == 0) return;
    const auto count =
        static_cast<int>(1 + random_.Below(static_cast<uint64_t>(kBlock - first % kBlock)));
    Attempt attempt = model.highest;
    if (random_.Chance(0.1)) ++attempt.n;
    if (random_.Chance(0.15) && attempt.n > 0) --attempt.n;
    const auto rows = random_.Chance(0.1) ? Store::Rows::kDamaged : Store::Rows::kWhole;
    const HeldRows held = store_.Append(
        Store::Entry(model.tokens, static_cast<int>(first), count, attempt, model.name), rows);
    ExpectAnswer(model, attempt, first, first + count, rows, held);
  }
  void ExpectAnswer(Model& model, const Attempt& attempt, int64_t first, int64_t end,
                    Store::Rows rows, const HeldRows& held) const {
    if (attempt < model.highest) {
      ASSERT_EQ(held.status.code(), kAborted);
      return;
    }
    model.highest = attempt;
    if (model.ended.has_value() && attempt <= *model.ended) {
      ASSERT_EQ(held.status.code(), kNotFound);
      return;
    }
    if (first > model.rows) {
      ASSERT_EQ(held.status.code(), kGap);
    } else if (end <= model.rows) {
      ASSERT_TRUE(held.status.ok()) << held.status;
    } else if (held.status.code() == kNoRoom) {
      ASSERT_TRUE(tight_);
    } else if (rows == Store::Rows::kDamaged) {
      ASSERT_EQ(held.status.code(), kDamaged);
    } else {
      ASSERT_TRUE(held.status.ok()) << held.status;
      model.rows = end;
    }
    ASSERT_EQ(held.rows, model.rows);
  }

  void Read(const Model& model) {
    const int64_t tail = model.rows / kBlock * kBlock;
    Reading reading{.id = ReplicaTailId(model.name, 0, tail)};
    reading.found = store_.FindTail(tail, model.name);
    store_.Collect();
    if (reading.found.state == StoreCore::Found::State::kMissing) {
      ASSERT_EQ(model.rows % kBlock, 0);
      return;
    }
    const auto rows = static_cast<size_t>(model.rows - tail);
    ASSERT_GT(rows, 0u);
    ASSERT_EQ(store_.Tokens(reading.found.slot, rows),
              std::vector<int32_t>(model.tokens.begin() + tail, model.tokens.begin() + model.rows));
    reading.seen = store_.SlotBytes(reading.found.slot);
    readings_.push_back(std::move(reading));
  }
  void Release(Model& model) {
    store_.Release(model.highest, model.name);
    model.ended = model.highest;
    model.rows = 0;
  }
  void LoseOwner() {
    store_.core.OnPeerLost(kWorker, store_.now);
    store_.core.OnTick(store_.now + kMinute);
    store_.Collect();
    for (Model& orphan : models_) orphan.rows = 0;
  }

  void CheckSealedBlocks() {
    for (const Model& model : models_) {
      const auto ids = Ids(model.tokens);
      for (int64_t block = 0; block < model.rows / kBlock; ++block) {
        const BlockId& id = ids[static_cast<size_t>(block)];
        ASSERT_TRUE(store_.core.events().Lists(id));
      }
    }
  }

  const bool tight_;
  std::vector<Model> models_;
};

// Appends that repeat, overlap, leave gaps, arrive damaged or late from lower attempts; releases,
// owners that vanish, readers that keep their pins, disk writes: every answer is the naive model's.
TEST(StoreHistories, AgreeWithANaiveModel) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    ModelledHistory(seed).Run();
  }
}

// ---- Attempts that sample other tokens. ----

class DisputedHistory : History {
 public:
  explicit DisputedHistory(uint64_t seed)
      : History(seed, static_cast<Slot>(4 + seed % 12), static_cast<Slot>(seed / 3 % 12)) {
    streams_ = {Numbers(0, 32)};
    for (int i = 0; i < 4; ++i) {
      std::vector<int32_t> stream = streams_.back();
      const size_t from = random_.Below(stream.size());
      for (size_t at = from; at < stream.size(); ++at) stream[at] += 1000;
      streams_.push_back(std::move(stream));
    }
  }

  void Run() {
    for (int step = 0; step < kSteps && !testing::Test::HasFatalFailure(); ++step) {
      store_.now = step * kSecond;
      if (random_.Chance(0.02) && highest_ + 1 < streams_.size()) ++highest_;
      Step(static_cast<uint32_t>(random_.Chance(0.9) ? highest_ : random_.Below(highest_ + 1)));
      Awaken();
      CheckReaders();
      store_.Collect();
    }
    for (const Late& one : late_) store_.End(one.plan);
    while (!store_.fetches.empty()) store_.EndFetch(0);
    while (!readings_.empty()) Unread(0);
    store_.Release({9, 9});
    ExpectQuiet();
  }

 private:
  struct Late {
    StoreCore::AppendPlan plan;
    RequestKey request;
  };

  void Step(uint32_t n) {
    const auto branch = static_cast<uint32_t>(random_.Below(2));
    switch (random_.Below(7)) {
      case 0:
      case 1:
        if (!late_.empty()) EndWrite(random_.Below(late_.size()));
        return;
      case 2:
        return Offer(n);
      case 3:
        return EndTransfers();
      case 4:
        return Read(branch);
      case 5:
        if (!readings_.empty() && random_.Chance(0.5)) Unread(readings_.size() - 1);
        if (random_.Chance(0.03)) store_.Release({1, static_cast<uint32_t>(highest_)});
        return;
      default:
        return BeginWrite(n, branch);
    }
  }

  void BeginWrite(uint32_t n, uint32_t branch) {
    const int first = static_cast<int>(random_.Below(30));
    const int count =
        1 + static_cast<int>(random_.Below(static_cast<uint64_t>(kBlock - first % kBlock)));
    const TailEntry entry = Store::Entry(streams_[n], first, count, {1, n}, "r", branch);
    const auto plan =
        store_.Plan(entry, random_.Chance(0.9) ? Store::Rows::kWhole : Store::Rows::kDamaged);
    if (plan.write != 0) late_.push_back({plan, entry.request});
  }
  void EndWrite(size_t at) {
    const HeldRows held = store_.End(late_[at].plan);
    ASSERT_EQ(held.request, late_[at].request);
    late_.erase(late_.begin() + static_cast<std::ptrdiff_t>(at));
  }
  void Offer(uint32_t n) {
    const auto& tokens = streams_[n];
    const auto rows = kBlock * static_cast<std::ptrdiff_t>(1 + random_.Below(7));
    store_.Offer({tokens.begin(), tokens.begin() + rows}, "r", kWorker, {1, n});
  }
  void EndTransfers() {
    if (!store_.fetches.empty()) {
      store_.EndFetch(
          random_.Below(store_.fetches.size()),
          random_.Chance(0.7) ? absl::OkStatus() : Status(absl::UnavailableError("gone")));
    }
    EndDisk(0.8);
  }
  void Read(uint32_t branch) {
    const int64_t at = kBlock * static_cast<int64_t>(random_.Below(8));
    Reading reading{.id = ReplicaTailId("r", branch, at)};
    reading.found = store_.FindTail(at, "r", branch);
    if (reading.found.state == StoreCore::Found::State::kMissing) return;
    if (reading.found.state == StoreCore::Found::State::kReady) {
      reading.seen = store_.SlotBytes(reading.found.slot);
    }
    readings_.push_back(std::move(reading));
  }
  // Readers that waited for a write see what is there at its end.
  void Awaken() {
    for (Reading& reading : readings_) {
      const bool told = std::any_of(store_.published.begin(), store_.published.end(),
                                    [&](const auto& p) { return p.id == reading.id; });
      if (told && !reading.seen.has_value()) reading.seen = store_.SlotBytes(reading.found.slot);
    }
    store_.published.clear();
  }

  std::vector<std::vector<int32_t>> streams_;  // by attempt
  size_t highest_ = 0;
  std::vector<Late> late_;
};

// Offers that complete, fail and overlap with appends, writes that end late: whatever happens, the
// invariants hold and the checksums of what is found are those of its bytes.
TEST(StoreHistories, KeepTheInvariantsWhenAttemptsDisagree) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    DisputedHistory(seed).Run();
  }
}

}  // namespace
}  // namespace reprise::kv
