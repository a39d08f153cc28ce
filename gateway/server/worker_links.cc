#include "gateway/server/worker_links.h"

#include <utility>

#include "common/log.h"
#include "gateway/server/worker_link.h"

namespace reprise::gateway {

WorkerLinks::WorkerLinks(NodeKey self, SessionRegistry& registry, GatewayMetrics& metrics)
    : self_(std::move(self)), registry_(registry), metrics_(metrics) {}

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

void WorkerLinks::Fail(const NodeKey& worker, const Status& why) {
  if (const auto link = Find(worker)) link->Cancel(why);
}

void WorkerLinks::OnBroken(WorkerLink& link, const Status& status) {
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
      [&](const std::string&, RequestSink& sink) { sink.OnLinkLost(link.serial(), status); });
}

void WorkerLinks::Shutdown() {
  std::vector<std::shared_ptr<WorkerLink>> links;
  {
    MutexLock lock(mu_);
    stopping_ = true;
    for (const auto& [key, link] : links_) links.push_back(link);
  }
  for (const auto& link : links) link->Cancel(absl::UnavailableError("the gateway is stopping"));
  links.clear();
  gate_.Close();
}

}  // namespace reprise::gateway
