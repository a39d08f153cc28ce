#include "kvstore/stream/peer_links.h"

#include <algorithm>
#include <utility>

#include "common/limits.h"

namespace reprise::kv {
namespace {

constexpr TimeNs kHandshakeTimeoutNs = 2 * kSecond;
constexpr TimeNs kBackoffMinNs = 50 * kMillisecond;
constexpr TimeNs kBackoffMaxNs = 2 * kSecond;

std::string Name(const PeerAddress& address) {
  return absl::StrCat(address.key.name, "/", address.key.incarnation, " at ", address.host, ":",
                      address.port);
}

}  // namespace

StatusOr<PeerLink*> PeerLinks::Slot(const PeerAddress& address) {
  const Key key(address.key.name, address.key.incarnation, address.host, address.port);
  if (const auto found = links_.find(key); found != links_.end()) return found->second.get();
  if (links_.size() >= limits::kPeersMax) {
    auto oldest = links_.end();
    for (auto it = links_.begin(); it != links_.end(); ++it) {
      if (!it->second->fetches.empty() || it->second->in_use) continue;
      if (oldest == links_.end() || it->second->last_use < oldest->second->last_use) oldest = it;
    }
    if (oldest == links_.end()) {
      return absl::UnavailableError(
          absl::StrCat("all of ", limits::kPeersMax, " peer connections are in use"));
    }
    Drop(*oldest->second, absl::UnavailableError("replaced by another peer"));
    links_.erase(oldest);
  }
  auto link = std::make_unique<PeerLink>();
  link->address = address;
  return (links_[key] = std::move(link)).get();
}

StatusOr<PeerLink*> PeerLinks::Open(const PeerAddress& address) {
  ASSIGN_OR_RETURN(PeerLink * link, Slot(address));
  link->last_use = ++uses_;
  if (link->endpoint != 0) return link;
  const TimeNs now_ns = context_.Now();
  if (now_ns < link->retry_at_ns) {
    return Status(link->last_error.code(),
                  absl::StrCat(link->last_error.message(), " (next try in ",
                               (link->retry_at_ns - now_ns) / kMillisecond, " ms)"));
  }
  RETURN_IF_ERROR(Connect(*link));
  return link;
}

Status PeerLinks::Connect(PeerLink& link) {
  ASSIGN_OR_RETURN(link.endpoint,
                   context_.transport->Connect(link.address.host, link.address.port));
  by_endpoint_[link.endpoint] = &link;
  context_.counters->peers.fetch_add(1, std::memory_order_relaxed);
  // Counted as a failure until the handshake is done; see Drop.
  link.handshake_timer = context_.timers->Judge(context_.Now(), kHandshakeTimeoutNs, [this, &link] {
    Drop(link, absl::UnavailableError(absl::StrCat(Name(link.address), " did not answer within ",
                                                   kHandshakeTimeoutNs / kMillisecond, " ms")));
  });
  context_.Send(
      link.endpoint, 0,
      wire::Hello{
          .self = context_.self, .wanted = link.address.key, .format = context_.format_text});
  return absl::OkStatus();
}

PeerLink* PeerLinks::Find(EndpointId endpoint) {
  const auto found = by_endpoint_.find(endpoint);
  return found != by_endpoint_.end() ? found->second : nullptr;
}

PeerLink* PeerLinks::FindNode(const NodeKey& key) {
  for (const auto& [endpoint, link] : by_endpoint_) {
    if (link->ready && link->address.key == key) return link;
  }
  return nullptr;
}

void PeerLinks::OnWelcome(PeerLink& link, const wire::Welcome& welcome) {
  Status fits = CheckFormat(context_, welcome.format);
  if (fits.ok() && formats_ == Formats::kSame && welcome.format != context_.format_text) {
    fits = FormatsDiffer("rows are appended unconverted", context_.format_text, welcome.format);
  }
  if (welcome.version != wire::kProtocolVersion) {
    fits = absl::FailedPreconditionError(absl::StrCat("protocol version ", wire::kProtocolVersion,
                                                      " here, ", welcome.version, " there"));
  } else if (welcome.self != link.address.key) {
    context_.counters->stale_refused.fetch_add(1, std::memory_order_relaxed);
    fits = absl::FailedPreconditionError(absl::StrCat(
        Name(link.address), " is now ", welcome.self.name, "/", welcome.self.incarnation));
  }
  if (!fits.ok() || link.ready) {
    Drop(link, fits.ok() ? absl::UnavailableError("a second welcome") : fits);
    return;
  }
  link.ready = true;
  link.format = welcome.format;
  link.failures = 0;
  context_.timers->Cancel(link.handshake_timer);
  user_->OnLinkUp(link);
}

void PeerLinks::Drop(PeerLink& link, const Status& status) {
  if (link.endpoint == 0) return;
  context_.transport->Close(link.endpoint);
  Detach(link, status);
}

void PeerLinks::Detach(PeerLink& link, const Status& status) {
  context_.timers->Cancel(link.handshake_timer);
  by_endpoint_.erase(link.endpoint);
  context_.counters->peers.fetch_sub(1, std::memory_order_relaxed);
  link.endpoint = 0;
  link.in_use = false;
  // One that had answered is tried again at once: it may just have been restarted.
  if (!link.ready) {
    const int doublings = std::min(link.failures++, 10);
    link.retry_at_ns = context_.Now() + std::min(kBackoffMinNs << doublings, kBackoffMaxNs);
  }
  link.ready = false;
  link.last_error = Annotate(status, Name(link.address));
  user_->OnLinkDown(link, link.last_error);
}

}  // namespace reprise::kv
