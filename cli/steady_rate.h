// The rate of a load in its steady part: while all streams it may have at a time are between their
// first and their last token. What prompts cost before and stragglers after is not in it. Pure; the
// caller locks.
#ifndef REPRISE_CLI_STEADY_RATE_H_
#define REPRISE_CLI_STEADY_RATE_H_

#include <algorithm>
#include <cstdint>

#include "common/clock.h"

namespace reprise::cli {

class SteadyRate {
 public:
  explicit SteadyRate(int streams) : streams_(streams) {}

  // A stream's first tokens came: they belong to its prompt's time.
  void OnFirst(TimeNs now) {
    if (++decoding_ == streams_) begin_ = last_ = now;
  }
  // Further ones.
  void OnTokens(TimeNs now, int64_t count) {
    if (decoding_ != streams_) return;
    tokens_here_ += count;
    last_ = std::max(last_, now);  // threads may come in another order than their clocks
  }
  // A stream that had its first tokens ended.
  void OnEnd() {
    if (decoding_-- != streams_) return;
    tokens_ += tokens_here_;
    time_ += last_ - begin_;
    tokens_here_ = 0;
  }

  // Of the parts that are over.
  int64_t tokens() const { return tokens_; }
  double seconds() const { return SecondsFromNs(time_); }
  // Tokens a second; 0 when there was no such part.
  double rate() const { return time_ > 0 ? static_cast<double>(tokens_) / seconds() : 0; }

 private:
  const int streams_;
  int decoding_ = 0;
  TimeNs begin_ = 0;
  TimeNs last_ = 0;
  int64_t tokens_here_ = 0;
  int64_t tokens_ = 0;
  TimeNs time_ = 0;
};

}  // namespace reprise::cli

#endif  // REPRISE_CLI_STEADY_RATE_H_
