#include "tests/cluster/checked_load.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"
#include "cli/client/generation_client.h"
#include "common/mutex.h"
#include "common/random.h"

namespace reprise::harness {

class CheckedLoad::Impl {
 public:
  explicit Impl(CheckedLoadOptions options)
      : options_(std::move(options)),
        client_({.address = absl::StrJoin(options_.gateways, ","),
                 .connections = options_.connections}) {}

  void Begin() {
    for (int i = 0; i < options_.in_flight; ++i) StartNext();
  }

  void StopStarting() {
    MutexLock lock(mu_);
    stopped_ = true;
    changed_.NotifyAll();
  }

  Status WaitForEnd(TimeNs timeout_ns) {
    const bool ended = WaitUntil(timeout_ns, [this]() REQUIRES(mu_) {
      return running_ == 0 && (stopped_ || next_ == options_.requests);
    });
    MutexLock lock(mu_);
    if (ended) return absl::OkStatus();
    return absl::DeadlineExceededError(absl::StrCat(running_, " streams still run after ",
                                                    SecondsFromNs(timeout_ns), " s; ",
                                                    results_.size(), " have ended"));
  }

  Status WaitForTokens(int64_t tokens, TimeNs timeout_ns) {
    const bool came = WaitUntil(timeout_ns, [&]() REQUIRES(mu_) { return tokens_ >= tokens; });
    MutexLock lock(mu_);
    if (came) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrCat(tokens_, " of ", tokens, " tokens after ", SecondsFromNs(timeout_ns), " s"));
  }

  int64_t tokens() const {
    MutexLock lock(mu_);
    return tokens_;
  }
  int running() const {
    MutexLock lock(mu_);
    return running_;
  }
  std::vector<StreamResult> results() const {
    MutexLock lock(mu_);
    return results_;
  }

 private:
  template <typename Predicate>
  bool WaitUntil(TimeNs timeout_ns, const Predicate& predicate) {
    const TimeNs until = RealClock().NowNs() + timeout_ns;
    MutexLock lock(mu_);
    while (!predicate()) {
      const TimeNs left = until - RealClock().NowNs();
      if (left <= 0) return false;
      changed_.WaitFor(mu_, std::chrono::nanoseconds(left));
    }
    return true;
  }

  void StartNext() {
    int64_t number;
    {
      MutexLock lock(mu_);
      if (stopped_ || (options_.requests > 0 && next_ == options_.requests)) return;
      number = next_++;
      ++running_;
    }
    CheckedRequest made = options_.make(number);
    auto check =
        std::make_shared<StreamCheck>(number, std::move(made.expected), RealClock().NowNs());
    client_.Start(std::move(made.request),
                  {.on_event = [this, check](const v1::GenerateEvent& e) { OnEvent(*check, e); },
                   .on_done = [this, check](const Status& s) { OnDone(*check, s); },
                   .on_resume = [check](const Status&) { check->OnResume(); }});
  }

  void OnEvent(StreamCheck& check, const v1::GenerateEvent& event) {
    const int64_t before = check.received();
    check.OnEvent(event, RealClock().NowNs());
    if (check.received() == before) return;
    MutexLock lock(mu_);
    tokens_ += check.received() - before;
    changed_.NotifyAll();
  }

  void OnDone(StreamCheck& check, const Status& status) {
    StreamResult result = check.Finish(status, RealClock().NowNs());
    StartNext();
    MutexLock lock(mu_);
    results_.push_back(std::move(result));
    --running_;
    changed_.NotifyAll();
  }

  const CheckedLoadOptions options_;
  mutable Mutex mu_;
  CondVar changed_;
  int64_t next_ GUARDED_BY(mu_) = 0;
  int running_ GUARDED_BY(mu_) = 0;
  bool stopped_ GUARDED_BY(mu_) = false;
  int64_t tokens_ GUARDED_BY(mu_) = 0;
  std::vector<StreamResult> results_ GUARDED_BY(mu_);
  client::GenerationClient client_;  // last: its callbacks use the rest
};

