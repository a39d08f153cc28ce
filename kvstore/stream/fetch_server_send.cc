// The sending half of FetchServer: whose turn it is, what the limits allow, and what is posted.
#include <algorithm>
#include <utility>

#include "kvstore/block/checksum.h"
#include "kvstore/stream/fetch_server.h"

namespace reprise::kv {

void FetchServer::Enqueue(Fetch& fetch, uint32_t index) {
  Item& item = fetch.items[index];
  if (item.over || item.waiting_turn || item.layers_sent >= Ready(fetch, item.block)) return;
  item.waiting_turn = true;
  fetch.ready.push_back(index);
  if (!fetch.queued) {
    fetch.queued = true;
    turns_.emplace_back(fetch.connection->endpoint, fetch.message.fetch_id);
  }
}

bool FetchServer::MayPost(const Connection& connection, size_t bytes) const {
  if (connection.posted_bytes == 0) return true;
  return posted_bytes_ + bytes <= options_.inflight_bytes_max &&
         connection.posted_bytes + bytes <= peer_bytes_max_;
}

std::optional<FetchServer::Run> FetchServer::TakeRun(Fetch& fetch) {
  while (!fetch.ready.empty()) {
    const uint32_t index = fetch.ready.front();
    Item& item = fetch.items[index];
    if (item.over) {
      fetch.ready.pop_front();
      continue;
    }
    const size_t layers_max = std::max<size_t>(1, run_bytes_max_ / fetch.view.segment_bytes());
    const uint32_t ready = Ready(fetch, item.block);
    const auto layers =
        static_cast<uint32_t>(std::min<size_t>(ready - item.layers_sent, layers_max));
    if (!MayPost(*fetch.connection, layers * fetch.view.segment_bytes())) return std::nullopt;
    const Run run{.fetch = {fetch.connection->endpoint, fetch.message.fetch_id},
                  .item = index,
                  .first_layer = fetch.view.inner().layers.begin + item.layers_sent,
                  .layers = layers};
    item.layers_sent += layers;
    if (item.layers_sent == ready) {
      item.waiting_turn = false;
      fetch.ready.pop_front();
    }
    return run;
  }
  return std::nullopt;
}

std::optional<FetchServer::Run> FetchServer::NextRun() {
  // Every fetch in the queue is asked once; those whose peer is at its limit keep their turn.
  for (size_t asked = 0, waiting = turns_.size(); asked < waiting; ++asked) {
    const FetchKey key = turns_.front();
    turns_.pop_front();
    const auto found = fetches_.find(key);
    if (found == fetches_.end()) continue;
    Fetch& fetch = *found->second;
    const std::optional<Run> run = TakeRun(fetch);
    fetch.queued = !fetch.ready.empty();
    if (fetch.queued) turns_.push_back(key);
    if (run.has_value()) return run;
  }
  return std::nullopt;
}

void FetchServer::Pump() {
  // A throttled link carries one run at a time, so that fetches take turns on it too.
  while (!crossing_) {
    const std::optional<Run> run = NextRun();
    if (!run.has_value()) return;
    Fetch& fetch = *fetches_.at(run->fetch);
    const size_t bytes = run->layers * fetch.view.segment_bytes();
    ++fetch.items[run->item].posted;
    ++fetch.posted;
    fetch.connection->posted_bytes += bytes;
    posted_bytes_ += bytes;
    context_.counters->posted_bytes.store(posted_bytes_, std::memory_order_relaxed);
    if (!pacer_.active()) {
      Post(*run);
    } else {
      crossing_ = true;
      context_.timers->At(pacer_.Cross(context_.Now(), bytes), [this, run = *run] {
        crossing_ = false;
        Post(run);
        Pump();
      });
    }
  }
}

uint32_t FetchServer::ChecksumOf(const Fetch& fetch, const Item& item, uint32_t layer) const {
  const PartView& view = fetch.view;
  const size_t at = layer - view.outer().layers.begin;
  if (at < item.block.checksums.size()) return item.block.checksums[at];
  return SegmentChecksum(item.id, layer, item.block.first_position,
                         item.block.data + view.SegmentAt(layer), view.outer_segment_bytes());
}

StatusOr<FetchServer::Load> FetchServer::Prepare(const Fetch& fetch, const Run& run) {
  if (!fetch.view.direct()) return Collect(fetch, run);
  const Item& item = fetch.items[run.item];
  Load load{.bytes = {item.block.data + fetch.view.SegmentAt(run.first_layer),
                      run.layers * fetch.view.segment_bytes()},
            .gathered = nullptr,
            .checksums = {}};
  for (uint32_t i = 0; i < run.layers; ++i) {
    load.checksums.push_back(ChecksumOf(fetch, item, run.first_layer + i));
  }
  return load;
}

StatusOr<FetchServer::Load> FetchServer::Collect(const Fetch& fetch, const Run& run) {
  const Item& item = fetch.items[run.item];
  const size_t segment_bytes = fetch.view.segment_bytes();
  Load load;
  ASSIGN_OR_RETURN(load.gathered, gathered_->Take(run.layers * segment_bytes));
  load.bytes = load.gathered->bytes();
  const Range& held = fetch.view.outer().heads;
  const Range& wanted = fetch.view.inner().heads;
  for (uint32_t i = 0; i < run.layers; ++i) {
    const uint32_t layer = run.first_layer + i;
    const uint8_t* const segment = item.block.data + fetch.view.SegmentAt(layer);
    const uint32_t made =
        fetch.gather->Gather(segment, load.gathered->writable().data() + i * segment_bytes,
                             SegmentSeed(item.id, layer, item.block.first_position));
    if (!item.block.summed) {
      load.checksums.push_back(made);
      continue;
    }
    ASSIGN_OR_RETURN(const uint32_t known,
                     head_sums_.ChecksumOf({.id = item.id,
                                            .layer = layer,
                                            .first_position = item.block.first_position,
                                            .data = segment,
                                            .checksum = ChecksumOf(fetch, item, layer)},
                                           {wanted.begin - held.begin, wanted.end - held.begin}));
    load.checksums.push_back(known);
  }
  return load;
}

void FetchServer::Post(const Run& run) {
  Fetch& fetch = *fetches_.at(run.fetch);  // present while a run is posted
  if (fetch.ended) {
    OnPosted(run, absl::CancelledError("the fetch has ended"));
    return;
  }
  StatusOr<Load> load = Prepare(fetch, run);
  if (!load.ok()) {
    context_.counters->checksum_failures.fetch_add(1, std::memory_order_relaxed);
    if (!fetch.items[run.item].over) WithdrawItem(fetch, run.item);
    // Later: this may be one of many.
    context_.transport->Post([this, run, status = load.status()] { OnPosted(run, status); });
    return;
  }
  wire::Bulk bulk{.fetch_id = fetch.message.fetch_id,
                  .receiver_incarnation = fetch.connection->peer.incarnation,
                  .item = run.item,
                  .first_layer = static_cast<uint16_t>(run.first_layer),
                  .layers = static_cast<uint16_t>(run.layers),
                  .attempt_n = fetch.message.request.attempt.n};
  bulk.checksum = wire::RunChecksum(bulk, fetch.view.inner().heads, load->checksums);
  context_.transport->SendBulk(
      run.fetch.first, wire::EncodeBulk(bulk), load->bytes,
      [this, run, gathered = load->gathered](const Status& status) { OnPosted(run, status); });
}

void FetchServer::OnPosted(const Run& run, const Status& status) {
  Fetch& fetch = *fetches_.at(run.fetch);
  Item& item = fetch.items[run.item];
  const size_t bytes = run.layers * fetch.view.segment_bytes();
  --item.posted;
  --fetch.posted;
  fetch.connection->posted_bytes -= bytes;
  posted_bytes_ -= bytes;
  if (status.ok()) {
    context_.counters->segments_sent.fetch_add(run.layers, std::memory_order_relaxed);
    context_.counters->bytes_sent.fetch_add(bytes, std::memory_order_relaxed);
  }
  // After those: who sees nothing posted sees all that was sent.
  context_.counters->posted_bytes.store(posted_bytes_, std::memory_order_release);
  // A refusal means that the peer has settled the item or ended the fetch; a broken connection is
  // reported on its own. Either way nothing more of this item is of use.
  const bool sent = item.layers_sent == fetch.view.layers() && item.posted == 0;
  if (!item.over && (sent || !status.ok())) CloseItem(fetch, item);
  if (item.over && item.posted == 0) item.block.pin = SegmentPin();
  FinishIfQuiet(fetch);
  Pump();
}

}  // namespace reprise::kv
