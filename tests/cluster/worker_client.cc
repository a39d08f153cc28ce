#include "tests/cluster/worker_client.h"

#include <utility>

#include "common/grpc_status.h"
#include "common/random.h"
#include "common/rpc_server.h"

namespace reprise::harness {
namespace {

Status AddToken(const v1::WorkerToken& token, TimeNs now, WorkerResult& result) {
  if (token.branch() >= result.branches.size()) {
    return absl::InternalError(absl::StrCat("a token for branch ", token.branch()));
  }
  WorkerBranch& branch = result.branches[token.branch()];
  if (token.index() != branch.ids.size() || branch.reason != v1::FINISH_REASON_UNSPECIFIED) {
    return absl::InternalError(absl::StrCat("branch ", token.branch(), ": token ", token.index(),
                                            " after ", branch.ids.size(), " tokens"));
  }
  branch.ids.push_back(token.id());
  branch.logprobs.push_back(token.logprob());
  auto& top = branch.top.emplace_back();
  for (const v1::TopLogprob& t : token.top()) top.emplace_back(t.token(), t.logprob());
  branch.arrived_ns.push_back(now);
  return absl::OkStatus();
}

// Before the first token of this attempt.
std::vector<WorkerBranch> EmittedBranches(const v1::Submit& submit) {
  std::vector<WorkerBranch> branches(static_cast<size_t>(submit.sampling().n()));
  for (const v1::BranchTokens& emitted : submit.branches()) {
    WorkerBranch& branch = branches.at(static_cast<size_t>(emitted.branch()));
    branch.ids.assign(emitted.emitted().begin(), emitted.emitted().end());
    branch.logprobs.assign(emitted.logprobs().begin(), emitted.logprobs().end());
    branch.top.resize(branch.ids.size());
    branch.arrived_ns.resize(branch.ids.size());
  }
  return branches;
}

size_t TokensOf(const WorkerResult& result) {
  size_t tokens = 0;
  for (const WorkerBranch& branch : result.branches) tokens += branch.ids.size();
  return tokens;
}

}  // namespace

v1::PrefixSource SourceOf(const v1::NodeRef& node, int32_t blocks) {
  v1::PrefixSource source;
  *source.mutable_node() = node;
  source.set_blocks(blocks);
  return source;
}

WorkerClient::WorkerClient(const v1::NodeRef& worker)
    : worker_(worker), stub_(v1::Worker::NewStub(ClusterChannel(worker.grpc_address()))) {}

StatusOr<std::unique_ptr<WorkerClient>> WorkerClient::Connect(const v1::NodeRef& worker) {
  std::unique_ptr<WorkerClient> client(new WorkerClient(worker));
  client->stream_ = client->stub_->Serve(&client->context_);
  v1::ServeRequest hello;
  hello.mutable_hello()->set_gateway("harness");
  hello.mutable_hello()->set_gateway_incarnation(RandomU64() | 1);
  client->reader_ = Thread("worker_client", [c = client.get()] { c->ReadLoop(); });
  RETURN_IF_ERROR(client->Write(hello));
  return client;
}

WorkerClient::~WorkerClient() {
  context_.TryCancel();
  reader_.Join();
}

Status WorkerClient::Write(const v1::ServeRequest& request) {
  MutexLock lock(write_mu_);
  if (stream_->Write(request)) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the stream to ", worker_.name(), " is broken"));
}

Status WorkerClient::Submit(v1::Submit submit) {
  submit.set_worker_incarnation(worker_.incarnation());
  if (!submit.has_attempt()) {
    submit.mutable_attempt()->set_owner_epoch(1);
    submit.mutable_attempt()->set_n(1);
  }
  {
    MutexLock lock(mu_);
    Pending& pending = pending_[submit.request_id()];
    pending.result.branches = EmittedBranches(submit);
    pending.result.submitted_ns = RealClock().NowNs();
  }
  v1::ServeRequest request;
  *request.mutable_submit() = std::move(submit);
  return Write(request);
}

Status WorkerClient::Cancel(const std::string& request_id) {
  v1::ServeRequest request;
  request.mutable_cancel()->set_request_id(request_id);
  request.mutable_cancel()->mutable_attempt()->set_owner_epoch(1);
  request.mutable_cancel()->mutable_attempt()->set_n(1);
  return Write(request);
}

void WorkerClient::ReadLoop() {
  v1::ServeResponse response;
  while (stream_->Read(&response)) {
    MutexLock lock(mu_);
    for (const v1::RequestEvent& event : response.events()) Take(event);
    changed_.NotifyAll();
  }
  const Status ended = FromGrpc(stream_->Finish());
  MutexLock lock(mu_);
  broken_ = true;
  for (auto& [id, pending] : pending_) {
    if (std::exchange(pending.done, true)) continue;
    ++done_;
    pending.result.status = absl::UnavailableError(
        absl::StrCat("the stream to ", worker_.name(), " ended: ", ended.message()));
  }
  changed_.NotifyAll();
}

void WorkerClient::Take(const v1::RequestEvent& event) {
  const auto entry = pending_.find(event.request_id());
  if (entry == pending_.end()) return;
  Pending& pending = entry->second;
  WorkerResult& result = pending.result;
  const TimeNs now = RealClock().NowNs();
  const auto note = [&](const Status& status) {
    if (result.status.ok()) result.status = status;
  };
  if (pending.done) {
    return note(absl::InternalError(absl::StrCat(event.request_id(), ": an event after done")));
  }
  for (const v1::WorkerToken& token : event.tokens()) note(AddToken(token, now, result));
  for (const v1::WorkerBranchEnd& end : event.ended()) {
    if (end.branch() >= result.branches.size()) continue;
    result.branches[end.branch()].reason = end.reason();
  }
  if (!event.has_done()) return;
  pending.done = true;
  ++done_;
  result.done_ns = now;
  result.cached_tokens = event.done().cached_tokens();
  note(Status(static_cast<absl::StatusCode>(event.done().code()), event.done().message()));
}

Status WorkerClient::WaitForTokens(const std::string& request_id, size_t tokens,
                                   TimeNs timeout_ns) {
  const TimeNs until = RealClock().NowNs() + timeout_ns;
  MutexLock lock(mu_);
  while (true) {
    const auto entry = pending_.find(request_id);
    if (entry == pending_.end()) {
      return absl::NotFoundError(absl::StrCat("no request ", request_id));
    }
    if (entry->second.done || TokensOf(entry->second.result) >= tokens) return absl::OkStatus();
    const TimeNs left = until - RealClock().NowNs();
    if (broken_ || left <= 0) {
      return absl::DeadlineExceededError(
          absl::StrCat(request_id, ": ", TokensOf(entry->second.result), " of ", tokens,
                       " tokens after ", SecondsFromNs(timeout_ns), " s"));
    }
    changed_.WaitFor(mu_, std::chrono::nanoseconds(left));
  }
}

StatusOr<WorkerResult> WorkerClient::Wait(const std::string& request_id, TimeNs timeout_ns) {
  RETURN_IF_ERROR(WaitForTokens(request_id, SIZE_MAX, timeout_ns));
  MutexLock lock(mu_);
  auto node = pending_.extract(request_id);
  return std::move(node.mapped().result);
}

StatusOr<WorkerResult> WorkerClient::Run(const v1::Submit& submit, TimeNs timeout_ns) {
  RETURN_IF_ERROR(Submit(submit));
  return Wait(submit.request_id(), timeout_ns);
}

StatusOr<std::vector<WorkerResult>> WorkerClient::RunAll(const std::vector<v1::Submit>& submits,
                                                         int in_flight, TimeNs timeout_ns) {
  const TimeNs until = RealClock().NowNs() + timeout_ns;
  int done_before;
  {
    MutexLock lock(mu_);
    done_before = done_;
  }
  for (size_t next = 0; next < submits.size(); ++next) {
    {
      MutexLock lock(mu_);
      while (static_cast<int>(next) - (done_ - done_before) >= in_flight) {
        const TimeNs left = until - RealClock().NowNs();
        if (left <= 0) return absl::DeadlineExceededError("not all requests ran in time");
        changed_.WaitFor(mu_, std::chrono::nanoseconds(left));
      }
    }
    RETURN_IF_ERROR(Submit(submits[next]));
  }
  std::vector<WorkerResult> results;
  for (const v1::Submit& submit : submits) {
    const TimeNs left = std::max<TimeNs>(0, until - RealClock().NowNs());
    ASSIGN_OR_RETURN(WorkerResult result, Wait(submit.request_id(), left));
    if (!result.status.ok()) {
      return Status(result.status.code(),
                    absl::StrCat(submit.request_id(), ": ", result.status.message()));
    }
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace reprise::harness
