// Pass-Q: every rank's queries go to all ranks that keep keys they see, each attends to its own
// keys node by node, and the nodes' results come back to the rows' owners, straight or up a tree. A
// rank's own queries are computed while those of others are on their way.
#include <algorithm>
#include <span>
#include <utility>

#include "worker/parallel/context/pass_frame.h"

namespace reprise::parallel {
namespace {

// A message under way: the memory and the exchange. Without bytes there is none.
struct Message {
  uint8_t* data = nullptr;
  size_t bytes = 0;
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
    RETURN_IF_ERROR(AttendOwnKeys(work_[static_cast<size_t>(rank)]));
    for (int i = 1; i < frame_.ranks(); ++i) {
      const int owner = Distance(i, rank, frame_.ranks());
      RETURN_IF_ERROR(Wait(queries_[static_cast<size_t>(owner)]));
      RETURN_IF_ERROR(AttendOwnKeys(work_[static_cast<size_t>(owner)]));
    }
    for (Message& message : sent) RETURN_IF_ERROR(Wait(message));
    RETURN_IF_ERROR(BringHome());
    RETURN_IF_ERROR(Finish(frame_, turn_.items, work_[static_cast<size_t>(rank)]));
    for (const auto* messages : {&sent, &queries_}) {
      for (const Message& message : *messages) GiveBack(message);
    }
    frame_.stats.query_bytes_peak = std::max(frame_.stats.query_bytes_peak, message_bytes_);
    return absl::OkStatus();
  }

