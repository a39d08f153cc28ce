#include "bench/dejavu_replicas.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/dejavu_pulls.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::bench {
namespace {

constexpr size_t kUnacknowledgedBytesMax = size_t{8} << 20;
constexpr size_t kAppendBytesMax = size_t{1} << 20;

// A sequence's rows of one space are a sequence of their own to the stream.
std::string NameOf(const RowKey& key) { return absl::StrCat(key.space, "/", key.sequence); }

std::optional<RowKey> KeyOf(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  RowKey key;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &key.space) ||
      !absl::SimpleAtoi(parts[1], &key.sequence)) {
    return std::nullopt;
  }
  return key;
}

}  // namespace

void DejavuReplicas::Start(kv::KvStream* stream) {
  stream_ = stream;
  stream_->OnHeld([this](const NodeKey&, const std::vector<kv::HeldRows>& held) {
    for (const kv::HeldRows& rows : held) TakeHeld(rows);
  });
  stream_->OnReplicaLost([this](const NodeKey& peer, const Status&) { LosePeer(peer.name); });
  thread_ = Thread("replicas", [this] { Loop(); });
}

void DejavuReplicas::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.Join();
}

void DejavuReplicas::Replicate(const StageMessage& order) {
  const RowKey key{order.space, order.sequence};
  MutexLock lock(mu_);
  targets_[key] = {.order = order};
  due_.insert(key);
  changed_.NotifyAll();
}

void DejavuReplicas::Written(const RowKey& key) {
  MutexLock lock(mu_);
  if (!targets_.contains(key)) return;
  due_.insert(key);
  changed_.NotifyAll();
}

void DejavuReplicas::Forget(uint32_t sequence) {
  MutexLock lock(mu_);
  forgotten_.insert(sequence);
  std::erase_if(targets_, [&](const auto& t) { return t.first.sequence == sequence; });
  std::erase_if(due_, [&](const RowKey& key) { return key.sequence == sequence; });
}

std::pair<uint32_t, uint32_t> DejavuReplicas::NextLocked(const Target& target,
                                                         uint32_t prefix) const {
  if (!target.answered) return {0, target.sent == 0 && prefix > 0 ? 1 : 0};
  size_t unacknowledged = 0;
  for (const auto& [other, at] : targets_) {
    if (at.order.peer.slot == target.order.peer.slot) unacknowledged += at.sent - at.held;
  }
  const size_t room = kUnacknowledgedBytesMax / row_bytes_;
  const size_t most = std::min(room - std::min(room, unacknowledged),
                               std::max<size_t>(1, kAppendBytesMax / row_bytes_));
  const auto end = static_cast<uint32_t>(std::min<size_t>(prefix, target.sent + most));
  return {target.sent, std::max(end, target.sent)};
}

void DejavuReplicas::Loop() {
  for (;;) {
    RowKey key;
    {
      MutexLock lock(mu_);
      while (due_.empty() && !stopping_) changed_.Wait(mu_);
      if (stopping_) return;
      key = *due_.begin();
    }
    const uint32_t prefix = rows_->Prefix(key);
    StagePeer peer;
    std::pair<uint32_t, uint32_t> range;
    {
      MutexLock lock(mu_);
      const auto target = targets_.find(key);
      if (target == targets_.end()) {
        due_.erase(key);
        continue;
      }
      range = NextLocked(target->second, prefix);
      // What waits for room goes on with the next answer.
      if (range.first == range.second) {
        due_.erase(key);
        continue;
      }
      target->second.sent = range.second;
      peer = target->second.order.peer;
    }
    const Status appended = Append(key, peer, range.first, range.second);
    if (!appended.ok()) LosePeer(absl::StrCat("stage-", peer.slot));
  }
}

