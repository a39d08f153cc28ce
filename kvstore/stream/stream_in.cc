#include "kvstore/stream/stream_in.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "common/crc32c.h"
#include "common/mutex.h"
#include "kvstore/block/checksum.h"
#include "kvstore/stream/plan.h"

namespace reprise::kv {
namespace {

Status CheckAddresses(const char* whose, const RankGroup& group, bool needed) {
  if (group.ranks.size() == group.split.ranks() || (!needed && group.ranks.empty())) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(whose, " group has ", group.split.ranks(),
                                                 " ranks and ", group.ranks.size(), " addresses"));
}

Status CheckItems(const StreamInSpec& spec) {
  const uint32_t own = PlaceOf(spec.own.split, spec.rank).context;
  for (const FetchItem& item : spec.items) {
    const uint32_t owner = ContextOwner(spec.own.split, item.first_position);
    if (item.first_position >= 0 && owner == own) continue;
    return absl::InvalidArgumentError(absl::StrCat("block ", item.id.Hex(), " at position ",
                                                   item.first_position, " belongs to context rank ",
                                                   owner, ", this is ", own));
  }
  return absl::OkStatus();
}

// What joins the legs. Events of all of them are taken one at a time, on whichever stream thread
// brings one while no other does; the state is that thread's.
class JoinedIn final : public StreamIn, public std::enable_shared_from_this<JoinedIn> {
 public:
  JoinedIn(KvStream* stream, const KvFormat& format, const StreamInSpec& spec,
           std::shared_ptr<FetchListener> listener)
      : stream_(stream),
        listener_(std::move(listener)),
        part_(PartOfRank(format, spec.own.split, spec.rank)),
        past_segment_(FormatOfPart(format, part_).segment_bytes()),
        items_(spec.items.size()) {
    for (size_t i = 0; i < items_.size(); ++i) {
      items_[i].id = spec.items[i].id;
      items_[i].first_position = spec.items[i].first_position;
      items_[i].layers.resize(part_.layers.size());
    }
  }

  void Run(std::vector<StreamInLeg> legs);
  void Cancel() override {
    Take([this] {
      cancelled_ = true;
      for (const Leg& leg : legs_) {
        if (leg.handle.has_value() && !leg.done) stream_->CancelFetch(*leg.handle);
      }
    });
  }

 private:
  struct Layer {
    uint32_t missing = 0;  // legs
    uint32_t sum = 0;
  };
  struct Item {
    BlockId id;
    int64_t first_position = 0;
    std::vector<Layer> layers;
    uint32_t announced = 0;
    Status status;
  };
  struct Leg {
    std::vector<size_t> items;
    bool whole_heads = false;  // its checksums are those of this rank's segments
    std::optional<FetchHandle> handle;
    bool done = false;
  };
  class Part final : public FetchListener {
   public:
    Part(std::shared_ptr<JoinedIn> whole, size_t leg) : whole_(std::move(whole)), leg_(leg) {}
    void OnLayer(size_t item, uint32_t layer, uint32_t checksum) override {
      whole_->Take(
          [=, whole = whole_, leg = leg_] { whole->TakeLayer(leg, item, layer, checksum); });
    }
    void OnDone(const std::vector<Status>& items) override {
      whole_->Take([whole = whole_, leg = leg_, items] { whole->TakeDone(leg, items); });
    }

   private:
    const std::shared_ptr<JoinedIn> whole_;
    const size_t leg_;
  };

  void Take(std::function<void()> event);
  void TakeLayer(size_t leg, size_t index, uint32_t layer, uint32_t checksum);
  void TakeDone(size_t leg, const std::vector<Status>& items);
  void CancelUseless();

  KvStream* const stream_;
  const std::shared_ptr<FetchListener> listener_;
  const KvPart part_;
  const Crc32cShift past_segment_;

  // Of whoever takes events.
  std::vector<Item> items_;
  std::vector<Leg> legs_;
  size_t running_ = 0;
  bool cancelled_ = false;

