#include "tests/simulation/world.h"

#include <cstdio>

namespace reprise::sim {

Digest& Digest::U64(uint64_t value) {
  uint64_t z = state_ ^ value;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  state_ = (z ^ (z >> 31)) + 0x9e3779b97f4a7c15u;
  return *this;
}

Digest& Digest::Text(absl::string_view text) {
  for (const char c : text) state_ = (state_ ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return U64(text.size());
}

Digest& Digest::Bytes(std::span<const uint8_t> bytes) {
  return Text({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

Pid World::Spawn(std::string name) {
  processes_.push_back({.name = std::move(name)});
  return static_cast<Pid>(processes_.size() - 1);
}

void World::Kill(Pid pid) {
  Trace("kill ", name(pid));
  processes_[pid].alive = false;
}

void World::After(TimeNs delay, Label label, std::function<void()> work) {
  queue_.emplace(std::pair(now_ + delay, scheduled_++), Event{label, std::move(work)});
}

bool World::RunOne() {
  if (failure_ || queue_.empty()) return false;
  auto node = queue_.extract(queue_.begin());
  now_ = node.key().first;
  const Label label = node.mapped().label;
  Process& process = processes_[label.to];
  if (!process.alive) return true;
  if (process.frozen_until > now_) {
    node.key() = {process.frozen_until, scheduled_++};
    queue_.insert(std::move(node));
    return true;
  }
  hash_.U64(static_cast<uint64_t>(now_)).Text(label.kind);
  hash_.U64(uint64_t{label.from} << 32 | label.to).U64(label.digest);
  ++events_;
  node.mapped().work();
  if (checker_) checker_(label.to);
  return !failure_;
}

void World::RunUntil(TimeNs until) {
  while (!queue_.empty() && queue_.begin()->first.first <= until) {
    if (!RunOne()) return;
  }
  if (!failure_) now_ = until;
}

void World::Fail(const std::string& what) {
  if (failure_) return;
  failure_ = absl::StrCat("at ", MsFromNs(now_), " ms: ", what);
  Trace("FAILED: ", what);
}

void World::Print(const std::string& line) const {
  std::printf("%12.3f ms  %s\n", MsFromNs(now_), line.c_str());
}

}  // namespace reprise::sim