Status DejavuReplicas::Append(const RowKey& key, const StagePeer& peer, uint32_t first,
                              uint32_t end) {
  const kv::KvFormat format = RowFormat(row_bytes_);
  const std::shared_ptr<DejavuRows::Buffer> buffer = rows_->Open(key);
  const auto packed = std::make_shared<kv::PackedRows>(kv::PackedBytes(format, end - first));
  kv::TailAppend append;
  append.rows = packed;
  for (uint32_t row = first; row < end; ++row) {
    kv::TailEntry& entry = append.entries.emplace_back();
    entry.request = {NameOf(key), {1, 1}};
    if (row > 0) entry.parent = RowId(key, row - 1);
    entry.first_position = row;
    entry.tokens = {static_cast<int32_t>(row)};
    ASSIGN_OR_RETURN(
        entry.checksum,
        kv::PackTail(format, buffer->row(row), {0, 1}, kv::TailSeed(entry),
                     packed->writable().subspan((row - first) * row_bytes_, row_bytes_)));
  }
  stream_->Append(AddressOf(peer), std::move(append));
  return absl::OkStatus();
}

// A refusal is made good with the next rows, from where the neighbour is.
void DejavuReplicas::TakeHeld(const kv::HeldRows& held) {
  const std::optional<RowKey> key = KeyOf(held.request.id);
  if (!key.has_value()) return;
  MutexLock lock(mu_);
  const auto found = targets_.find(*key);
  if (found == targets_.end()) return;
  Target& target = found->second;
  if (absl::IsNotFound(held.status)) {
    targets_.erase(found);
    return;
  }
  if (held.rows >= 0) target.held = std::max(target.held, static_cast<uint32_t>(held.rows));
  if (held.status.ok()) {
    target.answered = true;
    target.sent = std::max(target.sent, target.held);
  } else {
    target.sent = target.held;
  }
  if (held.rows < 0) return;
  for (const auto& [other, at] : targets_) {
    if (at.order.peer.slot == target.order.peer.slot) due_.insert(other);
  }
  changed_.NotifyAll();
}

void DejavuReplicas::LosePeer(const std::string& name) {
  std::vector<StageMessage> orders;
  {
    MutexLock lock(mu_);
    std::erase_if(targets_, [&](const auto& target) {
      const bool lost = AddressOf(target.second.order.peer).key.name == name;
      if (lost) orders.push_back(target.second.order);
      return lost;
    });
  }
  for (const StageMessage& order : orders) lost_(order);
}

std::vector<kv::HeldRows> DejavuReplicas::OnAppend(const NodeKey&,
                                                   std::span<const kv::TailEntry> entries,
                                                   std::span<const uint8_t> rows) {
  const kv::TailUnpacker unpacker(RowFormat(row_bytes_));
  std::vector<kv::HeldRows> answers;
  for (size_t i = 0; i < entries.size(); ++i) {
    const kv::TailEntry& entry = entries[i];
    const auto answer = [&](int64_t held, Status status) {
      answers.push_back({entry.request, entry.branch, held, std::move(status)});
    };
    const std::optional<RowKey> key = KeyOf(entry.request.id);
    bool known = key.has_value();
    {
      MutexLock lock(mu_);
      known = known && !forgotten_.contains(key->sequence);
    }
    if (!known || entry.first_position >= rows_->rows_max()) {
      answer(0, absl::NotFoundError("the sequence is over"));
      continue;
    }
    const uint32_t prefix = rows_->Prefix(*key);
    const auto row = static_cast<uint32_t>(entry.first_position);
    if (row > prefix) {
      answer(prefix, absl::OutOfRangeError("rows before these are missing"));
      continue;
    }
    if (row == prefix) {
      const std::shared_ptr<DejavuRows::Buffer> buffer = rows_->Open(*key);
      std::vector<uint32_t> parts;
      const Status taken = unpacker.Unpack({.packed = rows.subspan(i * row_bytes_, row_bytes_),
                                            .checksum = entry.checksum,
                                            .seed = kv::TailSeed(entry),
                                            .rows = 1,
                                            .skip = 0},
                                           0, buffer->row(row), &parts);
      if (!taken.ok()) {
        answer(prefix, taken);
        continue;
      }
      rows_->NotePulled(*buffer, row);
    }
    answer(rows_->Prefix(*key), absl::OkStatus());
  }
  return answers;
}

}  // namespace reprise::bench
