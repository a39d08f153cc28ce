#include "worker/engine/peer_prober.h"

#include <chrono>
#include <iterator>
#include <utility>

#include "worker/engine/replicator.h"

namespace reprise::worker {
namespace {

constexpr TimeNs kPeriod = kSecond;
constexpr TimeNs kTimeout = kSecond;

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
  peers_ = std::move(addresses);
  for (auto at = failed_.begin(); at != failed_.end();) {
    at = peers_.contains(at->first) ? std::next(at) : failed_.erase(at);
  }
}

void PeerProber::Loop() {
  TimeNs next = RealClock().NowNs() + kPeriod;
  for (;;) {
    {
      MutexLock lock(mu_);
      for (TimeNs now = RealClock().NowNs(); now < next && !stopping_; now = RealClock().NowNs()) {
        wake_.WaitFor(mu_, std::chrono::nanoseconds(next - now));
      }
      if (stopping_) return;
    }
    next = RealClock().NowNs() + kPeriod;
    ProbeSelf();
    ProbeNext();
  }
}

void PeerProber::ProbeSelf() {
  {
    MutexLock lock(mu_);
    if (std::exchange(self_open_, true)) return;
  }
  stream_->Probe(stream_->address(), kTimeout, [this](const Status& status) {
    MutexLock lock(mu_);
    self_open_ = false;
    if (status.ok()) verified_ns_ = RealClock().NowNs();
  });
}

void PeerProber::ProbeNext() {
  kv::PeerAddress peer;
  {
    MutexLock lock(mu_);
    if (peers_.empty() || peer_open_) return;
    auto next = peers_.upper_bound(last_);
    if (next == peers_.end()) next = peers_.begin();
    last_ = next->first;
    peer = next->second;
    peer_open_ = true;
  }
  stream_->Probe(peer, kTimeout, [this, key = peer.key](const Status& status) {
    MutexLock lock(mu_);
    peer_open_ = false;
    if (peers_.contains(key)) failed_[key] = !status.ok();
  });
}

int64_t PeerProber::AgeMs() const {
  MutexLock lock(mu_);
  return (RealClock().NowNs() - verified_ns_) / kMillisecond;
}

std::vector<std::string> PeerProber::Unreachable() const {
  MutexLock lock(mu_);
  std::vector<std::string> names;
  for (const auto& [key, failed] : failed_) {
    if (failed) names.push_back(key.name);
  }
  return names;
}

}  // namespace reprise::worker
