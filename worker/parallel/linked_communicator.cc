#include "worker/parallel/linked_communicator.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace reprise::parallel {
namespace {

std::vector<size_t> Offsets(std::span<const size_t> sizes) {
  std::vector<size_t> offsets(sizes.size());
  std::exclusive_scan(sizes.begin(), sizes.end(), offsets.begin(), size_t{0});
  return offsets;
}

// The part of a rank's chunk that turn `turn` of a reduction moves.
Chunk TurnOf(Chunk chunk, size_t turn) {
  const size_t begin = std::min(chunk.begin + turn * kReduceSegmentElements, chunk.end);
  return {begin, std::min(begin + kReduceSegmentElements, chunk.end)};
}

size_t TurnsOf(size_t n, int size) {
  const size_t longest = n / static_cast<size_t>(size) + 1;
  return (longest + kReduceSegmentElements - 1) / kReduceSegmentElements;
}

}  // namespace

void LinkedCommunicator::Abort(const Status& reason) {
  link_->Fail(absl::AbortedError(absl::StrCat("rank ", rank(), " aborted: ", reason.ToString())));
}

Status LinkedCommunicator::Refuse(const std::string& message) {
  return Fail(absl::InvalidArgumentError(absl::StrCat("rank ", rank(), ": ", message)));
}

Status LinkedCommunicator::Fail(const Status& cause) {
  link_->Fail(cause);
  return Alive();
}

Status LinkedCommunicator::Copy(std::span<const uint8_t> from, std::span<uint8_t> to) {
  const Status copied = memory_->Copy(from, to);
  return copied.ok() ? copied : Fail(copied);
}

Status LinkedCommunicator::CheckSizes(std::span<const size_t> sizes, size_t total,
                                      const char* what) {
  if (sizes.size() != static_cast<size_t>(size())) {
    return Refuse(absl::StrCat(what, " has ", sizes.size(), " sizes for ", size(), " ranks"));
  }
  size_t sum = 0;
  for (const size_t bytes : sizes) {
    if (__builtin_add_overflow(sum, bytes, &sum)) sum = SIZE_MAX;
  }
  if (sum == total) return absl::OkStatus();
  return Refuse(absl::StrCat(what, " has ", total, " bytes, its sizes add up to ", sum));
}

CallTag LinkedCommunicator::BeginCall(Op op, size_t bytes) {
  ++stats_[static_cast<size_t>(op)].calls;
  return {.op = op, .call = ++calls_, .step = 0, .call_bytes = bytes};
}

BatchId LinkedCommunicator::Post(Batch batch) {
  OpStats& stats = stats_[static_cast<size_t>(batch.tag.op)];
  for (const Outgoing& out : batch.out) stats.bytes_sent += out.data.size();
  for (const Incoming& in : batch.in) stats.bytes_received += in.data.size();
  return link_->Start(std::move(batch));
}

std::vector<int> LinkedCommunicator::Peers() const {
  std::vector<int> peers;
  for (int i = 1; i < size(); ++i) peers.push_back((rank() + i) % size());
  return peers;
}

// ---- Point to point. ----

StatusOr<ExchangeId> LinkedCommunicator::Start(const Exchange& exchange) {
  RETURN_IF_ERROR(Alive());
  for (const int peer : {exchange.to, exchange.from}) {
    if (peer < -1 || peer >= size() || peer == rank()) {
      return Refuse(absl::StrCat("an exchange with rank ", peer, " of ", size()));
    }
  }
  Batch batch;
  if (exchange.to != -1) batch.out.push_back({exchange.to, exchange.send});
  if (exchange.from != -1) batch.in.push_back({exchange.from, exchange.receive});
  ++stats_[static_cast<size_t>(Op::kPointToPoint)].calls;
  const BatchId id = Post(std::move(batch));
  exchanges_.insert(id);
  return id;
}

Status LinkedCommunicator::Wait(ExchangeId exchange, TimeNs deadline_ns) {
  RETURN_IF_ERROR(Alive());
  if (exchanges_.erase(exchange) == 0) {
    return Refuse(absl::StrCat("waits for exchange ", exchange, ", which is not under way"));
  }
  return link_->Wait(exchange, deadline_ns);
}

// ---- Collectives. ----

Status LinkedCommunicator::Barrier(TimeNs deadline_ns) {
  Batch batch{.tag = BeginCall(Op::kBarrier, 0), .out = {}, .in = {}};
  for (const int peer : Peers()) {
    batch.out.push_back({peer, {}});
    batch.in.push_back({peer, {}});
  }
  return Run(std::move(batch), deadline_ns);
}

Status LinkedCommunicator::ReduceChunk(CallTag tag, std::span<const float> data,
                                       std::span<float> own, TimeNs deadline_ns) {
  const size_t turn = tag.step / 2;
  Batch batch{.tag = tag, .out = {}, .in = {}};
  const auto room = memory_->Terms(own.size() * static_cast<size_t>(size() - 1), own.data());
  if (!room.ok()) return Fail(room.status());
  std::vector<float*> terms(static_cast<size_t>(size()), own.data());
  size_t at = 0;
  for (const int peer : Peers()) {
    const Chunk theirs = TurnOf(ChunkOf(data.size(), peer, size()), turn);
    const std::span<float> term(*room + at, own.size());
    batch.out.push_back({peer, FloatBytes(data.subspan(theirs.begin, theirs.size()))});
    batch.in.push_back({peer, FloatBytes(term)});
    terms[static_cast<size_t>(peer)] = term.data();
    at += own.size();
  }
  RETURN_IF_ERROR(Run(std::move(batch), deadline_ns));
  const Status summed = memory_->Sum(terms, own.size());
  if (!summed.ok()) return Fail(summed);
  return Copy(FloatBytes(std::span<const float>(terms[0], own.size())), FloatBytes(own));
}

