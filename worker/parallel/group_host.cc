#include "worker/parallel/group_host.h"

#include <algorithm>
#include <utility>

#include "common/limits.h"

namespace reprise::parallel {
namespace {

constexpr TimeNs kRedialNs = 20 * kMillisecond;

}  // namespace

GroupHost::GroupHost(std::unique_ptr<kv::Transport> transport) : transport_(std::move(transport)) {
  transport_->Start(this);
}

GroupHost::~GroupHost() {
  transport_->Post([this] {
    for (const auto& member : std::vector(members_)) {
      if (!member->leaving()) member->Fail(absl::AbortedError("the rank's host is gone"));
    }
  });
  transport_->Stop([this] { return members_.empty(); });
}

Status GroupHost::Check(const GroupSpec& spec) const {
  const size_t ranks = spec.addresses.size();
  if (ranks == 0 || ranks > limits::kGroupRanksMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("a group of ", ranks, " ranks, the limit is ", limits::kGroupRanksMax));
  }
  if (spec.rank < 0 || static_cast<size_t>(spec.rank) >= ranks) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", spec.rank, " of ", ranks));
  }
  if (spec.epoch == 0) return absl::InvalidArgumentError("epochs begin at 1, this one is 0");
  return absl::OkStatus();
}

void GroupHost::Begin(const std::shared_ptr<GroupMember>& member, const GroupSpec& spec) {
  const wire::GroupKey key = member->key();
  members_.push_back(member);
  uint64_t& newest = newest_[key.group];
  if (newest >= key.epoch) {
    member->Fail(absl::FailedPreconditionError(absl::StrCat(
        "epoch ", newest, " of group ", key.group, " has begun, this is ", key.epoch)));
    return;
  }
  newest = key.epoch;
  for (const auto& other : std::vector(members_)) {
    if (other->key().group != key.group || other->key().epoch == key.epoch) continue;
    other->Fail(absl::AbortedError(
        absl::StrCat("epoch ", key.epoch, " of group ", key.group, " has begun")));
  }
  for (int peer = 0; peer < spec.rank; ++peer) {
    dials_.push_back({member, peer, spec.addresses[static_cast<size_t>(peer)]});
  }
  for (const auto& [endpoint, connection] : std::map(connections_)) {
    if (!connection.waits_for.has_value() || connection.waits_for->group != key.group) continue;
    if (connection.waits_for->epoch <= key.epoch) {
      OnHello(endpoint, *connection.waits_for, connection.hello);
    }
  }
}

// ---- Greeting. ----

void GroupHost::OnAccepted(kv::EndpointId endpoint) {
  if (connections_.size() >= limits::kGroupStrangersMax + limits::kGroupRanksMax) {
    transport_->Close(endpoint);
    return;
  }
  connections_.emplace(endpoint, Connection{});
}

void GroupHost::OnHello(kv::EndpointId endpoint, const wire::GroupKey& key,
                        const wire::Hello& hello) {
  Connection& connection = connections_.at(endpoint);
  connection.waits_for.reset();
  if (hello.version != wire::kProtocolVersion) {
    Refuse(endpoint, key,
           absl::FailedPreconditionError(absl::StrCat("group protocol ", hello.version,
                                                      ", this is ", wire::kProtocolVersion)));
    return;
  }
  const uint64_t newest = newest_.contains(key.group) ? newest_.at(key.group) : 0;
  if (key.epoch > newest) {
    connection.waits_for = key;
    connection.hello = hello;
    return;
  }
  if (key.epoch < newest) {
    Refuse(endpoint, key,
           absl::FailedPreconditionError(absl::StrCat("epoch ", key.epoch, " of group ", key.group,
                                                      " is over, now it is ", newest)));
    return;
  }
  for (const auto& member : members_) {
    if (member->key() == key) return Admit(endpoint, member, hello);
  }
  Refuse(endpoint, key, absl::UnavailableError(absl::StrCat("rank ", hello.to, " has left")));
}

void GroupHost::Admit(kv::EndpointId endpoint, const std::shared_ptr<GroupMember>& member,
                      const wire::Hello& hello) {
  const wire::GroupKey key = member->key();
  const auto peer = static_cast<int>(hello.from);
  if (hello.size != static_cast<uint32_t>(member->size()) ||
      hello.to != static_cast<uint32_t>(member->rank())) {
    const Status differs = absl::InvalidArgumentError(
        absl::StrCat("rank ", hello.from, " knows rank ", hello.to, " of ", hello.size,
                     " here, which is rank ", member->rank(), " of ", member->size()));
    Refuse(endpoint, key, differs);
    member->Fail(differs);
    return;
  }
  if (member->dead() || member->attached(peer)) {
    Refuse(endpoint, key,
           absl::UnavailableError(absl::StrCat("rank ", peer, " comes again in epoch ", key.epoch,
                                               ", or rank ", hello.to, " has failed")));
    return;
  }
  Connection& connection = connections_.at(endpoint);
  connection.member = member;
  connection.peer = peer;
  transport_->Send(endpoint, wire::Encode({key, wire::Welcome{}}));
  member->Attach(peer, endpoint);
}

void GroupHost::Refuse(kv::EndpointId endpoint, const wire::GroupKey& key, const Status& why) {
  transport_->Send(endpoint,
                   wire::Encode({key, wire::Abort{why.code(), std::string(why.message())}}));
  connections_.at(endpoint).close_at_ns = transport_->NowNs() + kFarewellNs;
}

