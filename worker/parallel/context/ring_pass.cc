// Pass-KV as a ring. In step s of a round a rank attends to the shard that began s ranks before it,
// while it sends that shard to the next rank and receives the shard of the next step: three
// buffers, so that a send may end one step later than it must with two. A shard goes only as far as
// someone has queries that see it.
#include <algorithm>
#include <array>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "worker/parallel/context/pass_frame.h"

namespace reprise::parallel {
namespace {

class Ring {
 public:
  explicit Ring(const PassFrame& frame) : frame_(frame) {}

  Status Attend(const std::vector<ContextItem>& items) {
    RETURN_IF_ERROR(Reserve(items));
    for (size_t i = 0; i < items.size(); ++i) {
      std::vector<RunWork> work = OwnWork(frame_, {items[i]});
      for (int64_t round = 0; round < RoundsOf(frame_.stripes, items[i].keys()); ++round) {
        for (int step = 0; step < frame_.ranks(); ++step) {
          RETURN_IF_ERROR(Step(items[i], round, step, work));
        }
      }
      RETURN_IF_ERROR(Finish(frame_, {items[i]}, work));
    }
    for (int slot = 0; slot < kSlots; ++slot) RETURN_IF_ERROR(Sent(slot));
    return absl::OkStatus();
  }

 private:
  static constexpr int kSlots = 3;

  // The longest shard is of the first round.
  Status Reserve(const std::vector<ContextItem>& items) {
    int64_t pages = 0;
    for (const ContextItem& item : items) {
      for (int owner = 0; owner < frame_.ranks(); ++owner) {
        if (HopsOf(frame_.stripes, item, 0, owner) == 0) continue;
        pages = std::max(pages,
                         ShardPages(frame_.stripes, frame_.block_tokens(), 0, owner, item.keys()));
      }
    }
    int64_t bytes = 0;
    for (ContextBuffer& shard : frame_.memory.shards) {
      RETURN_IF_ERROR(
          shard.Reserve(frame_.compute, static_cast<size_t>(pages * frame_.page_bytes())));
      bytes += static_cast<int64_t>(shard.bytes());
    }
    frame_.stats.buffer_bytes_peak = std::max(frame_.stats.buffer_bytes_peak, bytes);
    frame_.memory.pages.resize(static_cast<size_t>(pages));
    std::iota(frame_.memory.pages.begin(), frame_.memory.pages.end(), 0);
    return absl::OkStatus();
  }

  int OwnerAt(int step) const { return Distance(step, frame_.rank(), frame_.ranks()); }
  int64_t PagesOf(const ContextItem& item, int64_t stripe) const {
    return PagesOfStripe(frame_.stripes, frame_.block_tokens(), stripe, item.keys());
  }
  ContextBuffer& shard(int slot) { return frame_.memory.shards[static_cast<size_t>(slot)]; }

