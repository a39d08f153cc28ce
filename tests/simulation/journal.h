// What the clients saw, judged as it comes: every token of every branch once, in order, equal to an
// undisturbed run; one terminal event; attempts that only rise. Owned by the cluster; one thread.
#ifndef REPRISE_TESTS_SIMULATION_JOURNAL_H_
#define REPRISE_TESTS_SIMULATION_JOURNAL_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "gateway/generation/core/session_core.h"
#include "tests/simulation/context.h"
#include "worker/engine/sampling.h"

namespace reprise::sim {

struct ClientRequest {
  std::string id;
  std::vector<int32_t> prompt;
  worker::SamplingParams sampling;
  TimeNs deadline = 0;  // from submission; 0: none
  std::string tenant;
  TimeNs resume_window = 0;
  bool handle_only = false;  // its client keeps no transcript
};

struct JournalTotals {
  uint64_t accepted = 0;
  uint64_t refused = 0;
  uint64_t completed = 0;
  uint64_t cancelled = 0;
  uint64_t past_deadline = 0;
  uint64_t gave_up = 0;
  uint64_t lost = 0;      // by clients that cannot resume, or do not
  uint64_t attempts = 0;  // granted
  uint64_t tokens = 0;
  uint64_t replaced = 0;  // attempts after the first
  uint64_t cached_tokens = 0;
};

class Journal {
 public:
  explicit Journal(Context& context) : context_(context) {}

  // Before anything else about the request; teaches the oracle its undisturbed run.
  void Submitted(const ClientRequest& request);
  void CancelAsked(const std::string& id) { entries_.at(id).cancel_asked = true; }
  // By a coordinator: each attempt once, ever.
  void Granted(const std::string& id, const Attempt& attempt, Pid coordinator);
  // A coordinator leads in this epoch: it alone, ever.
  void Led(uint64_t epoch, Pid coordinator);
  // By a gateway.
  void Taken(const RequestKey& request);
  // A worker was told to run the request under this attempt.
  void Owned(const RequestKey& request, Pid worker);
  void Resumed(const std::string& id) { ++entries_.at(id).resumes; }
  // What the client has of each branch.
  std::vector<std::vector<int32_t>> Received(const std::string& id) const;
  // The highest attempt granted.
  Attempt Highest(const std::string& id) const { return entries_.at(id).attempt; }
  const ClientRequest& Request(const std::string& id) const { return entries_.at(id).request; }
  // The prompt and the undisturbed run of a branch.
  std::vector<int32_t> Tokens(const std::string& id, size_t branch) const;
  // Not every stream ends with Finished: it was not accepted; its client lost it or left; it
  // failed.
  void Refused(const std::string& id);
  void Lost(const std::string& id);
  void Ended(const std::string& id, const Status& status);
  void Accepted(const std::string& id);
  void Token(const std::string& id, const gateway::TokenEvent& token);
  void BranchEnded(const std::string& id, const gateway::BranchEnd& end);
  void Finished(const std::string& id, const gateway::SessionEnd& finish);

  size_t open() const { return open_; }
  std::string OpenIds() const;
  const JournalTotals& totals() const { return totals_; }
  bool known(const std::string& id) const { return entries_.contains(id); }
  const std::vector<ClientRequest>& requests() const { return requests_; }

 private:
  struct Branch {
    std::vector<worker::SampledToken> expected;
    gateway::EndReason reason = gateway::EndReason::kNone;  // of the undisturbed run
    size_t received = 0;
    bool ended = false;
  };
  struct Entry {
    ClientRequest request;
    std::vector<Branch> branches;
    TimeNs submitted = 0;
    Attempt attempt;
    Pid granted_by = 0;
    std::set<Attempt> granted;
    std::set<Attempt> taken;
    std::map<Attempt, Pid> owners;
    int resumes = 0;
    bool accepted = false;
    bool cancel_asked = false;
    bool finished = false;
  };
  static gateway::EndReason ReasonOf(const worker::SamplingParams& sampling, int32_t last);
  void Fail(const std::string& id, const std::string& what);
  void CheckComplete(const std::string& id, const Entry& entry, const gateway::SessionEnd& finish);
  void CheckExcuse(const std::string& id, const Entry& entry, const Status& status);
  Entry* Close(const std::string& id);

  Context& context_;
  std::map<std::string, Entry> entries_;
  std::map<uint64_t, Pid> leaders_;  // by epoch
  std::vector<ClientRequest> requests_;
  size_t open_ = 0;
  JournalTotals totals_;
};

}  // namespace reprise::sim

#endif  // REPRISE_TESTS_SIMULATION_JOURNAL_H_
