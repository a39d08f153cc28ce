#include "coordinator/leader/leader_core.h"

#include <algorithm>
#include <utility>

namespace reprise::coordinator {

LeaderCore::LeaderCore(const LeaderOptions& options, TimeNs now)
    : options_(options), random_(options.seed), heard_ns_(now), last_tick_ns_(now) {
  jitter_ns_ = static_cast<TimeNs>(random_.Below(static_cast<uint64_t>(options_.backoff_ns)));
}

std::vector<LeaderCommand> LeaderCore::TakeCommands() { return std::exchange(commands_, {}); }

bool LeaderCore::IsSelf(const LeaderRecord& record) const {
  return record.name == options_.name && record.address == options_.address;
}

bool LeaderCore::MayOrder(TimeNs now) const {
  return state_ == State::kLeader && now >= quiet_until_ns_ &&
         now - last_tick_ns_ < options_.missed_after_ns;
}

void LeaderCore::Follow(uint64_t epoch, std::optional<LeaderRecord> leader, TimeNs now) {
  if (state_ == State::kLeader) ++steps_down_;
  state_ = State::kFollower;
  epoch_ = epoch;
  leader_ = std::move(leader);
  heard_ns_ = now;
  failed_tries_ = 0;
}

// After a try that failed: back off, longer each time, and by chance differently from the others.
void LeaderCore::Retry(TimeNs now) {
  state_ = State::kFollower;
  ++failed_;
  const TimeNs most = std::min(options_.backoff_max_ns, options_.backoff_ns << failed_tries_);
  failed_tries_ = std::min(failed_tries_ + 1, 16);
  try_ns_ = now + most / 2 + static_cast<TimeNs>(random_.Below(static_cast<uint64_t>(most)));
}

void LeaderCore::Beat(TimeNs now) {
  beat_ns_ = now;
  commands_.push_back(BeatPeers{*leader_});
}

void LeaderCore::OnTick(TimeNs now) {
  const TimeNs late_ns = now - last_tick_ns_ - options_.tick_interval_ns;
  last_tick_ns_ = now;
  if (late_ns > options_.late_tick_ns) heard_ns_ = std::min(now, heard_ns_ + late_ns);
  if (state_ == State::kLeader) {
    // Its peers have had time to replace it: it listens before it orders anything again.
    if (late_ns >= options_.missed_after_ns) {
      quiet_until_ns_ = now + 2 * options_.beat_interval_ns;
    }
    if (now - beat_ns_ >= options_.beat_interval_ns) Beat(now);
    return;
  }
  const bool silent = now - heard_ns_ >= options_.missed_after_ns + jitter_ns_;
  if (!silent || asking_ || now < try_ns_) return;
  state_ = State::kCandidate;
  asking_ = true;
  commands_.push_back(ReadKey{});
}

uint64_t LeaderCore::OnBeat(const LeaderRecord& leader, TimeNs now) {
  if (leader.epoch > epoch_ || (leader.epoch == epoch_ && state_ != State::kLeader)) {
    Follow(leader.epoch, leader, now);
  }
  return epoch_;
}

void LeaderCore::OnEpoch(uint64_t epoch, TimeNs now) {
  if (epoch > epoch_) Follow(epoch, std::nullopt, now);
}

void LeaderCore::OnRead(const StatusOr<StoredLeader>& stored, TimeNs now) {
  asking_ = false;
  if (state_ != State::kCandidate) return;
  if (!stored.ok()) return Retry(now);
  const LeaderRecord& record = stored->record;
  if (stored->revision != 0 && record.epoch > epoch_ && !IsSelf(record)) {
    return Follow(record.epoch, record, now);  // elected just now; its beats will come, or not
  }
  // A record of ours is of an earlier life, or of a try whose answer was lost: never led under.
  wanted_ = std::max(epoch_, record.epoch) + 1;
  asking_ = true;
  commands_.push_back(TakeKey{stored->revision, {*wanted_, options_.name, options_.address}});
}

void LeaderCore::OnTaken(const StatusOr<bool>& taken, TimeNs now) {
  asking_ = false;
  const uint64_t wanted = *std::exchange(wanted_, std::nullopt);
  jitter_ns_ = static_cast<TimeNs>(random_.Below(static_cast<uint64_t>(options_.backoff_ns)));
  if (wanted <= epoch_) return;  // heard of one as high meanwhile
  if (!taken.ok()) return Retry(now);
  if (!*taken) return Follow(epoch_, std::nullopt, now);
  state_ = State::kLeader;
  epoch_ = wanted;
  leader_ = {wanted, options_.name, options_.address};
  quiet_until_ns_ = 0;
  failed_tries_ = 0;
  ++elections_;
  Beat(now);
}

}  // namespace reprise::coordinator
