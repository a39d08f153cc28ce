// What a simulated worker does with memory: steps, listings, and reads by peers.
#include <cstring>
#include <utility>

#include "tests/simulation/sim_worker.h"

namespace reprise::sim {

// Steps ------------------------------------------------------------------------------------------

void SimWorker::StartStep(worker::StepPlan plan) {
  for (const auto& [from, to] : plan.copies) {
    std::memcpy(PageData(to), PageData(from), context_.block_bytes());
  }
  plan_ = std::move(plan);
  for (uint32_t layer = 0; layer < context_.model.layers; ++layer) {
    const TimeNs at = size_.layer_time * (layer + 1);
    world_.After(at, {"layer", pid_, pid_, layer}, [this, layer] { RunLayer(layer); });
  }
}

void SimWorker::RunLayer(uint32_t layer) {
  const bool early = context_.mutated(Mutation::kPublishedEarly);
  if (early) PublishCompleted(layer);
  for (const worker::StepItem& item : plan_->items) WriteRows(item, layer);
  if (!early) PublishCompleted(layer);
  ++progress_;
  if (layer + 1 == context_.model.layers) EndStep();
}

void SimWorker::WriteRows(const worker::StepItem& item, uint32_t layer) {
  const worker::TimedModel& model = context_.model;
  for (size_t i = 0; i < item.tokens.size(); ++i) {
    const int64_t position = item.first_position + static_cast<int64_t>(i);
    const worker::PageId page = item.pages[static_cast<size_t>(position / model.block_tokens)];
    uint8_t* const row = PageData(page) + layer * context_.segment_bytes() +
                         static_cast<size_t>(position % model.block_tokens) * model.row_bytes;
    worker::WriteTimedRow(model, item.tokens[i], position, worker::FormAt(item, position), layer,
                          {row, model.row_bytes});
  }
}

void SimWorker::PublishCompleted(uint32_t layer) {
  for (const auto& [id, page] : plan_->completes) {
    const auto found = listed_.find(id);
    if (found == listed_.end() || found->second.page != page) continue;
    if (found->second.state != worker::ListBlock::State::kPending) continue;
    if (context_.mutated(Mutation::kPublicationDropped) && layer + 1 == context_.model.layers) {
      continue;
    }
    found->second.layers_ready = layer + 1;
    stream_.Publish(id, layer + 1, {});
  }
}

uint64_t SimWorker::FoldOf(const worker::StepItem& item) {
  const worker::TimedModel& model = context_.model;
  worker::TimedFold fold(model);
  int64_t left = item.first_position + static_cast<int64_t>(item.tokens.size());
  for (size_t block = 0; left > 0; ++block, left -= model.block_tokens) {
    const auto rows = static_cast<size_t>(std::min<int64_t>(left, model.block_tokens));
    for (uint32_t layer = 0; layer < model.layers; ++layer) {
      fold.Add(
          {PageData(item.pages[block]) + layer * context_.segment_bytes(), rows * model.row_bytes});
    }
  }
  return fold.Value();
}

void SimWorker::EndStep() {
  worker::StepDone done;
  for (const worker::StepSample& sample : plan_->samples) {
    const uint64_t fold = FoldOf(plan_->items[sample.item]);
    done.samples.push_back(worker::TimedSample(context_.model, fold, sample.input));
  }
  // The plan's spans live until the core has handled the event.
  core_.Handle(std::move(done), world_.now());
  plan_.reset();
  Pump();
}

// Listings ---------------------------------------------------------------------------------------

void SimWorker::Run(const worker::ListBlock& command) {
  using State = worker::ListBlock::State;
  const auto found = listed_.find(command.id);
  if (found != listed_.end() && found->second.page != command.page &&
      context_.mutation == Mutation::kNone) {
    world_.Fail(absl::StrCat(key_.name, " gave a listed block another page"));
  }
  const bool complete = command.state != State::kPending;
  listed_[command.id] = {command.page, command.first_position, command.state,
                         complete ? context_.model.layers : 0};
  if (!complete) return;
  if (command.state == State::kSealed) {
    const std::string wrong =
        context_.oracle.Check(command.id, command.first_position, PageData(command.page));
    if (!wrong.empty() && context_.mutation == Mutation::kNone) {
      world_.Fail(absl::StrCat(key_.name, " sealed page ", command.page, " wrongly: ", wrong));
    }
    events_.Added(command.id);
  }
  if (!context_.mutated(Mutation::kPublicationDropped)) {
    stream_.Publish(command.id, context_.model.layers, {});
  }
}

void SimWorker::Run(const worker::UnlistBlock& command) {
  const auto page = static_cast<size_t>(command.page);
  const auto found = listed_.find(command.id);
  const bool names_it = found != listed_.end() && found->second.page == command.page;
  if (names_it && !context_.mutated(Mutation::kUnlistForgotten)) {
    if (found->second.state == worker::ListBlock::State::kSealed) events_.Removed(command.id);
    listed_.erase(found);
    stream_.Withdraw(command.id);
  }
  if (pins_[page] == 0 || context_.mutated(Mutation::kPageQuietAtOnce)) {
    quiet_.push_back(command.page);
  } else {
    unlisted_[page] = true;
  }
}

KvFound SimWorker::Find(const kv::BlockId& id) {
  const auto found = listed_.find(id);
  if (found == listed_.end()) return {};
  const Listed& listed = found->second;
  const bool complete = listed.layers_ready == context_.model.layers;
  ++pins_[static_cast<size_t>(listed.page)];
  return {.state = complete ? KvFound::State::kReady : KvFound::State::kPending,
          .layers_ready = listed.layers_ready,
          .first_position = listed.first_position,
          .data = PageData(listed.page),
          .checksums = {},
          .unpin = [this, page = listed.page] { Unpin(page); }};
}

// Called on this process's own events, but never inside the core: what it finds quiet is told to
// the core by an event of its own when no pump is running.
void SimWorker::Unpin(worker::PageId page) {
  const auto index = static_cast<size_t>(page);
  if (--pins_[index] > 0 || !unlisted_[index]) return;
  unlisted_[index] = false;
  quiet_.push_back(page);
  world_.After(0, {"page_quiet", pid_, pid_, index}, [this] { Pump(); });
}

}  // namespace reprise::sim
