#include "worker/parallel/communicator.h"

#include <vector>

namespace reprise::parallel {

const char* OpName(Op op) {
  static constexpr std::array<const char*, kOps> kNames = {
      "send/recv", "barrier", "all_reduce", "all_gather", "reduce_scatter", "all_to_all"};
  return kNames[static_cast<size_t>(op)];
}

Chunk ChunkOf(size_t n, int rank, int size) {
  const auto cut = [&](int r) {
    return static_cast<size_t>(static_cast<unsigned __int128>(n) * static_cast<unsigned>(r) /
                               static_cast<unsigned>(size));
  };
  return {cut(rank), cut(rank + 1)};
}

Status Communicator::Send(int to, std::span<const uint8_t> data, TimeNs deadline_ns) {
  ASSIGN_OR_RETURN(const ExchangeId id, Start({.to = to, .send = data}));
  return Wait(id, deadline_ns);
}

Status Communicator::Recv(int from, std::span<uint8_t> data, TimeNs deadline_ns) {
  ASSIGN_OR_RETURN(const ExchangeId id, Start({.from = from, .receive = data}));
  return Wait(id, deadline_ns);
}

Status Communicator::AllGather(std::span<const uint8_t> mine, std::span<uint8_t> all,
                               TimeNs deadline_ns) {
  const std::vector<size_t> sizes(static_cast<size_t>(size()), mine.size());
  return AllGather(mine, sizes, all, deadline_ns);
}

Status Communicator::AllToAll(std::span<const uint8_t> send, std::span<uint8_t> receive,
                              TimeNs deadline_ns) {
  const auto ranks = static_cast<size_t>(size());
  const std::vector<size_t> send_sizes(ranks, send.size() / ranks);
  const std::vector<size_t> receive_sizes(ranks, receive.size() / ranks);
  return AllToAll(send, send_sizes, receive, receive_sizes, deadline_ns);
}

}  // namespace reprise::parallel