Status LinkedCommunicator::AllReduce(std::span<float> data, TimeNs deadline_ns) {
  CallTag tag = BeginCall(Op::kAllReduce, data.size_bytes());
  const size_t turns = TurnsOf(data.size(), size());
  for (size_t turn = 0; turn < turns; ++turn) {
    const auto part = [&](int r) {
      const Chunk chunk = TurnOf(ChunkOf(data.size(), r, size()), turn);
      return data.subspan(chunk.begin, chunk.size());
    };
    tag.step = static_cast<uint32_t>(2 * turn);
    RETURN_IF_ERROR(ReduceChunk(tag, data, part(rank()), deadline_ns));
    ++tag.step;
    Batch batch{.tag = tag, .out = {}, .in = {}};
    for (const int peer : Peers()) {
      batch.out.push_back({peer, FloatBytes(std::span<const float>(part(rank())))});
      batch.in.push_back({peer, FloatBytes(part(peer))});
    }
    RETURN_IF_ERROR(Run(std::move(batch), deadline_ns));
  }
  return absl::OkStatus();
}

Status LinkedCommunicator::ReduceScatter(std::span<const float> data, std::span<float> mine,
                                         TimeNs deadline_ns) {
  RETURN_IF_ERROR(Alive());
  const Chunk own = ChunkOf(data.size(), rank(), size());
  if (mine.size() != own.size()) {
    return Refuse(absl::StrCat("reduce_scatter into ", mine.size(), " elements, the chunk of ",
                               data.size(), " has ", own.size()));
  }
  CallTag tag = BeginCall(Op::kReduceScatter, data.size_bytes());
  RETURN_IF_ERROR(Copy(FloatBytes(data.subspan(own.begin, own.size())), FloatBytes(mine)));
  const size_t turns = TurnsOf(data.size(), size());
  for (size_t turn = 0; turn < turns; ++turn) {
    const Chunk part = TurnOf({0, own.size()}, turn);
    tag.step = static_cast<uint32_t>(2 * turn);
    RETURN_IF_ERROR(ReduceChunk(tag, data, mine.subspan(part.begin, part.size()), deadline_ns));
  }
  return absl::OkStatus();
}

Status LinkedCommunicator::AllGather(std::span<const uint8_t> mine, std::span<const size_t> sizes,
                                     std::span<uint8_t> all, TimeNs deadline_ns) {
  RETURN_IF_ERROR(Alive());
  RETURN_IF_ERROR(CheckSizes(sizes, all.size(), "all_gather"));
  const size_t own = sizes[static_cast<size_t>(rank())];
  if (mine.size() != own) {
    return Refuse(absl::StrCat("all_gather brings ", mine.size(), " bytes, its size says ", own));
  }
  Batch batch{.tag = BeginCall(Op::kAllGather, all.size()), .out = {}, .in = {}};
  const std::vector<size_t> offsets = Offsets(sizes);
  const auto part = [&](int r) {
    const auto i = static_cast<size_t>(r);
    return all.subspan(offsets[i], sizes[i]);
  };
  for (const int peer : Peers()) {
    batch.out.push_back({peer, mine});
    batch.in.push_back({peer, part(peer)});
  }
  RETURN_IF_ERROR(Copy(mine, part(rank())));
  return Run(std::move(batch), deadline_ns);
}

Status LinkedCommunicator::AllToAll(std::span<const uint8_t> send,
                                    std::span<const size_t> send_sizes, std::span<uint8_t> receive,
                                    std::span<const size_t> receive_sizes, TimeNs deadline_ns) {
  RETURN_IF_ERROR(Alive());
  RETURN_IF_ERROR(CheckSizes(send_sizes, send.size(), "all_to_all's send"));
  RETURN_IF_ERROR(CheckSizes(receive_sizes, receive.size(), "all_to_all's receive"));
  const auto own = static_cast<size_t>(rank());
  if (send_sizes[own] != receive_sizes[own]) {
    return Refuse(absl::StrCat("all_to_all sends ", send_sizes[own],
                               " bytes to itself and receives ", receive_sizes[own]));
  }
  // Ranks may send different amounts, so the call as a whole has no common size.
  Batch batch{.tag = BeginCall(Op::kAllToAll, 0), .out = {}, .in = {}};
  const std::vector<size_t> send_at = Offsets(send_sizes);
  const std::vector<size_t> receive_at = Offsets(receive_sizes);
  const auto out = [&](size_t r) { return send.subspan(send_at[r], send_sizes[r]); };
  const auto in = [&](size_t r) { return receive.subspan(receive_at[r], receive_sizes[r]); };
  for (const int peer : Peers()) {
    batch.out.push_back({peer, out(static_cast<size_t>(peer))});
    batch.in.push_back({peer, in(static_cast<size_t>(peer))});
  }
  RETURN_IF_ERROR(Copy(out(own), in(own)));
  return Run(std::move(batch), deadline_ns);
}

}  // namespace reprise::parallel
