// A rank's side of the agreement on what may begin: tells rank 0 what it is about to do, over the
// control link, and hears when it may; at rank 0 also answers the others, by CallOrder. Owned by
// the rank's NcclLink, on its thread.
//
// A call costs one small message to rank 0 and one back; its later steps none, since equal sizes of
// the call mean equal sizes of its steps.
#ifndef REPRISE_WORKER_PARALLEL_NCCL_CALL_AGREEMENT_H_
#define REPRISE_WORKER_PARALLEL_NCCL_CALL_AGREEMENT_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "worker/parallel/nccl/call_order.h"

namespace reprise::parallel {

class CallAgreement {
 public:
  // The control link must be quiet before this object goes.
  explicit CallAgreement(PeerLink* control);

  // An error ends the group.
  Status Post(const CallPost& post);
  // Numbers of own posts that may begin, in the order of all. Does not wait.
  StatusOr<std::vector<uint64_t>> Poll();
  // This rank posts nothing more.
  Status SayBye();
  // After SayBye: it can go without the others noticing. Rank 0 is the last.
  bool MayLeave() const;

 private:
  // Under way on the control link, which has the bytes.
  struct Note {
    std::vector<uint8_t> out;
    std::vector<uint8_t> in;
    BatchId batch = kNoBatch;
  };

  bool Orders() const { return control_->rank() == 0; }
  void Carry(std::deque<Note>& notes, int peer, std::vector<uint8_t> out, size_t in_bytes);
  Status Order(int rank, const CallPost& post);
  Status Serve();

  PeerLink* const control_;
  const int size_;
  CallOrder order_;              // rank 0's
  std::vector<Note> listening_;  // ditto, by rank - 1: its next post
  int byes_ = 0;                 // ditto, of other ranks
  std::deque<Note> notes_;       // rank 0: on their way to others; others: posts and their answers
  std::vector<uint64_t> ready_;
};

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_NCCL_CALL_AGREEMENT_H_
