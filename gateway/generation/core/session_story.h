// The story-teller of the session tests: feeds one SessionCore and keeps what its client would have
// seen. Test only.
#ifndef REPRISE_GATEWAY_GENERATION_CORE_SESSION_STORY_H_
#define REPRISE_GATEWAY_GENERATION_CORE_SESSION_STORY_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/generation/core/session_core.h"

namespace reprise::gateway {

inline constexpr int32_t kEosId = 2;
inline constexpr int32_t kStopId = 9;

class Story {
 public:
  static SessionSpec Spec(int32_t n = 1, int32_t max_tokens = 4) {
    SessionSpec spec;
    spec.n = n;
    spec.prompt_tokens = 10;
    spec.vocab_size = 100;
    spec.max_tokens = max_tokens;
    spec.stop_ids = {kStopId};
    spec.eos_ids = {kEosId};
    spec.deadline = 10 * kSecond;
    return spec;
  }
  explicit Story(int32_t n = 1, int32_t max_tokens = 4) : Story(Spec(n, max_tokens)) {}
  explicit Story(SessionSpec spec) : core(std::make_unique<SessionCore>(std::move(spec))) {}

  void Start() {
    Step([&](Actions& a) { core->Start(now, a); });
  }
  void Placed(const std::string& worker = "w1", uint64_t incarnation = 1) {
    ++n_;
    Step([&](Actions& a) { core->OnPlaced(last_ask, {attempt(), {worker, incarnation}}, now, a); });
  }
  // The answer to an attach: it runs at `worker`.
  void Running(const std::string& worker = "w1", uint64_t incarnation = 1) {
    ++n_;
    Step([&](Actions& a) {
      core->OnPlaced(last_ask, {attempt(), {worker, incarnation}, /*running=*/true}, now, a);
    });
  }
  void Attached(const AttachedInfo& info, std::vector<TokenEvent> tokens,
                std::vector<BranchEnd> ended = {}, const WorkerDone* done = nullptr) {
    Step([&](Actions& a) {
      core->OnWorkerEvents(
          {.attempt = attempt(), .tokens = tokens, .ended = ended, .done = done, .attached = &info},
          now, a);
    });
  }
  void Refused(Status status, std::optional<int64_t> hint_ms = {}) {
    Step([&](Actions& a) { core->OnPlaceRefused(last_ask, {status, hint_ms}, now, a); });
  }
  void Streaming() {
    Start();
    Placed();
  }
  void Tokens(std::vector<TokenEvent> tokens, std::vector<BranchEnd> ended = {}) {
    Events(attempt(), std::move(tokens), std::move(ended));
  }
  void Done(Status status = {}, std::vector<BranchEnd> ended = {}, int32_t cached = 0) {
    const WorkerDone done{std::move(status), cached};
    Events(attempt(), {}, std::move(ended), &done);
  }
  void Events(Attempt of, std::vector<TokenEvent> tokens, std::vector<BranchEnd> ended,
              const WorkerDone* done = nullptr) {
    Step([&](Actions& a) {
      core->OnWorkerEvents(
          {.attempt = of, .tokens = tokens, .ended = ended, .watermark = 0, .done = done}, now, a);
    });
  }
  void Lost(Loss loss = Loss::kCrash) { Lost(attempt(), loss); }
  void Lost(Attempt of, Loss loss = Loss::kCrash) {
    Step([&](Actions& a) {
      core->OnWorkerLost(of, absl::UnavailableError("stream broke"), now, a, loss);
    });
  }
  void Cancel() {
    Step([&](Actions& a) { core->OnClientCancel(a); });
  }
  void Gone() {
    Step([&](Actions& a) { core->OnClientGone(a); });
  }
  void Abort(const Status& status) {
    Step([&](Actions& a) { core->OnAbort(status, a); });
  }
  void TickAt(TimeNs at) {
    now = at;
    Step([&](Actions& a) { core->OnTick(now, a); });
  }

  Attempt attempt() const { return {1, n_}; }
  std::vector<int32_t> seen(uint32_t branch) const {
    std::vector<int32_t> ids;
    for (const TokenEvent& token : delivered) {
      if (token.branch == branch) ids.push_back(token.id);
    }
    return ids;
  }

  std::unique_ptr<SessionCore> core;
  TimeNs now = kSecond;
  Actions last;  // of the latest event
  uint64_t last_ask = 0;
  std::vector<TokenEvent> known;
  std::vector<TokenEvent> delivered;
  std::vector<SessionEnd> finishes;

 private:
  template <typename F>
  void Step(F&& event) {
    last.Clear();
    event(last);
    if (last.place) last_ask = last.place->ask;
    known.insert(known.end(), last.known.begin(), last.known.end());
    delivered.insert(delivered.end(), last.deliver.begin(), last.deliver.end());
    if (last.finish) finishes.push_back(*last.finish);
  }
  uint32_t n_ = 0;
};

inline TokenEvent Tok(uint32_t branch, uint32_t index, int32_t id, float logprob = -1) {
  return {branch, index, id, logprob, 0};
}

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_GENERATION_CORE_SESSION_STORY_H_
