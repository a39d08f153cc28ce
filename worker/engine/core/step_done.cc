// What a finished step brought: rows, sealed blocks, tokens, ends.
#include <algorithm>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::On(StepDone& event, TimeNs now) {
  const std::vector<Flight> flights = std::exchange(flight_, {});
  constexpr int64_t kRowsToMeasure = 8;
  if (event.status.ok() && step_prompt_tokens_ >= kRowsToMeasure && now > step_began_ns_) {
    prefill_rate_.Add(static_cast<double>(step_prompt_tokens_),
                      SecondsFromNs(now - step_began_ns_));
  }
  if (event.status.ok() && step_prompt_tokens_ == 0 && now > step_began_ns_) {
    decode_steps_.Add(1, SecondsFromNs(now - step_began_ns_));
  }
  size_t expected = 0;
  for (const Flight& flight : flights) expected += flight.samples.size();
  if (event.status.ok() && event.samples.size() != expected) {
    event.status = absl::InternalError(absl::StrCat("the step sampled ", event.samples.size(),
                                                    " tokens, ", expected, " were planned"));
  }
  size_t sample = 0;
  for (const Flight& flight : flights) {
    const auto samples =
        std::span<SampledToken>(event.samples).subspan(event.status.ok() ? sample : 0);
    sample += flight.samples.size();
    if (flight.request->phase == Phase::kEnded) continue;
    if (event.status.ok()) {
      Apply(flight, samples.first(flight.samples.size()), now);
    } else {
      End(*flight.request, event.status, EndReason::kError);
    }
  }
  for (const Flight& flight : flights) {
    const auto entry = requests_.find(flight.arrival);
    if (entry == requests_.end()) continue;
    entry->second->in_step = false;
    if (entry->second->phase == Phase::kEnded) Destroy(*entry->second);
  }
}

void WorkerCore::Apply(const Flight& flight, std::span<SampledToken> samples, TimeNs now) {
  Request& request = *flight.request;
  Branch& branch = request.branches[flight.branch];
  branch.computed = flight.last;
  branch.Advance();
  if (request.resumed && !request.preempted && flight.first < branch.known_rows) {
    stats_.replayed_rows +=
        static_cast<uint64_t>(std::min(flight.last, branch.known_rows) - flight.first);
  }
  if (flight.last - flight.first > 1 || flight.last <= request.prompt_len()) {
    stats_.prompt_tokens += static_cast<uint64_t>(flight.last - flight.first);
  }
  SealRows(branch, flight.first, flight.last);
  if (!request.forked && branch.computed >= request.trunk_len) {
    if (request.is_leg) return AnswerLeg(request, samples, now);
    Fork(request);
  }
  for (size_t i = 0; i < flight.samples.size(); ++i) {
    CommitToken(request, flight.samples[i], std::move(samples[i]), now);
  }
  FinishIfAllEnded(request);
}

// The pages stay as they are until the decode worker has them, gives up, or is overdue.
void WorkerCore::AnswerLeg(Request& request, std::span<SampledToken> samples, TimeNs now) {
  ReplyPrefill reply;
  reply.key = request.key;
  reply.leg = request.leg;
  reply.cached_tokens = request.cached_tokens;
  for (SampledToken& token : samples) reply.first.push_back(std::move(token));
  if (request.tail_id) {
    const int64_t block = Whole(request.prompt_len());
    commands_.push_back(ListBlock{*request.tail_id,
                                  request.branches[0].pages[static_cast<size_t>(block)],
                                  block * block_, ListBlock::State::kTail});
  }
  commands_.push_back(std::move(reply));
  running_.erase(request.rank);
  request.phase = Phase::kLingering;
  request.leg_deadline_ns = now + settings_.leg_linger_ns;
}

}  // namespace reprise::worker
