#include "tests/simulation/network.h"

#include <algorithm>
#include <utility>

namespace reprise::sim {

bool Network::Happens(bool enabled, double probability) {
  return enabled && !quiet_ && world_.random().Chance(probability);
}

TimeNs Network::Delay() {
  if (Happens(faults_.stragglers, 0.02)) {
    world_.Note(Injected::kStraggler);
    return static_cast<TimeNs>(world_.random().Below(600 * kMillisecond));
  }
  const bool slow = faults_.delays && !quiet_;
  const auto spread = static_cast<uint64_t>(slow ? 20 * kMillisecond : kMillisecond);
  if (slow) world_.Note(Injected::kDelay);
  return 50 * kMicrosecond + static_cast<TimeNs>(world_.random().Below(spread));
}

TimeNs Network::PartedUntil(Pid from, Pid to) const {
  const auto found = parted_.find({from, to});
  return found == parted_.end() ? 0 : found->second;
}

void Network::Datagram(Label label, std::function<void()> deliver) {
  if (Parted(label.from, label.to)) return;
  if (Happens(faults_.drops, 0.05)) return world_.Note(Injected::kDrop);
  if (Happens(faults_.duplicates, 0.1)) {
    world_.Note(Injected::kDuplicate);
    Deliver(label, deliver);
  }
  Deliver(label, std::move(deliver));
}

void Network::Deliver(Label label, std::function<void()> deliver) {
  Lane& lane = lanes_[{label.from, label.to}];
  world_.After(Delay(), label, [this, &lane, number = ++lane.sent, deliver = std::move(deliver)] {
    if (number < lane.latest) world_.Note(Injected::kReorder);
    lane.latest = std::max(lane.latest, number);
    deliver();
  });
}

void Network::EndCall(uint64_t id, const std::function<void()>& how) {
  if (calls_.erase(id) > 0) how();
}

void Network::Call(UnaryCall call) {
  const uint64_t id = next_call_++;
  const Label out = call.label;
  const Label back{"reply", out.to, out.from, out.digest};
  const auto fail = [this, id, failed = call.failed](const Status& status) {
    EndCall(id, [&] { failed(status); });
  };
  world_.After(call.timeout, {"timeout", out.from, out.from, out.digest},
               [fail] { fail(absl::DeadlineExceededError("no answer in time")); });
  const auto serve = [this, id, back, serve = call.serve] {
    Reply reply = serve();
    if (Parted(back.from, back.to)) return;
    if (Happens(faults_.drops, 0.05)) return world_.Note(Injected::kDrop);
    Deliver(back, [this, id, reply = std::move(reply)] { EndCall(id, reply); });
  };
  const bool repeatable = call.repeatable;
  calls_.emplace(id, std::move(call));
  if (!world_.Alive(out.to)) {
    world_.After(Delay(), back, [fail] { fail(absl::UnavailableError("connection refused")); });
  } else if (repeatable) {
    Datagram(out, serve);
  } else if (!Parted(out.from, out.to)) {
    if (Happens(faults_.drops, 0.05)) return world_.Note(Injected::kDrop);
    Deliver(out, serve);
  }
}

StreamId Network::Connect(const char* kind, End a, End b) {
  const StreamId id = next_stream_++;
  auto stream = std::make_shared<Stream>();
  stream->kind = kind;
  stream->sides[0].end = std::move(a);
  stream->sides[1].end = std::move(b);
  const bool alive = world_.Alive(stream->sides[1].end.pid);
  streams_.emplace(id, std::move(stream));
  if (!alive) Break(id);
  return id;
}

void Network::Send(StreamId id, Label label, std::function<void()> deliver) {
  const auto found = streams_.find(id);
  if (found == streams_.end() || found->second->broken) return;
  const std::shared_ptr<Stream> stream = found->second;
  const int to = stream->sides[1].end.pid == label.to ? 1 : 0;
  Side& side = stream->sides[to];
  side.inbox.push_back(std::move(deliver));
  const TimeNs leaves = std::max(world_.now(), PartedUntil(label.from, label.to));
  side.last_delivery = std::max(side.last_delivery, leaves + Delay());
  world_.After(side.last_delivery - world_.now(), label, [stream, to] {
    Side& here = stream->sides[to];
    if (here.told || stream->sides[1 - to].told || here.inbox.empty()) return;
    // The oldest: a thaw may have changed the order of the events, not of the bytes.
    const auto message = std::move(here.inbox.front());
    here.inbox.pop_front();
    message();
  });
}

void Network::Tell(StreamId id, int side) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  const std::shared_ptr<Stream> stream = found->second;
  Side& here = stream->sides[side];
  if (std::exchange(here.told, true)) return;
  here.inbox.clear();
  here.end.broken();
  const Side& other = stream->sides[1 - side];
  if (other.told || !world_.Alive(other.end.pid)) streams_.erase(id);
}

void Network::BreakAt(StreamId id, Pid by) {
  const auto found = streams_.find(id);
  if (found == streams_.end() || std::exchange(found->second->broken, true)) return;
  ++broken_;
  for (int side = 0; side < 2; ++side) {
    const Pid pid = found->second->sides[side].end.pid;
    const Pid peer = found->second->sides[1 - side].end.pid;
    TimeNs delay = by != 0 && pid == by ? 0 : Delay();
    if (pid != by || by == 0) delay += std::max<TimeNs>(0, PartedUntil(peer, pid) - world_.now());
    world_.After(delay, {"broken", pid, pid, id}, [this, id, side] { Tell(id, side); });
  }
}

void Network::BreakAllOf(Pid pid) {
  std::vector<StreamId> theirs;
  for (const auto& [id, stream] : streams_) {
    if (stream->sides[0].end.pid == pid || stream->sides[1].end.pid == pid) theirs.push_back(id);
  }
  for (const StreamId id : theirs) Break(id);
  for (const auto& [id, call] : calls_) {
    if (call.label.to != pid) continue;
    const Label back{"reset", pid, call.label.from, id};
    if (Parted(pid, call.label.from)) continue;
    world_.After(Delay(), back, [this, id = id, failed = call.failed] {
      EndCall(id, [&] { failed(absl::UnavailableError("connection reset")); });
    });
  }
}

std::vector<StreamId> Network::Open(absl::string_view kind) const {
  std::vector<StreamId> open;
  for (const auto& [id, stream] : streams_) {
    const bool alive =
        world_.Alive(stream->sides[0].end.pid) && world_.Alive(stream->sides[1].end.pid);
    if (stream->kind == kind && !stream->broken && alive) open.push_back(id);
  }
  return open;
}

}  // namespace reprise::sim
