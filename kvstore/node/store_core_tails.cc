// The part of StoreCore that takes appended rows: whether they fit, where they go, and when a tail
// becomes a block.
#include <algorithm>
#include <utility>

#include "kvstore/block/checksum.h"
#include "kvstore/node/store_core.h"

namespace reprise::kv {

// Does it fit? ---------------------------------------------------------------------------------

Status StoreCore::CheckEntry(const TailEntry& entry) const {
  const int64_t block = options_.block_tokens;
  const auto rows = static_cast<int64_t>(entry.tokens.size());
  const int64_t row = entry.first_position % block;
  if (rows == 0 || row + rows > block || entry.first_position > limits::kContextTokensMax - rows) {
    return absl::InvalidArgumentError(absl::StrCat(rows, " rows from position ",
                                                   entry.first_position,
                                                   " are not inside one block of ", block));
  }
  if ((entry.first_position < block) != (entry.parent == BlockId())) {
    return absl::InvalidArgumentError(absl::StrCat("rows at position ", entry.first_position,
                                                   " have parent ", entry.parent.Hex()));
  }
  return absl::OkStatus();
}

Status StoreCore::FitChain(Sequence& sequence, const TailEntry& entry, bool* nothing_new) {
  const int64_t index = entry.first_position / options_.block_tokens;
  const size_t row = static_cast<size_t>(entry.first_position % options_.block_tokens);
  AdoptPrefix(sequence, index, entry.parent);
  const auto contradicts = [&](const ChainLink& link, int64_t at) -> Status {
    if (!(link.attempt < entry.request.attempt)) {
      return absl::InvalidArgumentError(absl::StrCat("block ", at, " of this attempt is another"));
    }
    ++counters_.tails_cut;
    CutChain(sequence, at);
    return absl::OkStatus();
  };
  if (const ChainLink* before = LinkAt(sequence, index - 1);
      before != nullptr && before->id != entry.parent) {
    RETURN_IF_ERROR(contradicts(*before, index - 1));
  }
  const ChainLink* own = LinkAt(sequence, index);
  if (own == nullptr || !blocks_.at(own->id).complete()) return absl::OkStatus();
  const bool same =
      own->tokens.empty() || std::equal(entry.tokens.begin(), entry.tokens.end(),
                                        own->tokens.begin() + static_cast<std::ptrdiff_t>(row));
  if (!same) return contradicts(*own, index);
  *nothing_new = true;
  return absl::OkStatus();
}

Status StoreCore::FitTail(Sequence& sequence, const TailEntry& entry, bool* nothing_new) {
  const int64_t index = entry.first_position / options_.block_tokens;
  const size_t row = static_cast<size_t>(entry.first_position % options_.block_tokens);
  const Status gap = absl::OutOfRangeError(
      absl::StrCat("rows at position ", entry.first_position, " do not follow what is held"));
  if (!sequence.tail.has_value()) return row == 0 ? absl::OkStatus() : gap;
  OpenTail& tail = *sequence.tail;
  const bool older = tail.attempt < entry.request.attempt;
  const bool same_chain = tail.parent == entry.parent && tail.prompt_end == entry.prompt_end;
  if (tail.index != index || !same_chain) {
    if (tail.index == index && !older) {
      return absl::InvalidArgumentError(
          "the open block of this attempt has another parent or prompt");
    }
    // Another block: the tail gives way to its first row unless its own rows count. What is held
    // never becomes less because more is on its way.
    if (row != 0 || CountsTail(sequence)) return gap;
    DropTail(sequence, false);
    return absl::OkStatus();
  }
  if (row > tail.tokens.size()) return gap;
  const size_t end = std::min(tail.tokens.size(), row + entry.tokens.size());
  for (size_t at = row; at < end; ++at) {
    if (tail.tokens[at] == entry.tokens[at - row]) continue;
    if (!older) {
      return absl::InvalidArgumentError(
          absl::StrCat("row ", at, " of this attempt has another token"));
    }
    ++counters_.tails_cut;
    tail.tokens.resize(at);
    break;
  }
  *nothing_new = row + entry.tokens.size() <= tail.tokens.size();
  return absl::OkStatus();
}

Status StoreCore::FitEntry(Sequence& sequence, const TailEntry& entry, bool* nothing_new) {
  RETURN_IF_ERROR(FitChain(sequence, entry, nothing_new));
  if (*nothing_new) return absl::OkStatus();
  return FitTail(sequence, entry, nothing_new);
}

// Taking rows ----------------------------------------------------------------------------------

Status StoreCore::OpenTailAt(Sequence& sequence, const TailEntry& entry) {
  const std::optional<Slot> slot = AllocateMemory();
  if (!slot.has_value()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("all of ", options_.memory_slots, " memory slots are in use"));
  }
  const int64_t index = entry.first_position / options_.block_tokens;
  sequence.tail = OpenTail{
      .id = ReplicaTailId(sequence.request.id, sequence.branch, index * options_.block_tokens),
      .index = index,
      .parent = entry.parent,
      .tenant_salt = entry.tenant_salt,
      .prompt_end = entry.prompt_end,
      .tokens = {},
      .known = {.parts = std::vector<uint32_t>(PartsOfBlock())},
      .attempt = entry.request.attempt,
      .slot = *slot};
  tails_[sequence.tail->id] = sequence.id;
  return absl::OkStatus();
}