CheckedLoad::CheckedLoad(CheckedLoadOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {
  impl_->Begin();
}
CheckedLoad::~CheckedLoad() { impl_->StopStarting(); }

Status CheckedLoad::Stop(TimeNs timeout_ns) {
  impl_->StopStarting();
  return impl_->WaitForEnd(timeout_ns);
}
Status CheckedLoad::Wait(TimeNs timeout_ns) { return impl_->WaitForEnd(timeout_ns); }
Status CheckedLoad::WaitForTokens(int64_t tokens, TimeNs timeout_ns) {
  return impl_->WaitForTokens(tokens, timeout_ns);
}
int64_t CheckedLoad::tokens() const { return impl_->tokens(); }
int CheckedLoad::running() const { return impl_->running(); }
std::vector<StreamResult> CheckedLoad::results() const { return impl_->results(); }

LoadTotals Sum(const std::vector<StreamResult>& results) {
  LoadTotals sum;
  for (const StreamResult& r : results) {
    ++sum.streams;
    sum.hit += r.hit();
    sum.errors += !r.status.ok();
    sum.received += r.received;
    sum.lost += r.lost;
    sum.duplicated += r.duplicated;
    sum.different += r.different;
    if (!r.status.ok() && sum.first_error.ok()) {
      sum.first_error =
          Status(r.status.code(), absl::StrCat("stream ", r.number, ": ", r.status.message()));
    }
    (r.hit() ? sum.hit_gaps_ms : sum.untouched_gaps_ms).push_back(MsFromNs(r.longest_gap_ns));
    if (r.first_ns != 0) sum.ttft_ms.push_back(MsFromNs(r.first_ns - r.start_ns));
  }
  return sum;
}

CheckedRequest TimedRequest(const worker::TimedModel& model, int64_t number, int prompt_tokens,
                            int max_tokens, int branches) {
  CheckedRequest made;
  SplitMix64 random(static_cast<uint64_t>(number) + 1);
  std::vector<int32_t> prompt;
  for (int t = 0; t < prompt_tokens; ++t) {
    prompt.push_back(static_cast<int32_t>(random.Below(static_cast<uint64_t>(model.vocab_size))));
  }
  worker::SamplingParams params;
  params.seed = static_cast<uint64_t>(number);
  params.max_tokens = max_tokens;
  for (int branch = 0; branch < branches; ++branch) {
    auto& expected = made.expected.emplace_back();
    for (const worker::SampledToken& token :
         worker::ExpectedTimedTokens(model, prompt, params, static_cast<uint32_t>(branch))) {
      expected.push_back({token.id, token.logprob});
    }
  }
  made.request.mutable_ids()->mutable_ids()->Add(prompt.begin(), prompt.end());
  v1::SamplingParams& sampling = *made.request.mutable_sampling();
  sampling.set_max_tokens(max_tokens);
  sampling.set_ignore_eos(true);
  sampling.set_seed(params.seed);
  sampling.set_n(branches);
  return made;
}

StatusOr<std::vector<CheckedRequest>> RunForTranscripts(
    const std::string& gateway, const std::vector<v1::GenerateRequest>& requests) {
  client::GenerationClient client({.address = gateway});
  std::vector<CheckedRequest> checked;
  for (const v1::GenerateRequest& request : requests) {
    ASSIGN_OR_RETURN(const client::Completion completion, client.Generate(request));
    CheckedRequest& made = checked.emplace_back();
    made.request = request;
    for (const auto& branch : completion.branches) {
      auto& tokens = made.expected.emplace_back();
      for (size_t i = 0; i < branch.ids.size(); ++i) {
        tokens.push_back({branch.ids[i], branch.logprobs[i]});
      }
    }
  }
  return checked;
}

CheckedLoadOptions InTurn(std::vector<std::string> gateways, int in_flight,
                          const std::vector<CheckedRequest>& requests) {
  return {
      .gateways = std::move(gateways), .in_flight = in_flight, .make = [&requests](int64_t number) {
        return requests[static_cast<size_t>(number) % requests.size()];
      }};
}

}  // namespace reprise::harness
