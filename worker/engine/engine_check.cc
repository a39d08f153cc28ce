// Ready means ready: before the engine serves, a real step has run and a real block has gone
// through its own stream.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>

#include "kvstore/stream/fetch_outcome.h"
#include "worker/engine/engine.h"

namespace reprise::worker {
Status Engine::SelfCheck() {
  const TimeNs start = RealClock().NowNs();
  RETURN_IF_ERROR(Annotate(CheckStep(), "while running a first step"));
  RETURN_IF_ERROR(Annotate(CheckStream(), "while moving a block through the own stream"));
  const TimeNs took = RealClock().NowNs() - start;
  if (took <= options_.self_check_timeout_ns) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat("the self-check took ", MsFromNs(took),
                                                  " ms, the limit is ",
                                                  MsFromNs(options_.self_check_timeout_ns), " ms"));
}

Status Engine::CheckStep() {
  const std::array<int32_t, 1> tokens = {0};
  const std::array<int32_t, 1> pages = {0};
  StepItem item;
  item.tokens = tokens;
  item.pages = pages;
  item.wants_output = true;
  const SamplingParams params;
  StepSample sample;
  sample.input.params = &params;
  sample.input.prompt = tokens;
  std::vector<SampledToken> drawn;
  RETURN_IF_ERROR(executor_->RunAndSample({&item, 1}, {&sample, 1}, nullptr, &drawn));
  const int32_t id = drawn.front().id;
  if (id >= 0 && id < info().vocab_size) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("the first step gave token ", id, " of a vocabulary of ", info().vocab_size));
}

Status Engine::CheckStream() {
  const kv::BlockId id = kv::TailId({"self-check", {}}, 0, 0);
  static_cast<void>(directory_->List({id, 0, 0, ListBlock::State::kTail}));
  kv::FetchSpec spec;
  spec.source = address_;
  spec.items.push_back({id, 0, PageData(1)});
  spec.timeout_ns = options_.self_check_timeout_ns;
  const auto listener = std::make_shared<kv::FetchOutcome>();
  RETURN_IF_ERROR(stream_->Fetch(std::move(spec), listener).status());
  const Status status = listener->Wait().front();
  // The serving side may hold the page a moment longer than the fetch takes.
  const bool quiet = directory_->Unlist({id, 0, false}).quiet;
  RETURN_IF_ERROR(status);
  if (!quiet) RETURN_IF_ERROR(AwaitSelfCheckPin());
  if (std::memcmp(PageData(0), PageData(1), PageBytes()) == 0) return absl::OkStatus();
  return absl::DataLossError("the block came back changed");
}

// The directory posts the notice like any other; it is the first event there is.
Status Engine::AwaitSelfCheckPin() {
  const TimeNs until = RealClock().NowNs() + options_.self_check_timeout_ns;
  MutexLock lock(mu_);
  while (mailbox_.empty()) {
    const TimeNs left = until - RealClock().NowNs();
    if (left <= 0) return absl::DeadlineExceededError("the served block stays pinned");
    wake_.WaitFor(mu_, std::chrono::nanoseconds(left));
  }
  mailbox_.clear();
  return absl::OkStatus();
}

}  // namespace reprise::worker