  Status Step(const ContextItem& item, int64_t round, int step, std::vector<RunWork>& work) {
    const int owner = OwnerAt(step);
    const int hops = HopsOf(frame_.stripes, item, round, owner);
    if (step == 0 && hops > 0) RETURN_IF_ERROR(Pack(item, round));
    if (step > 0 && step <= hops) {
      current_ = incoming_;
      RETURN_IF_ERROR(frame_.Wait(receive_));
    }
    if (step < hops) RETURN_IF_ERROR(SendOn(Bytes(item, round, owner)));
    if (step + 1 < frame_.ranks()) {
      const int next = OwnerAt(step + 1);
      if (step + 1 <= HopsOf(frame_.stripes, item, round, next)) {
        RETURN_IF_ERROR(ReceiveNext(Bytes(item, round, next)));
      }
    }
    if (step > 0 && step > hops) return absl::OkStatus();
    RETURN_IF_ERROR(AttendShard(item, round, owner, work));
    if (step == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(reads_[static_cast<size_t>(current_)], frame_.compute.Mark());
    return absl::OkStatus();
  }

  size_t Bytes(const ContextItem& item, int64_t round, int owner) const {
    return static_cast<size_t>(
        ShardPages(frame_.stripes, frame_.block_tokens(), round, owner, item.keys()) *
        frame_.page_bytes());
  }

  // Until the slot's bytes have gone.
  Status Sent(int slot) {
    std::optional<ExchangeId>& send = sends_[static_cast<size_t>(slot)];
    if (!send.has_value()) return absl::OkStatus();
    const ExchangeId id = *send;
    send.reset();
    return frame_.Wait(id);
  }
  StatusOr<int> NextSlot() {
    last_slot_ = (last_slot_ + 1) % kSlots;
    RETURN_IF_ERROR(Sent(last_slot_));
    const std::optional<ContextCompute::MarkId> read =
        std::exchange(reads_[static_cast<size_t>(last_slot_)], std::nullopt);
    if (read.has_value()) RETURN_IF_ERROR(frame_.compute.Await(*read));
    return last_slot_;
  }

  Status Pack(const ContextItem& item, int64_t round) {
    ASSIGN_OR_RETURN(current_, NextSlot());
    uint8_t* to = shard(current_).data();
    for (const int which : {0, 1}) {
      const int64_t stripe = frame_.stripes.StripeIn(round, frame_.rank(), which);
      const int64_t pages = PagesOf(item, stripe);
      RETURN_IF_ERROR(frame_.compute.CopyPages(
          frame_.call.pages, std::span(OwnPages(item, stripe), static_cast<size_t>(pages)),
          frame_.page_bytes(), to));
      to += pages * frame_.page_bytes();
    }
    return frame_.compute.AwaitCopies();
  }

  Status SendOn(size_t bytes) {
    const int to = (frame_.rank() + 1) % frame_.ranks();
    ASSIGN_OR_RETURN(
        sends_[static_cast<size_t>(current_)],
        frame_.communicator.Start(
            {.to = to, .send = std::span<const uint8_t>(shard(current_).data(), bytes)}));
    return absl::OkStatus();
  }

  Status ReceiveNext(size_t bytes) {
    ASSIGN_OR_RETURN(incoming_, NextSlot());
    const int from = (frame_.rank() + frame_.ranks() - 1) % frame_.ranks();
    ASSIGN_OR_RETURN(receive_,
                     frame_.communicator.Start(
                         {.from = from, .receive = std::span(shard(incoming_).data(), bytes)}));
    return absl::OkStatus();
  }

  const int32_t* OwnPages(const ContextItem& item, int64_t stripe) const {
    const int64_t row = frame_.stripes.LocalRow(stripe * frame_.stripes.tokens());
    return item.pages + row / frame_.block_tokens();
  }

  Status AttendShard(const ContextItem& item, int64_t round, int owner,
                     std::vector<RunWork>& work) {
    const bool own = owner == frame_.rank();
    const int64_t tokens = frame_.stripes.tokens();
    NodeBatch batch(frame_, own ? frame_.call.pages : PackedPages(frame_, shard(current_)));
    int64_t page = 0;
    for (const int which : {0, 1}) {
      const int64_t stripe = frame_.stripes.StripeIn(round, owner, which);
      const PositionRange keys{stripe * tokens, std::min((stripe + 1) * tokens, item.keys())};
      if (keys.size() <= 0) break;
      const int32_t* pages = own ? OwnPages(item, stripe) : frame_.memory.pages.data() + page;
      for (RunWork& w : work) {
        if (w.run.last >= stripe) batch.Add(w, {0, stripe}, pages, keys);
      }
      RETURN_IF_ERROR(batch.Attend());
      page += PagesOf(item, stripe);
    }
    return absl::OkStatus();
  }

  const PassFrame& frame_;
  std::array<std::optional<ExchangeId>, kSlots> sends_;              // by slot, under way
  std::array<std::optional<ContextCompute::MarkId>, kSlots> reads_;  // by slot, its last
  int last_slot_ = 0;
  int current_ = 0;   // the slot attended to; step 0 reads the pool
  int incoming_ = 0;  // the slot being received into, by
  ExchangeId receive_ = 0;
};

}  // namespace

Status RingPass(const PassFrame& frame, const std::vector<ContextItem>& items) {
  return Ring(frame).Attend(items);
}

}  // namespace reprise::parallel
