#include "worker/engine/peer_prober.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "worker/engine/replicator.h"

namespace reprise::worker {
namespace {

// With a report's way all of it stays below two seconds, so that a node cut off is known by then.
constexpr TimeNs kTimeout = 600 * kMillisecond;
// Of the own block: a process that needs longer is short of a processor.
constexpr TimeNs kInTime = 300 * kMillisecond;
constexpr TimeNs kAlone = 1200 * kMillisecond;  // without an answer of any peer

}  // namespace

void PeerProber::Start() {
  MutexLock lock(mu_);
  verified_ns_ = RealClock().NowNs();
  thread_ = Thread("worker_probe", [this] { Loop(); });
}

void PeerProber::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  thread_.Join();
}

void PeerProber::SetPeers(const std::vector<StoreNode>& peers) {
  std::map<NodeKey, kv::PeerAddress> addresses;
  for (const StoreNode& peer : peers) {
    const StatusOr<kv::PeerAddress> address = ToPeer(peer.node);
    if (address.ok()) addresses.emplace(peer.node.key, *address);
  }
  MutexLock lock(mu_);
  const bool same = peers_.size() == addresses.size() &&
                    std::equal(peers_.begin(), peers_.end(), addresses.begin(),
                               [](const auto& a, const auto& b) { return a.first == b.first; });
  if (!same) reached_ns_ = RealClock().NowNs();
  peers_ = std::move(addresses);
  for (auto at = failed_.begin(); at != failed_.end();) {
    at = peers_.contains(at->first) ? std::next(at) : failed_.erase(at);
  }
}

void PeerProber::SetIdle(bool idle) {
  MutexLock lock(mu_);
  if (std::exchange(idle_, idle) && !idle) wake_.NotifyAll();
}

void PeerProber::Loop() {
  TimeNs round_ns = RealClock().NowNs();
  for (;;) {
    {
      MutexLock lock(mu_);
      while (!stopping_) {
        const TimeNs left = round_ns + Period() - RealClock().NowNs();
        if (left <= 0) break;
        wake_.WaitFor(mu_, std::chrono::nanoseconds(left));
      }
      if (stopping_) return;
    }
    round_ns = RealClock().NowNs();
    ProbeSelf();
    ProbeNext(round_ns);
  }
}

void PeerProber::ProbeSelf() {
  {
    MutexLock lock(mu_);
    ++unverified_rounds_;
    if (std::exchange(self_open_, true)) return;
  }
  const TimeNs begun_ns = RealClock().NowNs();
  stream_->Probe(stream_->address(), kTimeout, [this, begun_ns](const Status& status) {
    MutexLock lock(mu_);
    self_open_ = false;
    if (!status.ok()) return;
    verified_ns_ = RealClock().NowNs();
    own_took_ns_ = verified_ns_ - begun_ns;
    unverified_rounds_ = 0;
  });
}

void PeerProber::ProbeNext(TimeNs round_ns) {
  kv::PeerAddress peer;
  {
    MutexLock lock(mu_);
    if (peers_.empty()) return;
    auto next = peers_.upper_bound(last_);
    if (next == peers_.end()) next = peers_.begin();
    last_ = next->first;
    peer = next->second;
    if (!open_.insert(peer.key).second) return;
  }
  stream_->Probe(peer, kTimeout, [this, round_ns, key = peer.key](const Status& status) {
    MutexLock lock(mu_);
    open_.erase(key);
    if (!peers_.contains(key)) return;
    const bool sound = verified_ns_ >= round_ns && own_took_ns_ <= kInTime;
    if (!status.ok() && !sound) return;
    failed_[key] = !status.ok();
    if (status.ok()) reached_ns_ = RealClock().NowNs();
  });
}

int64_t PeerProber::AgeMs() const {
  MutexLock lock(mu_);
  return (RealClock().NowNs() - verified_ns_) / kMillisecond;
}

bool PeerProber::Stuck() const {
  MutexLock lock(mu_);
  return unverified_rounds_ > kStuckRounds;
}

std::vector<std::string> PeerProber::Unreachable() const {
  MutexLock lock(mu_);
  std::vector<std::string> names;
  for (const auto& [key, failed] : failed_) {
    if (failed) names.push_back(key.name);
  }
  if (!peers_.empty() && RealClock().NowNs() - reached_ns_ >= kAlone) {
    names.push_back(stream_->address().key.name);
  }
  return names;
}

}  // namespace reprise::worker
