#include "worker/parallel/nccl/call_agreement.h"

#include <utility>

#include "common/bytes.h"

namespace reprise::parallel {
namespace {

constexpr size_t kAnswerBytes = sizeof(uint64_t);

Batch Listen(int peer, std::vector<uint8_t>& in) {
  return {.tag = {}, .out = {}, .in = {{peer, in}}};
}

}  // namespace

CallAgreement::CallAgreement(PeerLink* control)
    : control_(control), size_(control->size()), order_(size_) {
  if (!Orders()) return;
  listening_.resize(static_cast<size_t>(size_ - 1));
  for (int peer = 1; peer < size_; ++peer) {
    Note& note = listening_[static_cast<size_t>(peer - 1)];
    note.in.resize(PostBytes(size_));
    note.batch = control_->Start(Listen(peer, note.in));
  }
}

void CallAgreement::Carry(std::deque<Note>& notes, int peer, std::vector<uint8_t> out,
                          size_t in_bytes) {
  Note& note = notes.emplace_back();
  note.out = std::move(out);
  note.in.resize(in_bytes);
  Batch batch{.tag = {}, .out = {{peer, note.out}}, .in = {}};
  if (in_bytes > 0) batch.in.push_back({peer, note.in});
  note.batch = control_->Start(std::move(batch));
}

Status CallAgreement::Post(const CallPost& post) {
  if (Orders()) return Order(0, post);
  Carry(notes_, 0, EncodePost(post, size_), kAnswerBytes);
  return absl::OkStatus();
}

Status CallAgreement::Order(int rank, const CallPost& post) {
  ASSIGN_OR_RETURN(const auto begin, order_.Add(rank, post));
  for (const CallOrder::Begin& one : begin) {
    if (one.rank == 0) {
      ready_.push_back(one.number);
      continue;
    }
    std::vector<uint8_t> answer;
    ByteWriter(answer).U64(one.number);
    Carry(notes_, one.rank, std::move(answer), 0);
  }
  return absl::OkStatus();
}

Status CallAgreement::Serve() {
  for (int peer = 1; peer < size_; ++peer) {
    Note& note = listening_[static_cast<size_t>(peer - 1)];
    while (note.batch != kNoBatch && control_->Done(note.batch)) {
      ASSIGN_OR_RETURN(const CallPost post, DecodePost(note.in, size_));
      const bool bye = post.kind == PostKind::kBye;
      byes_ += bye;
      note.batch = bye ? kNoBatch : control_->Start(Listen(peer, note.in));
      RETURN_IF_ERROR(Order(peer, post));
    }
  }
  return absl::OkStatus();
}

StatusOr<std::vector<uint64_t>> CallAgreement::Poll() {
  if (Orders()) RETURN_IF_ERROR(Serve());
  while (!notes_.empty() && control_->Done(notes_.front().batch)) {
    if (!notes_.front().in.empty()) ready_.push_back(ByteReader(notes_.front().in).U64("number"));
    notes_.pop_front();
  }
  return std::exchange(ready_, {});
}

Status CallAgreement::SayBye() {
  const CallPost bye{.number = 0,
                     .kind = PostKind::kBye,
                     .tag = {},
                     .peer = 0,
                     .bytes = 0,
                     .sends = {},
                     .receives = {}};
  if (Orders()) return Order(0, bye);
  Carry(notes_, 0, EncodePost(bye, size_), 0);
  return absl::OkStatus();
}

bool CallAgreement::MayLeave() const { return notes_.empty() && (!Orders() || byes_ == size_ - 1); }

}  // namespace reprise::parallel
