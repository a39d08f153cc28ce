// Pass-Q: every rank's queries go to all ranks that keep keys they see, each attends to its own
// keys node by node, and the nodes' results come back to the rows' owners, straight or up a tree. A
// rank's own queries are computed while those of others are on their way.
#include <algorithm>
#include <cstring>
#include <utility>

#include "worker/parallel/context/pass_frame.h"

namespace reprise::parallel {
namespace {

// A message under way: the memory and the exchange. Without floats there is no exchange.
struct Message {
  std::vector<float> floats;
  ExchangeId exchange = 0;
};

class Query {
 public:
  Query(const PassFrame& frame, const ContextPlan::Turn& turn) : frame_(frame), turn_(turn) {
    for (int owner = 0; owner < frame.ranks(); ++owner) {
      runs_.push_back(RunsOf(frame.stripes, turn.items, owner));
    }
    work_.resize(runs_.size());
    queries_.resize(runs_.size());
  }

  Status Attend() {
    const int rank = frame_.rank();
    work_[static_cast<size_t>(rank)] = OwnWork(frame_, turn_.items);
    std::vector<Message> sent(runs_.size());
    for (int i = 1; i < frame_.ranks(); ++i) {
      const int peer = (rank + i) % frame_.ranks();
      RETURN_IF_ERROR(SendQueries(peer, sent[static_cast<size_t>(peer)]));
      RETURN_IF_ERROR(ReceiveQueries(peer));
    }
    AttendOwnKeys(work_[static_cast<size_t>(rank)]);
    for (int i = 1; i < frame_.ranks(); ++i) {
      const int owner = Distance(i, rank, frame_.ranks());
      RETURN_IF_ERROR(Wait(queries_[static_cast<size_t>(owner)]));
      AttendOwnKeys(work_[static_cast<size_t>(owner)]);
    }
    for (const Message& message : sent) RETURN_IF_ERROR(Wait(message));
    RETURN_IF_ERROR(BringHome());
    Finish(frame_, turn_.items, work_[static_cast<size_t>(rank)]);
    frame_.stats.query_bytes_peak = std::max(frame_.stats.query_bytes_peak, message_bytes_);
    return absl::OkStatus();
  }

 private:
  Status Wait(const Message& message) const {
    return message.floats.empty() ? absl::OkStatus() : frame_.Wait(message.exchange);
  }
  Status Start(Message& message, int to, int from) {
    if (message.floats.empty()) return absl::OkStatus();
    message_bytes_ += static_cast<int64_t>(message.floats.size() * sizeof(float));
    const Exchange exchange =
        to >= 0 ? Exchange{.to = to, .send = FloatBytes(std::span<const float>(message.floats))}
                : Exchange{.from = from, .receive = FloatBytes(std::span<float>(message.floats))};
    ASSIGN_OR_RETURN(message.exchange, frame_.communicator.Start(exchange));
    return absl::OkStatus();
  }
  Status Send(Message& message, int to) { return Start(message, to, -1); }
  Status Receive(Message& message, int from) { return Start(message, -1, from); }

  Status SendQueries(int peer, Message& message) {
    for (const RunWork& w : work_[static_cast<size_t>(frame_.rank())]) {
      if (!Sees(w.run, peer)) continue;
      for (int64_t r = 0; r < w.q.rows; ++r) {
        message.floats.insert(message.floats.end(), w.q.row(r), w.q.row(r) + w.q.cols);
      }
    }
    return Send(message, peer);
  }

  Status ReceiveQueries(int peer) {
    const int64_t cols = frame_.call.q.cols;
    int64_t rows = 0;
    for (const QueryRun& run : runs_[static_cast<size_t>(peer)]) {
      if (Sees(run, frame_.rank())) rows += run.rows;
    }
    Message& message = queries_[static_cast<size_t>(peer)];
    message.floats.resize(static_cast<size_t>(rows * cols));
    int64_t row = 0;
    for (const QueryRun& run : runs_[static_cast<size_t>(peer)]) {
      const bool here = Sees(run, frame_.rank());
      work_[static_cast<size_t>(peer)].push_back(
          {run, {message.floats.data() + row * cols, run.rows, cols, cols}, {run.rows, run.last}});
      if (here) row += run.rows;
    }
    return Receive(message, peer);
  }

