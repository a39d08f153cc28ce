#include "worker/group/step_driver.h"

#include <cstring>

#include "common/bytes.h"

namespace reprise::worker {
namespace {

constexpr size_t kLoadsUnderWay = 32;

size_t Count(const std::vector<PageRows>& rows) {
  size_t count = 0;
  for (const PageRows& run : rows) count += run.end - run.begin;
  return count;
}

}  // namespace

Status StepDriver::Run(const StepOrder& order, std::span<const StepItem> items,
                       const Executor::LayerDone& layer_done, const std::function<void()>& tick,
                       std::vector<float>* logits) {
  const TimeNs deadline_ns = RealClock().NowNs() + kGroupStepNs;
  RETURN_IF_ERROR(SendOrder(order, deadline_ns));
  RETURN_IF_ERROR(SendLoads(order, deadline_ns));
  const uint32_t block_tokens = own_.setup().info.kv_format.block_tokens;
  parts_.clear();
  size_t first = 0;
  size_t outputs = 0;
  for (const uint32_t size : order.parts) {
    Part& part = parts_.emplace_back();
    part.items = items.subspan(first, size);
    part.first_output = outputs;
    for (const StepItem& item : part.items) outputs += item.wants_output ? 1 : 0;
    for (uint32_t context = 0; context < links_.split.context; ++context) {
      part.rows.push_back(RowsOf(part.items, block_tokens, links_.split, context));
    }
    first += size;
  }
  logits->resize(outputs * static_cast<size_t>(own_.setup().info.vocab_size));
  for (Part& part : parts_) {
    RETURN_IF_ERROR(Post(part));
    RETURN_IF_ERROR(RunOwn(part, &part == &parts_.back(), layer_done, tick, deadline_ns));
    if (own_.share().last_stage) {
      KeepLogits(
          part, shares_[0], OutputsOf(part.items, links_.split, 0),
          [&](size_t i) { return own_.logits(static_cast<int64_t>(i)); }, logits);
    }
  }
  for (uint32_t stage = 1; stage < links_.split.pipeline; ++stage) {
    const RankShare& first_of_stage = shares_[kv::RankAt(links_.split, {.stage = stage})];
    const kv::Range layers = first_of_stage.rows.part().layers;
    for (uint32_t layer = layers.begin; layer < layers.end; ++layer) {
      for (Part& part : parts_) RETURN_IF_ERROR(Take(part, stage, layer, deadline_ns));
      layer_done(layer);
    }
  }
  for (Part& part : parts_) RETURN_IF_ERROR(TakeLogits(part, deadline_ns, logits));
  return own_.Settle(deadline_ns);
}

Status StepDriver::SendOrder(const StepOrder& order, TimeNs deadline_ns) {
  order_bytes_ = EncodeStep(order);
  header_ = EncodeHeader({.bytes = order_bytes_.size(), .step_ms = kGroupStepNs / kMillisecond});
  std::vector<parallel::ExchangeId> sending;
  for (size_t rank = 1; rank < shares_.size(); ++rank) {
    for (const std::span<const uint8_t> bytes : {AsBytes(header_), AsBytes(order_bytes_)}) {
      ASSIGN_OR_RETURN(const parallel::ExchangeId id,
                       links_.world->Start({.to = static_cast<int>(rank), .send = bytes}));
      sending.push_back(id);
    }
  }
  for (const parallel::ExchangeId id : sending) {
    RETURN_IF_ERROR(links_.world->Wait(id, deadline_ns));
  }
  return absl::OkStatus();
}

Status StepDriver::SendLoads(const StepOrder& order, TimeNs deadline_ns) {
  const auto block_tokens = static_cast<int64_t>(own_.setup().info.kv_format.block_tokens);
  std::deque<parallel::ExchangeId> sending;
  loads_.clear();
  for (const PageLoad& load : order.loads) {
    const uint32_t context = kv::ContextOwner(links_.split, load.block * block_tokens);
    for (size_t rank = 0; rank < shares_.size(); ++rank) {
      if (shares_[rank].place.context != context) continue;
      const uint8_t* const whole = pages_.Page(load.page);
      if (rank == 0) {
        own_.rows().Cut(whole, own_.Page(load.page).data());
        own_.OnPageGiven(load.page);
        continue;
      }
      if (sending.size() == kLoadsUnderWay) {
        RETURN_IF_ERROR(links_.world->Wait(sending.front(), deadline_ns));
        sending.pop_front();
        loads_.pop_front();
      }
      std::vector<uint8_t>& bytes = loads_.emplace_back(shares_[rank].rows.page_bytes());
      shares_[rank].rows.Cut(whole, bytes.data());
      ASSIGN_OR_RETURN(const parallel::ExchangeId id,
                       links_.world->Start({.to = static_cast<int>(rank), .send = bytes}));
      sending.push_back(id);
    }
  }
  for (const parallel::ExchangeId id : sending) {
    RETURN_IF_ERROR(links_.world->Wait(id, deadline_ns));
  }
  loads_.clear();
  return absl::OkStatus();
}

// Receives are posted in the order in which each rank sends.
Status StepDriver::Post(Part& part) {
  part.ranks.resize(shares_.size());
  for (size_t rank = 1; rank < shares_.size(); ++rank) {
    const RankShare& share = shares_[rank];
    Incoming& incoming = part.ranks[rank];
    const size_t count = share.sends_rows ? Count(part.rows[share.place.context]) : 0;
    for (uint32_t i = 0; count > 0 && i < share.rows.part().layers.size(); ++i) {
      incoming.bytes.emplace_back(count * share.rows.row_bytes());
      ASSIGN_OR_RETURN(
          const parallel::ExchangeId id,
          links_.world->Start({.from = static_cast<int>(rank), .receive = incoming.bytes.back()}));
      incoming.layers.push_back(id);
    }
    if (!share.last_stage) continue;
    incoming.outputs = OutputsOf(part.items, links_.split, share.place.context);
    if (incoming.outputs.empty()) continue;
    incoming.values.resize(incoming.outputs.size() * static_cast<size_t>(share.vocab.size()));
    ASSIGN_OR_RETURN(
        incoming.logits,
        links_.world->Start({.from = static_cast<int>(rank),
                             .receive = parallel::FloatBytes(std::span<float>(incoming.values))}));
  }
  return absl::OkStatus();
}

Status StepDriver::RunOwn(Part& part, bool last, const Executor::LayerDone& layer_done,
                          const std::function<void()>& tick, TimeNs deadline_ns) {
  Status taken;
  RETURN_IF_ERROR(own_.Forward(
      part.items,
      [&](uint32_t layer) {
        if (!taken.ok()) return;
        KeepOwnRows(part, layer);
        taken = Take(part, 0, layer, deadline_ns);
        if (!taken.ok()) return;
        if (last) {
          layer_done(layer);
        } else if (tick) {
          tick();
        }
      },
      deadline_ns));
  return taken;
}

void StepDriver::KeepOwnRows(const Part& part, uint32_t layer) {
  const std::vector<PageRows>& rows = part.rows[0];
  own_rows_.resize(Count(rows) * own_.rows().row_bytes());
  uint8_t* out = own_rows_.data();
  for (const PageRows& run : rows) {
    own_.rows().Take(own_.Page(run.page).data(), layer, run.begin, run.end, out);
  }
  const uint8_t* in = own_rows_.data();
  for (const PageRows& run : rows) {
    own_.rows().Put(in, layer, run.begin, run.end, pages_.Page(run.page));
  }
}

Status StepDriver::Take(Part& part, uint32_t stage, uint32_t layer, TimeNs deadline_ns) {
  for (size_t rank = 1; rank < shares_.size(); ++rank) {
    const RankShare& share = shares_[rank];
    Incoming& incoming = part.ranks[rank];
    if (share.place.stage != stage || incoming.layers.empty()) continue;
    const size_t index = layer - share.rows.part().layers.begin;
    RETURN_IF_ERROR(links_.world->Wait(incoming.layers[index], deadline_ns));
    const uint8_t* in = incoming.bytes[index].data();
    for (const PageRows& run : part.rows[share.place.context]) {
      share.rows.Put(in, layer, run.begin, run.end, pages_.Page(run.page));
    }
  }
  return absl::OkStatus();
}

Status StepDriver::TakeLogits(Part& part, TimeNs deadline_ns, std::vector<float>* logits) {
  for (size_t rank = 1; rank < shares_.size(); ++rank) {
    Incoming& incoming = part.ranks[rank];
    if (incoming.outputs.empty()) continue;
    RETURN_IF_ERROR(links_.world->Wait(incoming.logits, deadline_ns));
    const auto width = static_cast<size_t>(shares_[rank].vocab.size());
    KeepLogits(
        part, shares_[rank], incoming.outputs,
        [&](size_t i) { return std::span<const float>(incoming.values).subspan(i * width, width); },
        logits);
  }
  return absl::OkStatus();
}

void StepDriver::KeepLogits(const Part& part, const RankShare& share,
                            std::span<const size_t> outputs,
                            const std::function<std::span<const float>(size_t)>& values,
                            std::vector<float>* logits) const {
  const auto vocab = static_cast<size_t>(own_.setup().info.vocab_size);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const std::span<const float> row = values(i);
    std::memcpy(logits->data() + (part.first_output + outputs[i]) * vocab +
                    static_cast<size_t>(share.vocab.begin),
                row.data(), row.size_bytes());
  }
}

}  // namespace reprise::worker
