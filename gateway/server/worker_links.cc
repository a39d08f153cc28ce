#include "gateway/server/worker_links.h"

#include <utility>

#include "common/log.h"
#include "gateway/server/worker_link.h"

namespace reprise::gateway {

class WorkerLinks::Ticker final : public TimerQueue::Client {
 public:
  explicit Ticker(WorkerLinks& links) : links_(links) {}
  void OnTimer(TimeNs now) override {
    if (const auto inside = gate_.Enter()) links_.OnTick(now);
  }
  void Close() { gate_.Close(); }

 private:
  WorkerLinks& links_;  // valid inside the gate
  Gate gate_;
};

WorkerLinks::WorkerLinks(NodeKey self, SessionRegistry& registry, TimerQueue& timers,
                         GatewayMetrics& metrics)
    : self_(std::move(self)),
      registry_(registry),
      timers_(timers),
      metrics_(metrics),
      timer_key_(timers.NewKey()),
      ticker_(std::make_shared<Ticker>(*this)) {}

WorkerLinks::~WorkerLinks() { Shutdown(); }

std::shared_ptr<WorkerLink> WorkerLinks::Get(const v1::NodeRef& worker) {
  const NodeKey key{worker.name(), worker.incarnation()};
  std::shared_ptr<WorkerLink> link;
  {
    MutexLock lock(mu_);
    if (stopping_) return nullptr;
    const auto it = links_.find(key);
    if (it != links_.end()) return it->second;
    auto holder = gate_.Enter();
    if (!holder) return nullptr;
    link = std::make_shared<WorkerLink>(*this, worker, next_serial_++, std::move(*holder));
    links_.emplace(key, link);
  }
  link->Open();
  metrics_.links_opened.Increment();
  return link;
}

std::shared_ptr<WorkerLink> WorkerLinks::Find(const NodeKey& worker) {
  MutexLock lock(mu_);
  const auto it = links_.find(worker);
  return it == links_.end() ? nullptr : it->second;
}

std::vector<NodeKey> WorkerLinks::workers() const {
  MutexLock lock(mu_);
  std::vector<NodeKey> workers;
  for (const auto& [key, link] : links_) workers.push_back(key);
  return workers;
}

void WorkerLinks::Fail(const NodeKey& worker, const Status& why, Loss loss) {
  if (const auto link = Find(worker)) link->Cancel(why, loss);
}

std::vector<std::shared_ptr<WorkerLink>> WorkerLinks::All() const {
  std::vector<std::shared_ptr<WorkerLink>> links;
  MutexLock lock(mu_);
  for (const auto& [key, link] : links_) links.push_back(link);
  return links;
}

void WorkerLinks::Watch() {
  MutexLock lock(mu_);
  if (stopping_ || tick_at_ != TimerQueue::kNone) return;
  tick_at_ = RealClock().NowNs() + LinkWatch::kTickNs;
  timers_.Move(timer_key_, TimerQueue::kNone, tick_at_, ticker_);
}

void WorkerLinks::OnTick(TimeNs now) {
  {
    MutexLock lock(mu_);
    tick_at_ = TimerQueue::kNone;
  }
  bool again = false;
  for (const auto& link : All()) again = link->OnTick(now) || again;
  if (again) Watch();
}

void WorkerLinks::OnBroken(WorkerLink& link, const Status& status, Loss loss) {
  bool stopping = false;
  {
    MutexLock lock(mu_);
    links_.erase(link.worker());
    stopping = stopping_;
  }
  if (!stopping) {
    metrics_.links_lost.Increment();
    LogWarning("worker_link_lost", {{"worker", link.worker().name},
                                    {"incarnation", link.worker().incarnation},
                                    {"status", status}});
  }
  registry_.ForEach(
      [&](const std::string&, RequestSink& sink) { sink.OnLinkLost(link.serial(), status, loss); });
}

void WorkerLinks::Shutdown() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  for (const auto& link : All()) {
    link->Cancel(absl::UnavailableError("the gateway is stopping"), Loss::kOther);
  }
  ticker_->Close();
  gate_.Close();
}

}  // namespace reprise::gateway