Status StoreCore::PlanWrite(Sequence& sequence, const TailEntry& entry, AppendPlan* plan) {
  if (!sequence.tail.has_value()) RETURN_IF_ERROR(OpenTailAt(sequence, entry));
  OpenTail& tail = *sequence.tail;
  if (memory_[static_cast<size_t>(tail.slot)].pins > 0) {
    // Somebody reads the slot: the rows go into a copy.
    const std::optional<Slot> copy = AllocateMemory();
    if (!copy.has_value()) {
      return absl::ResourceExhaustedError("no slot to copy a tail into that is being read");
    }
    ++counters_.tails_copied;
    plan->copy_from = tail.slot;
    Pin(tail.slot);
    DropMemory(tail.slot, false);
    tail.slot = *copy;
  }
  plan->write = next_write_++;
  plan->slot = tail.slot;
  plan->first_row = static_cast<uint32_t>(tail.tokens.size());
  plan->skip =
      plan->first_row - static_cast<uint32_t>(entry.first_position % options_.block_tokens);
  Pin(tail.slot);
  tail.write = plan->write;
  writes_[plan->write] = {.sequence = sequence.id,
                          .request = entry.request,
                          .branch = entry.branch,
                          .slot = tail.slot,
                          .copy_from = plan->copy_from,
                          .tokens = {entry.tokens.begin() + static_cast<std::ptrdiff_t>(plan->skip),
                                     entry.tokens.end()},
                          .first_row = plan->first_row,
                          .tail_id = tail.id,
                          .block_position = tail.index * options_.block_tokens,
                          .known = {}};
  return absl::OkStatus();
}

StoreCore::AppendPlan StoreCore::OnAppend(const NodeKey& from, const TailEntry& entry, TimeNs now) {
  now_ = now;
  ++counters_.append_entries;
  AppendPlan plan;
  plan.held = {.request = entry.request, .branch = entry.branch, .status = CheckEntry(entry)};
  if (!plan.held.status.ok()) {
    CountRefusal(plan.held.status);
    return plan;
  }
  const StatusOr<Sequence*> opened = OpenSequence(from, entry.request, entry.branch, true);
  if (!opened.ok()) {
    plan.held.status = opened.status();
    CountRefusal(plan.held.status);
    return plan;
  }
  Sequence& sequence = **opened;
  if (sequence.tail.has_value() && sequence.tail->write != 0) {
    --counters_.append_entries;  // it comes again
    plan.busy = true;
    return plan;
  }
  bool nothing_new = false;
  Status status = FitEntry(sequence, entry, &nothing_new);
  if (status.ok() && !nothing_new) {
    status = PlanWrite(sequence, entry, &plan);
    if (status.ok()) return plan;
  }
  CountRefusal(status);
  plan.held = Answer(sequence, status);
  return plan;
}

void StoreCore::NoteParts(const TailWrite& write, const std::vector<uint32_t>& written,
                          SlotParts& known) const {
  const size_t rows = write.tokens.size();
  const size_t layers = options_.layers;
  if (written.size() != layers * rows) return;  // nothing was written
  for (size_t row = 0; row < rows; ++row) {
    uint32_t* const parts = &known.parts[(write.first_row + row) * layers];
    for (size_t layer = 0; layer < layers; ++layer) parts[layer] = written[layer * rows + row];
  }
  known.rows = std::max(known.rows, write.first_row + static_cast<uint32_t>(rows));
}

HeldRows StoreCore::OnAppended(uint64_t id, const Status& status,
                               const std::vector<uint32_t>& parts, TimeNs now) {
  now_ = now;
  TailWrite write = std::move(writes_.extract(id).mapped());
  UnpinSlot(write.slot);
  if (write.copy_from >= 0) UnpinSlot(write.copy_from);
  const auto found = sequences_.find(write.sequence);
  const bool current = found != sequences_.end() && found->second.tail.has_value() &&
                       found->second.tail->write == id;
  SlotParts& known = current ? found->second.tail->known : write.known;
  NoteParts(write, parts, known);
  if (write.awaited) {
    // The bytes a reader waits for were there before the write began.
    std::vector<uint32_t> sums = SumSlot(write.tail_id, write.block_position, write.slot, known);
    commands_.push_back(PublishBlock{write.tail_id, options_.layers, std::move(sums)});
  }
  if (found == sequences_.end()) {
    ++counters_.refused_released;
    return {.request = write.request,
            .branch = write.branch,
            .status = absl::NotFoundError("the request was released")};
  }
  Sequence& sequence = found->second;
  if (current) sequence.tail->write = 0;
  Status taken = status;
  if (taken.ok() && parts.size() != options_.layers * write.tokens.size()) {
    taken = absl::InternalError(absl::StrCat(write.tokens.size(), " rows in ", options_.layers,
                                             " layers came with ", parts.size(), " parts"));
  }
  if (taken.ok() && sequence.request.attempt != write.request.attempt) {
    taken = absl::AbortedError("a later attempt of the request has begun");
  } else if (taken.ok() && current) {
    OpenTail& tail = *sequence.tail;
    tail.tokens.insert(tail.tokens.end(), write.tokens.begin(), write.tokens.end());
    tail.attempt = write.request.attempt;
    counters_.append_rows += write.tokens.size();
    if (tail.tokens.size() == static_cast<size_t>(options_.block_tokens)) Seal(sequence);
  }
  if (current && sequence.tail.has_value() && sequence.tail->tokens.empty()) {
    DropTail(sequence, false);
  }
  CountRefusal(taken);
  HeldRows held = Answer(sequence, taken);
  held.request = write.request;
  StartDiskIo();
  return held;
}

