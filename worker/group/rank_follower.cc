#include "worker/group/rank_follower.h"

#include <array>
#include <cstring>

#include "common/failpoint.h"

namespace reprise::worker {
namespace {

// Between steps nobody sends anything; a driver that dies is known all the same.
constexpr TimeNs kIdleNs = 365 * 24 * 60 * kMinute;

}  // namespace

Status RankFollower::Follow() {
  for (;;) RETURN_IF_ERROR(TakeStep());
}

Status RankFollower::TakeStep() {
  parallel::Communicator& world = *links_.world;
  std::array<uint8_t, kOrderHeaderBytes> header_bytes;
  RETURN_IF_ERROR(world.Recv(0, header_bytes, RealClock().NowNs() + kIdleNs));
  ASSIGN_OR_RETURN(const OrderHeader header, DecodeHeader(header_bytes));
  const TimeNs deadline_ns = RealClock().NowNs() + NsFromMs(header.step_ms);
  order_bytes_.resize(header.bytes);
  RETURN_IF_ERROR(world.Recv(0, order_bytes_, deadline_ns));
  ASSIGN_OR_RETURN(const StepOrder order, DecodeStep(order_bytes_));
  std::vector<StepItem> items;
  for (const StepOrder::Item& item : order.items) items.push_back(ViewOf(item));
  RETURN_IF_ERROR(CheckStep(model_.setup().info, model_.pages(), items));
  RETURN_IF_ERROR(TakeLoads(order, deadline_ns));
  Failpoint("rank.step");
  size_t first = 0;
  for (const uint32_t part : order.parts) {
    RETURN_IF_ERROR(RunPart(std::span(items).subspan(first, part), deadline_ns));
    first += part;
  }
  counters_.steps.fetch_add(1, std::memory_order_relaxed);
  return model_.Settle(deadline_ns);
}

Status RankFollower::TakeLoads(const StepOrder& order, TimeNs deadline_ns) {
  const auto block_tokens = static_cast<int64_t>(model_.setup().info.kv_format.block_tokens);
  for (const PageLoad& load : order.loads) {
    if (load.page >= model_.pages()) {
      return absl::InvalidArgumentError(
          absl::StrCat("page ", load.page, " is outside the pool of ", model_.pages()));
    }
    if (kv::ContextOwner(links_.split, load.block * block_tokens) != links_.place.context) continue;
    RETURN_IF_ERROR(links_.world->Recv(0, model_.Page(load.page), deadline_ns));
    model_.OnPageGiven(load.page);
    counters_.pages_loaded.fetch_add(1, std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

std::vector<uint8_t>& RankFollower::NextBuffer(size_t bytes) {
  if (buffers_used_ == buffers_.size()) buffers_.emplace_back();
  std::vector<uint8_t>& buffer = buffers_[buffers_used_++];
  buffer.resize(bytes);
  return buffer;
}

Status RankFollower::StartSend(std::span<const uint8_t> bytes) {
  ASSIGN_OR_RETURN(const parallel::ExchangeId id, links_.world->Start({.to = 0, .send = bytes}));
  sending_.push_back(id);
  return absl::OkStatus();
}

Status RankFollower::RunPart(std::span<const StepItem> items, TimeNs deadline_ns) {
  const PartRows& part = model_.rows();
  std::vector<PageRows> rows;
  if (model_.sends_rows()) {
    rows = RowsOf(items, model_.setup().info.kv_format.block_tokens, links_.split,
                  links_.place.context);
  }
  size_t count = 0;
  for (const PageRows& run : rows) count += run.end - run.begin;
  buffers_used_ = 0;
  sending_.clear();
  Status sent;
  RETURN_IF_ERROR(model_.Forward(
      items,
      [&](uint32_t layer) {
        Failpoint("rank.layer");
        if (count == 0 || !sent.ok()) return;
        std::vector<uint8_t>& buffer = NextBuffer(count * part.row_bytes());
        uint8_t* out = buffer.data();
        for (const PageRows& run : rows) {
          part.Take(model_.Page(run.page).data(), layer, run.begin, run.end, out);
        }
        sent = StartSend(buffer);
      },
      deadline_ns));
  RETURN_IF_ERROR(sent);
  if (model_.share().last_stage) RETURN_IF_ERROR(SendLogits(items));
  for (const parallel::ExchangeId id : sending_) {
    RETURN_IF_ERROR(links_.world->Wait(id, deadline_ns));
  }
  counters_.rows.fetch_add(count, std::memory_order_relaxed);
  return absl::OkStatus();
}

Status RankFollower::SendLogits(std::span<const StepItem> items) {
  const size_t outputs = OutputsOf(items, links_.split, links_.place.context).size();
  if (outputs == 0) return absl::OkStatus();
  const size_t bytes = model_.logits(0).size_bytes();
  std::vector<uint8_t>& buffer = NextBuffer(outputs * bytes);
  for (size_t i = 0; i < outputs; ++i) {
    std::memcpy(buffer.data() + i * bytes, model_.logits(static_cast<int64_t>(i)).data(), bytes);
  }
  return StartSend(buffer);
}

}  // namespace reprise::worker