  void AttendOwnKeys(std::vector<RunWork>& work) {
    const int64_t tokens = frame_.stripes.tokens();
    const RankSpan self{frame_.rank(), frame_.rank() + 1};
    NodeBatch batch(frame_, frame_.call.kv);
    for (RunWork& w : work) {
      const int32_t* pages = turn_.items[static_cast<size_t>(w.run.item)].pages;
      for (const StripeNode& node : Cover(frame_.stripes, self, w.run.last)) {
        const int64_t begin = node.first() * tokens;
        batch.Add(w, node, pages + frame_.stripes.LocalRow(begin) / frame_.block_tokens(),
                  {begin, std::min(node.end() * tokens, w.run.keys())});
      }
    }
    batch.Attend();
  }

  // ---- Results back to the owners. ----

  Status BringHome() {
    std::vector<std::vector<std::vector<Move>>> moves;  // by owner and level
    size_t levels = 0;
    for (int owner = 0; owner < frame_.ranks(); ++owner) {
      moves.push_back(MovesOf(turn_.merge, frame_.ranks(), owner));
      levels = std::max(levels, moves.back().size());
    }
    for (size_t level = 0; level < levels; ++level) {
      std::vector<std::pair<int, Move>> of_level;
      for (int owner = 0; owner < frame_.ranks(); ++owner) {
        for (const Move& move : moves[static_cast<size_t>(owner)][level]) {
          of_level.emplace_back(owner, move);
        }
      }
      RETURN_IF_ERROR(RunLevel(of_level));
    }
    return absl::OkStatus();
  }

  // Messages of a pair match by order: that of owners, on both sides.
  Status RunLevel(const std::vector<std::pair<int, Move>>& moves) {
    std::vector<Message> messages(moves.size());
    for (size_t i = 0; i < moves.size(); ++i) {
      const auto& [owner, move] = moves[i];
      if (move.to != frame_.rank()) continue;
      messages[i].floats.resize(
          static_cast<size_t>(MoveFloats(frame_.stripes, runs_[static_cast<size_t>(owner)],
                                         move.ranks, frame_.partials.row_floats())));
      RETURN_IF_ERROR(Receive(messages[i], move.from));
    }
    for (size_t i = 0; i < moves.size(); ++i) {
      const auto& [owner, move] = moves[i];
      if (move.from != frame_.rank()) continue;
      Pack(owner, move, messages[i].floats);
      RETURN_IF_ERROR(Send(messages[i], move.to));
    }
    for (const Message& message : messages) RETURN_IF_ERROR(Wait(message));
    for (size_t i = 0; i < moves.size(); ++i) {
      const auto& [owner, move] = moves[i];
      if (move.to == frame_.rank()) Unpack(owner, move, messages[i].floats);
    }
    return absl::OkStatus();
  }

  void Pack(int owner, const Move& move, std::vector<float>& floats) {
    for (RunWork& w : work_[static_cast<size_t>(owner)]) {
      for (const StripeNode& node : Cover(frame_.stripes, move.ranks, w.run.last)) {
        PartialMemory partial = w.partials.Remove(node);
        floats.insert(floats.end(), partial.begin(), partial.end());
        frame_.partials.Give(std::move(partial));
      }
    }
  }

  void Unpack(int owner, const Move& move, const std::vector<float>& floats) {
    auto at = floats.begin();
    for (RunWork& w : work_[static_cast<size_t>(owner)]) {
      for (const StripeNode& node : Cover(frame_.stripes, move.ranks, w.run.last)) {
        PartialMemory partial = frame_.partials.Take(w.run.rows);
        const auto end = at + static_cast<std::ptrdiff_t>(partial.size());
        std::copy(at, end, partial.begin());
        at = end;
        w.partials.Add(frame_.partials, node, std::move(partial));
      }
    }
  }

  const PassFrame& frame_;
  const ContextPlan::Turn& turn_;
  std::vector<std::vector<QueryRun>> runs_;  // by owner
  std::vector<std::vector<RunWork>> work_;   // by owner; of others: what this rank makes of them
  std::vector<Message> queries_;             // by owner
  int64_t message_bytes_ = 0;
};

}  // namespace

Status QueryPass(const PassFrame& frame, const ContextPlan::Turn& turn) {
  return Query(frame, turn).Attend();
}

}  // namespace reprise::parallel