// Tails ----------------------------------------------------------------------------------------

std::vector<uint32_t> StoreCore::SumSlot(const BlockId& id, int64_t first_position, Slot slot,
                                         SlotParts& known) {
  const auto rows = static_cast<uint32_t>(options_.block_tokens);
  if (known.rows < rows) commands_.push_back(ClearRows{slot, std::exchange(known.rows, rows)});
  std::vector<uint32_t> checksums;
  for (uint32_t layer = 0; layer < options_.layers; ++layer) {
    uint32_t sum = 0;
    for (size_t row = 0; row < rows; ++row) sum ^= known.parts[row * options_.layers + layer];
    checksums.push_back(SegmentChecksumOfParts(id, layer, first_position, sum, past_segment_));
  }
  return checksums;
}

void StoreCore::DropTail(Sequence& sequence, bool ended) {
  // A reader may wait for the end of the write, whatever becomes of the tail.
  const uint64_t write = sequence.tail->write;
  if (write != 0) writes_.at(write).known = std::move(sequence.tail->known);
  tails_.erase(sequence.tail->id);
  DropMemory(sequence.tail->slot, ended);
  sequence.tail.reset();
}

void StoreCore::Seal(Sequence& sequence) {
  ChainContext chain = chain_;
  chain.tenant_salt = sequence.tail->tenant_salt;
  tails_.erase(sequence.tail->id);
  OpenTail tail = *std::move(sequence.tail);
  sequence.tail.reset();
  const int64_t position = tail.index * options_.block_tokens;
  const BlockId id =
      ChildId(chain, tail.parent, tail.tokens, FormDerivation(chain, position, tail.prompt_end));
  Block& block = blocks_[id];
  const bool there = block.complete();
  if (there || (!block.leases.empty() && block.first_position != position)) {
    DropMemory(tail.slot, false);  // held already, or leased at a false position
  } else {
    block.first_position = position;
    AdoptSealed(id, block, tail);
  }
  if (const ChainLink* link = LinkAt(sequence, tail.index); link != nullptr && link->id != id) {
    CutChain(sequence, tail.index);  // offered as another, and not complete
  }
  if (Lease(sequence, tail.index, id, tail.attempt)) {
    sequence.chain.at(tail.index).tokens = std::move(tail.tokens);
  }
  ++counters_.blocks_sealed;
  CountComplete(sequence);
  sequence.told = HeldOf(sequence);  // by the answer
  if (!there && block.complete()) CompleteBlock(id, block);
}

void StoreCore::AdoptSealed(const BlockId& id, Block& block, OpenTail& tail) {
  if (block.memory == Memory::kFetching) {
    // Offered and still on its way: the fetch keeps the slot it writes to, and its readers.
    for (auto& [number, fetch] : fetches_) {
      for (FetchItem& item : fetch.items) {
        if (item.id != id || item.detached) continue;
        item.detached = true;
        item.checksums = block.checksums;
        Pin(item.slot);
        DropMemory(item.slot, false);
      }
    }
  }
  block.memory = Memory::kComplete;
  block.checksums = SumSlot(id, block.first_position, tail.slot, tail.known);
  GiveMemory(id, block, tail.slot);
  block.layers_ready = options_.layers;
}

std::optional<StoreCore::Found> StoreCore::FindTail(const BlockId& id) {
  const auto tail = tails_.find(id);
  if (tail == tails_.end()) return std::nullopt;
  Sequence& sequence = sequences_.at(tail->second);
  const bool writing = sequence.tail->write != 0;
  if (writing) writes_.at(sequence.tail->write).awaited = true;
  Found found = FoundAt(sequence.tail->slot);
  found.state = writing ? Found::State::kPending : Found::State::kReady;
  found.layers_ready = writing ? 0 : options_.layers;
  found.first_position = sequence.tail->index * options_.block_tokens;
  found.tail = true;
  if (!writing) {
    found.checksums = SumSlot(id, found.first_position, found.slot, sequence.tail->known);
  }
  return found;
}

}  // namespace reprise::kv
