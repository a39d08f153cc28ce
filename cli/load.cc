#include "cli/load.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "cli/client/generation_client.h"
#include "cli/steady_rate.h"
#include "common/mutex.h"

namespace reprise::cli {
namespace {

class Load {
 public:
  explicit Load(const LoadOptions& options)
      : options_(options),
        steady_(std::min(options.concurrency, options.requests)),
        client_({.address = options.gateway, .connections = options.connections}) {
    for (int i = 0; i < options.requests; ++i) requests_.push_back(options.request(i));
  }

  LoadResult Run() {
    const TimeNs start = RealClock().NowNs();
    for (int i = 0; i < options_.concurrency; ++i) StartNext();
    MutexLock lock(mu_);
    while (ended_ < options_.requests) all_ended_.Wait(mu_);
    result_.seconds = SecondsFromNs(RealClock().NowNs() - start);
    result_.steady_tokens = steady_.tokens();
    result_.steady_seconds = steady_.seconds();
    result_.steady_tokens_per_s = steady_.rate();
    return result_;
  }

 private:
  struct Request {
    client::Completion completion;
    TimeNs start = 0;
    TimeNs last = 0;
    std::vector<double> itl_ms;
    double ttft_ms = 0;
    Status broken;
  };

  void StartNext() {
    v1::GenerateRequest message;
    {
      MutexLock lock(mu_);
      if (next_ == options_.requests) return;
      message = requests_[static_cast<size_t>(next_++)];
    }
    auto request = std::make_shared<Request>();
    request->start = RealClock().NowNs();
    client_.Start(
        std::move(message),
        {.on_event = [this, request](const v1::GenerateEvent& e) { OnEvent(*request, e); },
         .on_done = [this, request](const Status& s) { OnDone(*request, s); }});
  }

  void OnEvent(Request& request, const v1::GenerateEvent& event) {
    if (request.broken.ok()) request.broken = request.completion.Add(event);
    if (!event.has_tokens()) return;
    const TimeNs now = RealClock().NowNs();
    {
      MutexLock lock(mu_);
      if (request.last == 0) {
        steady_.OnFirst(now);
      } else {
        steady_.OnTokens(now, event.tokens().tokens_size());
      }
    }
    if (request.last == 0) {
      request.ttft_ms = MsFromNs(now - request.start);
    } else {
      request.itl_ms.push_back(MsFromNs(now - request.last));
    }
    request.last = now;
  }

  void OnDone(const Request& request, const Status& status) {
    Status outcome = status.ok() ? request.broken : status;
    const v1::Finished& finished = request.completion.finished;
    if (outcome.ok() && finished.code() != 0) {
      outcome = Status(static_cast<absl::StatusCode>(finished.code()), finished.message());
    }
    Count(request, outcome);
    StartNext();
    MutexLock lock(mu_);
    if (++ended_ == options_.requests) all_ended_.NotifyAll();
  }

  void Count(const Request& request, const Status& outcome) {
    const v1::Usage& usage = request.completion.finished.usage();
    MutexLock lock(mu_);
    if (request.last != 0) steady_.OnEnd();
    ++(outcome.ok() ? result_.completed : result_.failed);
    if (!outcome.ok() && result_.first_error.ok()) result_.first_error = outcome;
    for (const auto& branch : request.completion.branches) {
      result_.tokens += static_cast<int64_t>(branch.ids.size());
    }
    result_.prompt_tokens += usage.prompt_tokens();
    result_.cached_tokens += usage.cached_tokens();
    if (request.last != 0) result_.ttft_ms.push_back(request.ttft_ms);
    result_.itl_ms.insert(result_.itl_ms.end(), request.itl_ms.begin(), request.itl_ms.end());
  }

  const LoadOptions options_;
  std::vector<v1::GenerateRequest> requests_;
  Mutex mu_;
  CondVar all_ended_;
  int next_ GUARDED_BY(mu_) = 0;
  int ended_ GUARDED_BY(mu_) = 0;
  LoadResult result_ GUARDED_BY(mu_);
  SteadyRate steady_ GUARDED_BY(mu_);
  client::GenerationClient client_;  // last: its callbacks use the rest
};

}  // namespace

LoadResult RunLoad(const LoadOptions& options) { return Load(options).Run(); }

}  // namespace reprise::cli
