#include "coordinator/planner/pipeline_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <queue>

#include "common/random.h"

namespace reprise::planner {
namespace {

// A microbatch reaches a stage. Arrivals at the same instant keep the order they were made in.
struct Arrival {
  double at_s;
  uint64_t order;
  size_t microbatch;
  int stage;
  bool operator>(const Arrival& other) const {
    return at_s != other.at_s ? at_s > other.at_s : order > other.order;
  }
};

class Pipeline {
 public:
  // Microbatch i may enter at ready_s[i]; its first pass takes prompt_s over all stages if that is
  // above 0, each of its tokens token_s.
  Pipeline(int stages, double prompt_s, double token_s, const std::vector<int>& tokens,
           const std::vector<double>& ready_s)
      : stages_(stages),
        prompt_s_(prompt_s),
        token_s_(token_s),
        ready_s_(ready_s),
        passes_(tokens.begin(), tokens.end()),
        prompt_due_(tokens.size(), prompt_s > 0),
        free_at_s_(static_cast<size_t>(stages), 0) {}

  double Run() {
    for (int i = 0; i < stages_; ++i) Admit(0);
    double end_s = 0;
    while (!arrivals_.empty()) {
      const Arrival arrival = arrivals_.top();
      arrivals_.pop();
      const double left_s = Serve(arrival);
      if (arrival.stage + 1 < stages_) {
        Push(left_s, arrival.microbatch, arrival.stage + 1);
      } else {
        end_s = std::max(end_s, left_s);
        EndPass(arrival.microbatch, left_s);
      }
    }
    return end_s;
  }

 private:
  void Push(double at_s, size_t microbatch, int stage) {
    arrivals_.push({at_s, order_++, microbatch, stage});
  }

  void Admit(double now_s) {
    if (next_ == passes_.size()) return;
    Push(std::max(now_s, ready_s_[next_]), next_, 0);
    ++next_;
  }

  double Serve(const Arrival& arrival) {
    double& free_at_s = free_at_s_[static_cast<size_t>(arrival.stage)];
    const double work_s = prompt_due_[arrival.microbatch] ? prompt_s_ : token_s_;
    free_at_s = std::max(arrival.at_s, free_at_s) + work_s / stages_;
    return free_at_s;
  }

  void EndPass(size_t microbatch, double now_s) {
    if (prompt_due_[microbatch]) {
      prompt_due_[microbatch] = false;
    } else {
      --passes_[microbatch];
    }
    if (passes_[microbatch] > 0) {
      Push(now_s, microbatch, 0);
    } else {
      Admit(now_s);
    }
  }

  const int stages_;
  const double prompt_s_;
  const double token_s_;
  const std::vector<double>& ready_s_;
  std::vector<int> passes_;  // token passes left
  std::vector<bool> prompt_due_;
  std::vector<double> free_at_s_;
  std::priority_queue<Arrival, std::vector<Arrival>, std::greater<>> arrivals_;
  uint64_t order_ = 0;
  size_t next_ = 0;
};

}  // namespace

double SimulateMixed(int stages, const PipelineLoad& load) {
  const std::vector<double> ready_s(load.new_tokens.size(), 0);
  return Pipeline(stages, load.prompt_s, load.token_s, load.new_tokens, ready_s).Run();
}

// Prompts are equal, so their pipeline needs no events: one leaves every m Y / p.
double SimulateSplit(const Split& split, const PipelineLoad& load) {
  const double prompt_s = load.stream_overhead * load.prompt_s;
  std::vector<double> ready_s(load.new_tokens.size());
  for (size_t i = 0; i < ready_s.size(); ++i) {
    ready_s[i] = prompt_s + static_cast<double>(i) * prompt_s / split.prompt_machines;
  }
  return Pipeline(split.token_machines, 0, load.token_s, load.new_tokens, ready_s).Run();
}

SimulatedGain SimulateBestSplit(int machines, const PipelineLoad& load) {
  SimulatedGain best;
  best.mixed_s = SimulateMixed(machines, load);
  best.split_s = std::numeric_limits<double>::infinity();
  for (int prompt = 1; prompt < machines; ++prompt) {
    const Split split{prompt, machines - prompt};
    const double seconds = SimulateSplit(split, load);
    if (seconds < best.split_s) {
      best.split = split;
      best.split_s = seconds;
    }
  }
  return best;
}

// Box and Muller's transform; mean = exp(mu + sigma^2 / 2).
std::vector<int> LognormalLengths(const LengthOptions& options) {
  SplitMix64 random(options.seed);
  const double mu = std::log(options.mean) - options.sigma * options.sigma / 2;
  std::vector<int> lengths;
  lengths.reserve(static_cast<size_t>(options.count));
  for (int i = 0; i < options.count; ++i) {
    const double radius = std::sqrt(-2 * std::log(1 - random.Uniform()));
    const double normal = radius * std::cos(2 * std::numbers::pi * random.Uniform());
    const double tokens = std::round(std::exp(mu + options.sigma * normal));
    lengths.push_back(static_cast<int>(std::clamp(tokens, 1.0, double(options.tokens_max))));
  }
  return lengths;
}

}  // namespace reprise::planner