void GroupHost::OnAnswer(kv::EndpointId endpoint, const wire::Envelope& envelope) {
  const Connection connection = connections_.at(endpoint);
  std::erase_if(dials_, [endpoint](const Dial& dial) { return dial.endpoint == endpoint; });
  const GroupMember& member = *connection.member;
  if (std::holds_alternative<wire::Welcome>(envelope.message) && !member.dead()) {
    connection.member->Attach(connection.peer, endpoint);
    return;
  }
  Close(endpoint);
  const auto* abort = std::get_if<wire::Abort>(&envelope.message);
  connection.member->Fail(
      abort != nullptr
          ? Status(abort->code, absl::StrCat("rank ", connection.peer, ": ", abort->message))
          : absl::InvalidArgumentError(absl::StrCat("rank ", connection.peer, " greets wrongly")));
}

// ---- What the transport tells. ----

void GroupHost::OnMessage(kv::EndpointId endpoint, std::span<const uint8_t> message) {
  const auto found = connections_.find(endpoint);
  if (found == connections_.end() || found->second.close_at_ns != INT64_MAX) return;
  const Connection connection = found->second;
  StatusOr<wire::Envelope> envelope = wire::Decode(message);
  if (connection.member == nullptr) {
    const auto* hello = envelope.ok() ? std::get_if<wire::Hello>(&envelope->message) : nullptr;
    if (hello == nullptr || connection.waits_for.has_value()) return Close(endpoint);
    return OnHello(endpoint, envelope->key, *hello);
  }
  Status wrong = envelope.status();
  if (envelope.ok() && envelope->key != connection.member->key()) {
    wrong = absl::InvalidArgumentError(absl::StrCat(
        "a message of group ", envelope->key.group, " epoch ", envelope->key.epoch, " in group ",
        connection.member->key().group, " epoch ", connection.member->key().epoch));
  }
  if (!wrong.ok()) {
    connection.member->Fail(Annotate(wrong, absl::StrCat("from rank ", connection.peer)));
  } else if (!connection.member->attached(connection.peer)) {
    OnAnswer(endpoint, *envelope);
  } else {
    connection.member->OnMessage(connection.peer, std::move(envelope->message));
  }
}

kv::Sink GroupHost::OnBulk(kv::EndpointId endpoint, const kv::BulkHeader& header, size_t bytes) {
  const auto found = connections_.find(endpoint);
  if (found == connections_.end() || found->second.member == nullptr) return {};
  const wire::Bulk bulk = wire::DecodeBulk(header);
  const Connection& connection = found->second;
  if (bulk.key != connection.member->key()) return {};
  return connection.member->OnBulk(connection.peer, bulk.sequence, bytes);
}

void GroupHost::OnFailed(kv::EndpointId endpoint, const Status& status) {
  const auto found = connections_.extract(endpoint);
  if (found.empty()) return;
  const Connection& connection = found.mapped();
  if (connection.member == nullptr) return;
  for (Dial& dial : dials_) {
    if (dial.endpoint != endpoint) continue;
    dial.endpoint = 0;
    dial.at_ns = transport_->NowNs() + kRedialNs;
    return;
  }
  connection.member->OnEndpointFailed(connection.peer, status);
}

void GroupHost::Close(kv::EndpointId endpoint) {
  connections_.erase(endpoint);
  transport_->Close(endpoint);
}

// ---- Time. ----

TimeNs GroupHost::OnWake(TimeNs now_ns) {
  TimeNs next_ns = std::min(RunDials(now_ns), CloseRefused(now_ns));
  for (const auto& member : std::vector(members_)) {
    next_ns = std::min(next_ns, member->OnWake(now_ns));
  }
  std::erase_if(members_, [](const auto& member) { return member->gone(); });
  return next_ns;
}

TimeNs GroupHost::RunDials(TimeNs now_ns) {
  for (Dial& dial : dials_) {
    if (dial.member->dead()) {
      if (dial.endpoint != 0) Close(dial.endpoint);
      dial.endpoint = 0;
    } else if (dial.endpoint == 0 && dial.at_ns <= now_ns) {
      dial.at_ns = now_ns + kRedialNs;
      const auto endpoint = transport_->Connect(dial.address.host, dial.address.port);
      if (!endpoint.ok()) continue;  // again until the deadline
      dial.endpoint = *endpoint;
      connections_[*endpoint] = {.member = dial.member, .peer = dial.peer};
      const wire::Hello hello{.size = static_cast<uint32_t>(dial.member->size()),
                              .from = static_cast<uint32_t>(dial.member->rank()),
                              .to = static_cast<uint32_t>(dial.peer)};
      transport_->Send(*endpoint, wire::Encode({dial.member->key(), hello}));
    }
  }
  std::erase_if(dials_, [](const Dial& dial) { return dial.member->dead(); });
  TimeNs next_ns = INT64_MAX;
  for (const Dial& dial : dials_) {
    if (dial.endpoint == 0) next_ns = std::min(next_ns, dial.at_ns);
  }
  return next_ns;
}

TimeNs GroupHost::CloseRefused(TimeNs now_ns) {
  TimeNs next_ns = INT64_MAX;
  std::vector<kv::EndpointId> due;
  for (const auto& [endpoint, connection] : connections_) {
    if (connection.close_at_ns <= now_ns) {
      due.push_back(endpoint);
    } else {
      next_ns = std::min(next_ns, connection.close_at_ns);
    }
  }
  for (const kv::EndpointId endpoint : due) Close(endpoint);
  return next_ns;
}

}  // namespace reprise::parallel