  Mutex mu_;
  std::deque<std::function<void()>> events_ GUARDED_BY(mu_);
  bool taking_ GUARDED_BY(mu_) = false;
};

void JoinedIn::Take(std::function<void()> event) {
  const auto self = shared_from_this();
  {
    MutexLock lock(mu_);
    events_.push_back(std::move(event));
    if (std::exchange(taking_, true)) return;
  }
  for (;;) {
    std::function<void()> next;
    {
      MutexLock lock(mu_);
      if (events_.empty()) {
        taking_ = false;
        return;
      }
      next = std::move(events_.front());
      events_.pop_front();
    }
    next();
  }
}

void JoinedIn::Run(std::vector<StreamInLeg> legs) {
  Take([this, self = shared_from_this(), legs = std::move(legs)]() mutable {
    running_ = legs.size();
    for (const StreamInLeg& leg : legs) {
      legs_.push_back({.items = leg.items,
                       .whole_heads = leg.fetch.part->heads == part_.heads,
                       .handle = std::nullopt});
      const Range& layers = leg.fetch.part->layers;
      for (const size_t item : leg.items) {
        for (uint32_t layer = layers.begin; layer < layers.end; ++layer) {
          ++items_[item].layers[layer - part_.layers.begin].missing;
        }
      }
    }
    for (size_t i = 0; i < legs.size(); ++i) {
      // What comes at once waits until this has ended.
      const auto started =
          stream_->Fetch(std::move(legs[i].fetch), std::make_shared<Part>(self, i));
      if (started.ok()) {
        legs_[i].handle = *started;
      } else {
        TakeDone(i, std::vector<Status>(legs_[i].items.size(), started.status()));
      }
    }
  });
}

void JoinedIn::TakeLayer(size_t leg, size_t index, uint32_t number, uint32_t checksum) {
  const size_t at = legs_[leg].items[index];
  Item& item = items_[at];
  Layer& layer = item.layers[number - part_.layers.begin];
  --layer.missing;
  layer.sum ^= checksum;
  // One leg alone brings a checksum, several bring what they add to it.
  if (layer.missing == 0 && !legs_[leg].whole_heads) {
    layer.sum =
        SegmentChecksumOfParts(item.id, number, item.first_position, layer.sum, past_segment_);
  }
  while (item.announced < item.layers.size() && item.layers[item.announced].missing == 0) {
    const uint32_t next = item.announced++;
    listener_->OnLayer(at, part_.layers.begin + next, item.layers[next].sum);
  }
}

void JoinedIn::TakeDone(size_t index, const std::vector<Status>& statuses) {
  Leg& leg = legs_[index];
  leg.done = true;
  for (size_t i = 0; i < leg.items.size(); ++i) {
    Status& status = items_[leg.items[i]].status;
    if (status.ok()) status = i < statuses.size() ? statuses[i] : absl::InternalError("no status");
  }
  if (--running_ > 0) {
    CancelUseless();
    return;
  }
  std::vector<Status> all;
  for (const Item& item : items_) all.push_back(item.status);
  listener_->OnDone(all);
}

// A block of which one part will not come is lost, and so is every leg of lost blocks only.
void JoinedIn::CancelUseless() {
  for (const Leg& leg : legs_) {
    const bool useless =
        cancelled_ || std::none_of(leg.items.begin(), leg.items.end(),
                                   [this](size_t item) { return items_[item].status.ok(); });
    if (useless && !leg.done && leg.handle.has_value()) stream_->CancelFetch(*leg.handle);
  }
}

}  // namespace

StatusOr<std::vector<StreamInLeg>> PlanStreamIn(const KvFormat& format, const StreamInSpec& spec) {
  ASSIGN_OR_RETURN(const std::vector<StreamTransfer> plan,
                   PlanStream(format, spec.source.split, spec.own.split));
  RETURN_IF_ERROR(CheckAddresses("the source's", spec.source, true));
  RETURN_IF_ERROR(CheckAddresses("the own", spec.own, false));
  if (spec.rank >= spec.own.split.ranks() || spec.items.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", spec.rank, " of ",
                                                   spec.own.split.ranks(), " asks for ",
                                                   spec.items.size(), " blocks"));
  }
  RETURN_IF_ERROR(CheckItems(spec));
  std::vector<StreamInLeg> legs;
  for (const StreamTransfer& transfer : plan) {
    if (transfer.to != spec.rank) continue;
    if (transfer.hand_on && spec.own.ranks.empty()) {
      return absl::InvalidArgumentError("the own group hands on and names no addresses");
    }
    StreamInLeg leg{
        .fetch = {.source = (transfer.hand_on ? spec.own : spec.source).ranks[transfer.from],
                  .fence = spec.fence,
                  .items = {},
                  .subscribe = spec.subscribe || transfer.hand_on,
                  .timeout_ns = spec.timeout_ns,
                  .format = spec.source_format,
                  .part = transfer.part,
                  .into = PartOfRank(format, spec.own.split, spec.rank)},
        .items = {}};
    for (size_t i = 0; i < spec.items.size(); ++i) {
      const uint32_t owner = ContextOwner(spec.source.split, spec.items[i].first_position);
      if (!transfer.hand_on && owner != transfer.context) continue;
      leg.items.push_back(i);
      leg.fetch.items.push_back(spec.items[i]);
    }
    if (!leg.items.empty()) legs.push_back(std::move(leg));
  }
  return legs;
}

StatusOr<std::shared_ptr<StreamIn>> StreamIn::Start(KvStream* stream, const KvFormat& format,
                                                    const StreamInSpec& spec,
                                                    std::shared_ptr<FetchListener> listener) {
  ASSIGN_OR_RETURN(std::vector<StreamInLeg> legs, PlanStreamIn(format, spec));
  const auto joined = std::make_shared<JoinedIn>(stream, format, spec, std::move(listener));
  joined->Run(std::move(legs));
  return std::shared_ptr<StreamIn>(joined);
}

}  // namespace reprise::kv