 private:
  Status Wait(const Message& message) const {
    return message.bytes == 0 ? absl::OkStatus() : frame_.Wait(message.exchange);
  }
  Status Reserve(Message& message, size_t bytes) {
    message_bytes_ += static_cast<int64_t>(bytes);
    message.bytes = bytes;
    if (bytes == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(message.data, frame_.compute.Take(bytes, ContextCompute::Use::kMoved));
    return absl::OkStatus();
  }
  void GiveBack(const Message& message) const {
    if (message.data != nullptr) frame_.compute.Give(message.data);
  }
  Status Send(Message& message, int to) {
    if (message.bytes == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(
        message.exchange,
        frame_.communicator.Start(
            {.to = to, .send = std::span<const uint8_t>(message.data, message.bytes)}));
    return absl::OkStatus();
  }
  Status Receive(Message& message, int from) {
    if (message.bytes == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(message.exchange,
                     frame_.communicator.Start(
                         {.from = from, .receive = std::span(message.data, message.bytes)}));
    return absl::OkStatus();
  }

  Status SendQueries(int peer, Message& message) {
    const std::vector<RunWork>& own = work_[static_cast<size_t>(frame_.rank())];
    size_t bytes = 0;
    for (const RunWork& w : own) {
      if (Sees(w.run, peer)) bytes += static_cast<size_t>(w.q.rows * w.q.row_bytes);
    }
    RETURN_IF_ERROR(Reserve(message, bytes));
    uint8_t* to = message.data;
    for (const RunWork& w : own) {
      if (!Sees(w.run, peer)) continue;
      RETURN_IF_ERROR(frame_.compute.CopyRows(w.q, to));
      to += w.q.rows * w.q.row_bytes;
    }
    RETURN_IF_ERROR(frame_.compute.AwaitCopies());
    return Send(message, peer);
  }

  Status ReceiveQueries(int peer) {
    const int64_t row_bytes = frame_.call.q.row_bytes;
    int64_t rows = 0;
    for (const QueryRun& run : runs_[static_cast<size_t>(peer)]) {
      if (Sees(run, frame_.rank())) rows += run.rows;
    }
    Message& message = queries_[static_cast<size_t>(peer)];
    RETURN_IF_ERROR(Reserve(message, static_cast<size_t>(rows * row_bytes)));
    int64_t row = 0;
    for (const QueryRun& run : runs_[static_cast<size_t>(peer)]) {
      const bool here = Sees(run, frame_.rank());
      const ByteRows q{message.data + row * row_bytes, run.rows, row_bytes, row_bytes};
      work_[static_cast<size_t>(peer)].push_back({run, q, StripePartials(run.last)});
      if (here) row += run.rows;
    }
    return Receive(message, peer);
  }

  Status AttendOwnKeys(std::vector<RunWork>& work) {
    const int64_t tokens = frame_.stripes.tokens();
    const RankSpan self{frame_.rank(), frame_.rank() + 1};
    NodeBatch batch(frame_, frame_.call.pages);
    for (RunWork& w : work) {
      const int32_t* pages = turn_.items[static_cast<size_t>(w.run.item)].pages;
      for (const StripeNode& node : Cover(frame_.stripes, self, w.run.last)) {
        const int64_t begin = node.first() * tokens;
        batch.Add(w, node, pages + frame_.stripes.LocalRow(begin) / frame_.block_tokens(),
                  {begin, std::min(node.end() * tokens, w.run.keys())});
      }
    }
    return batch.Attend();
  }

  // ---- Results back to the owners. ----

  Status BringHome() {
    RETURN_IF_ERROR(frame_.compute.AwaitAll());
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
      if (move.to != frame_.rank() && move.from != frame_.rank()) continue;
      const auto floats =
          static_cast<size_t>(MoveFloats(frame_.stripes, runs_[static_cast<size_t>(owner)],
                                         move.ranks, frame_.partials.row_floats()));
      RETURN_IF_ERROR(Reserve(messages[i], floats * sizeof(float)));
      if (move.to == frame_.rank()) RETURN_IF_ERROR(Receive(messages[i], move.from));
    }
    for (size_t i = 0; i < moves.size(); ++i) {
      const auto& [owner, move] = moves[i];
      if (move.from != frame_.rank()) continue;
      RETURN_IF_ERROR(Pack(owner, move, messages[i].data));
      RETURN_IF_ERROR(Send(messages[i], move.to));
    }
    for (const Message& message : messages) RETURN_IF_ERROR(Wait(message));
    for (size_t i = 0; i < moves.size(); ++i) {
      const auto& [owner, move] = moves[i];
      if (move.to == frame_.rank()) RETURN_IF_ERROR(Unpack(owner, move, messages[i].data));
    }
    for (const Message& message : messages) GiveBack(message);
    // What was joined may be sent on by the next level.
    return frame_.compute.AwaitAll();
  }

  Status Pack(int owner, const Move& move, uint8_t* to) {
    for (RunWork& w : work_[static_cast<size_t>(owner)]) {
      const size_t bytes = frame_.partials.Bytes(w.run.rows);
      for (const StripeNode& node : Cover(frame_.stripes, move.ranks, w.run.last)) {
        const Partial partial = w.partials.Remove(node);
        RETURN_IF_ERROR(frame_.compute.Copy(partial.out, to, bytes));
        to += bytes;
        sent_.push_back(partial);
      }
    }
    RETURN_IF_ERROR(frame_.compute.AwaitCopies());
    for (const Partial& partial : sent_) frame_.partials.Give(partial);
    sent_.clear();
    return absl::OkStatus();
  }

  Status Unpack(int owner, const Move& move, const uint8_t* from) {
    struct Received {
      RunWork* work;
      StripeNode node;
      Partial partial;
    };
    std::vector<Received> received;
    for (RunWork& w : work_[static_cast<size_t>(owner)]) {
      const size_t bytes = frame_.partials.Bytes(w.run.rows);
      for (const StripeNode& node : Cover(frame_.stripes, move.ranks, w.run.last)) {
        ASSIGN_OR_RETURN(const Partial partial, frame_.partials.TakeForCopy(w.run.rows));
        RETURN_IF_ERROR(frame_.compute.Copy(from, partial.out, bytes));
        from += bytes;
        received.push_back({&w, node, partial});
      }
    }
    RETURN_IF_ERROR(frame_.compute.AwaitCopies());
    for (const Received& r : received) {
      RETURN_IF_ERROR(r.work->partials.Add(frame_.partials, r.node, r.partial));
    }
    return absl::OkStatus();
  }

  const PassFrame& frame_;
  const ContextPlan::Turn& turn_;
  std::vector<std::vector<QueryRun>> runs_;  // by owner
  std::vector<std::vector<RunWork>> work_;   // by owner; of others: what this rank makes of them
  std::vector<Message> queries_;             // by owner
  std::vector<Partial> sent_;                // of a move, until they are copied
  int64_t message_bytes_ = 0;
};

}  // namespace

Status QueryPass(const PassFrame& frame, const ContextPlan::Turn& turn) {
  return Query(frame, turn).Attend();
}

}  // namespace reprise::parallel
