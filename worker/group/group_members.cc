#include "worker/group/group_members.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <stop_token>
#include <utility>

#include "common/bind_address.h"
#include "common/grpc_status.h"
#include "common/log.h"
#include "common/rpc_server.h"
#include "common/thread.h"
#include "worker/parallel/group_shape.h"

namespace reprise::worker {
namespace {

constexpr TimeNs kPauseNs = 50 * kMillisecond;  // before looking again

std::chrono::system_clock::time_point After(TimeNs ns) {
  return std::chrono::system_clock::now() + std::chrono::nanoseconds(std::max<TimeNs>(ns, 0));
}

StatusOr<parallel::RankAddress> ToRank(const std::string& address) {
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  return parallel::RankAddress{at.host, at.port};
}

bool MayGoAway(const Status& status) {
  return status.code() == absl::StatusCode::kUnavailable ||
         status.code() == absl::StatusCode::kDeadlineExceeded ||
         status.code() == absl::StatusCode::kAborted ||
         status.code() == absl::StatusCode::kResourceExhausted;
}

}  // namespace

GroupMembers::GroupMembers(GroupMembersOptions options, parallel::GroupHost* host, StopSignal* stop)
    : options_(std::move(options)), host_(host), stop_(stop), processes_([this] {
        std::vector<Process> processes;
        for (const std::string& address : options_.ranks) {
          processes.push_back({address, v1::GroupRank::NewStub(ClusterChannel(address))});
        }
        return processes;
      }()) {
  MutexLock lock(mu_);
  silent_.resize(processes_.size());
}

uint64_t GroupMembers::epoch() const {
  MutexLock lock(mu_);
  return epoch_;
}

int GroupMembers::replaced() const {
  MutexLock lock(mu_);
  return replaced_;
}

GroupMembers::Seen GroupMembers::Look(const Process& process, TimeNs timeout_ns) const {
  Seen seen;
  grpc::ClientContext context;
  context.set_deadline(After(timeout_ns));
  const std::stop_callback cancel(stop_->token(), [&context] { context.TryCancel(); });
  seen.status = FromGrpc(process.stub->Look(&context, v1::LookRequest(), &seen.look));
  return seen;
}

std::vector<GroupMembers::Seen> GroupMembers::LookAtAll(TimeNs timeout_ns) const {
  std::vector<Seen> seen(processes_.size());
  std::vector<Thread> threads;
  for (size_t i = 0; i < processes_.size(); ++i) {
    threads.emplace_back(
        "group_look", [this, &seen, i, timeout_ns] { seen[i] = Look(processes_[i], timeout_ns); });
  }
  for (Thread& thread : threads) thread.Join();
  return seen;
}

StatusOr<std::vector<size_t>> GroupMembers::Choose(const std::vector<Seen>& seen) const {
  std::vector<size_t> holders;
  {
    MutexLock lock(mu_);
    holders = holders_;
  }
  std::set<size_t> free;
  for (size_t i = 0; i < seen.size(); ++i) {
    const std::string& owner = seen[i].look.owner();
    if (seen[i].status.ok() && (owner.empty() || owner == options_.owner)) free.insert(i);
  }
  const size_t places = options_.split.ranks() - 1;
  std::vector<size_t> chosen(places, SIZE_MAX);
  const auto take = [&](size_t place, size_t process) {
    chosen[place] = process;
    free.erase(process);
  };
  for (size_t place = 0; place < std::min(places, holders.size()); ++place) {
    if (free.contains(holders[place])) take(place, holders[place]);
  }
  for (const bool ready : {true, false}) {
    for (size_t place = 0; place < places; ++place) {
      if (chosen[place] != SIZE_MAX) continue;
      for (const size_t process : free) {
        const auto& ready_for = seen[process].look.places_ready();
        const bool holds =
            std::find(ready_for.begin(), ready_for.end(), place + 1) != ready_for.end();
        if (ready && !holds) continue;
        take(place, process);
        break;
      }
    }
  }
  for (size_t place = 0; place < places; ++place) {
    if (chosen[place] != SIZE_MAX) continue;
    std::string silent;
    for (size_t i = 0; i < seen.size(); ++i) {
      if (!seen[i].status.ok()) absl::StrAppend(&silent, " ", processes_[i].address);
    }
    return absl::UnavailableError(
        absl::StrCat("nobody is there for rank ", place + 1,
                     "; no answer from:", silent.empty() ? " nobody" : silent));
  }
  return chosen;
}

Status GroupMembers::CallJoins(const std::vector<size_t>& chosen, const v1::JoinRequest& request,
                               TimeNs timeout_ns, FormTimes* times) const {
  std::vector<Status> statuses(chosen.size());
  std::vector<int64_t> load_ms(chosen.size());
  std::vector<Thread> threads;
  for (size_t i = 0; i < chosen.size(); ++i) {
    threads.emplace_back("group_join", [&, i] {
      v1::JoinRequest own = request;
      own.set_rank(static_cast<uint32_t>(i + 1));
      v1::JoinResponse response;
      grpc::ClientContext context;
      context.set_deadline(After(timeout_ns));
      const std::stop_callback cancel(stop_->token(), [&context] { context.TryCancel(); });
      statuses[i] = FromGrpc(processes_[chosen[i]].stub->Join(&context, own, &response));
      load_ms[i] = response.load_ms();
    });
  }
  for (Thread& thread : threads) thread.Join();
  for (size_t i = 0; i < chosen.size(); ++i) {
    times->load_ns = std::max(times->load_ns, NsFromMs(load_ms[i]));
    if (!statuses[i].ok()) {
      return Annotate(statuses[i],
                      absl::StrCat("rank ", i + 1, " at ", processes_[chosen[i]].address));
    }
  }
  return absl::OkStatus();
}

StatusOr<GroupLinks> GroupMembers::JoinAll(const std::vector<size_t>& chosen,
                                           const std::vector<Seen>& seen, const GroupTerms& terms,
                                           TimeNs deadline_ns, FormTimes* times) {
  EpochSpec spec{.group = options_.group, .split = options_.split};
  {
    MutexLock lock(mu_);
    spec.epoch = ++epoch_;
  }
  spec.addresses.push_back({options_.host, host_->port()});
  v1::JoinRequest request;
  for (const size_t process : chosen) {
    ASSIGN_OR_RETURN(const parallel::RankAddress address,
                     ToRank(seen[process].look.group_address()));
    spec.addresses.push_back(address);
  }
  request.set_owner(options_.owner);
  request.set_generation(options_.generation);
  request.set_group(options_.group);
  request.set_epoch(spec.epoch);
  request.set_shape(parallel::GroupShapeText(options_.split));
  request.set_stripe_leaves(options_.split.stripe_leaves);
  for (const parallel::RankAddress& address : spec.addresses) {
    request.add_addresses(HostPort{address.host, static_cast<uint16_t>(address.port)}.ToString());
  }
  request.set_format_text(terms.format_text);
  request.mutable_tensor_sums()->Add(terms.tensor_sums.begin(), terms.tensor_sums.end());
  request.set_pages(terms.pages);
  RETURN_IF_ERROR(CallJoins(chosen, request, deadline_ns - RealClock().NowNs(), times));
  return JoinLinks(*host_, spec, RealClock().NowNs() + options_.connect_ns, stop_->token(),
                   options_.link_maker);
}

StatusOr<GroupLinks> GroupMembers::FormOnce(const GroupTerms& terms, TimeNs start_ns,
                                            TimeNs deadline_ns, FormTimes* times) {
  const std::vector<Seen> seen = LookAtAll(options_.look_ns);
  ASSIGN_OR_RETURN(const std::vector<size_t> chosen, Choose(seen));
  const TimeNs found_ns = RealClock().NowNs();
  times->find_ns = found_ns - start_ns;
  ASSIGN_OR_RETURN(GroupLinks links, JoinAll(chosen, seen, terms, deadline_ns, times));
  times->join_ns = RealClock().NowNs() - found_ns;
  MutexLock lock(mu_);
  for (size_t place = 0; place < holders_.size(); ++place) {
    if (holders_[place] != chosen[place]) ++replaced_;
  }
  holders_ = chosen;
  std::fill(silent_.begin(), silent_.end(), 0);
  return links;
}

StatusOr<GroupLinks> GroupMembers::Form(const GroupTerms& terms, TimeNs deadline_ns,
                                        FormTimes* times) {
  const TimeNs start_ns = RealClock().NowNs();
  for (;;) {
    StatusOr<GroupLinks> links = FormOnce(terms, start_ns, deadline_ns, times);
    if (links.ok()) return links;
    if (stop_->stopped()) return absl::UnavailableError("the group's driver stops");
    const Status& status = links.status();
    if (!MayGoAway(status) || RealClock().NowNs() >= deadline_ns) return status;
    static LogEvery every(5 * kSecond);
    if (every.Allow()) LogWarning("group_not_formed", {{"status", status}});
    stop_->WaitFor(kPauseNs);
  }
}

Status GroupMembers::Check(TimeNs timeout_ns, int patience) {
  std::vector<size_t> holders;
  {
    MutexLock lock(mu_);
    holders = holders_;
  }
  for (size_t place = 0; place < holders.size(); ++place) {
    const Process& process = processes_[holders[place]];
    const Seen seen = Look(process, timeout_ns);
    if (stop_->stopped()) break;  // what was cancelled says nothing
    MutexLock lock(mu_);
    int& silent = silent_[holders[place]];
    silent = seen.status.ok() ? 0 : silent + 1;
    const bool gone = seen.status.code() == absl::StatusCode::kUnavailable;
    if (silent == 0 || (!gone && silent < patience)) continue;
    return absl::UnavailableError(absl::StrCat("rank ", place + 1, " at ", process.address,
                                               " does not answer: ", seen.status.message()));
  }
  return absl::OkStatus();
}

}  // namespace reprise::worker
