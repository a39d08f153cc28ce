#include "bench/dejavu_rows.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "common/random.h"

namespace reprise::bench {
namespace {

constexpr char kIdMark[4] = {'r', 'o', 'w', 's'};

struct Place {
  RowKey key;
  uint32_t row = 0;
};

std::optional<Place> PlaceOf(const kv::BlockId& id) {
  Place place;
  if (std::memcmp(id.bytes.data() + 12, kIdMark, sizeof kIdMark) != 0) return std::nullopt;
  std::memcpy(&place.key.space, id.bytes.data(), 4);
  std::memcpy(&place.key.sequence, id.bytes.data() + 4, 4);
  std::memcpy(&place.row, id.bytes.data() + 8, 4);
  return place;
}

// A linear congruential sequence seeded by the place.
class RowWords {
 public:
  RowWords(const RowKey& key, uint32_t row)
      : state_(SplitMix64(uint64_t{key.space} << 48 ^ uint64_t{key.sequence} << 24 ^ row).Next()) {}
  uint64_t Next() { return state_ = state_ * 6364136223846793005u + 1442695040888963407u; }

 private:
  uint64_t state_;
};

}  // namespace

kv::BlockId RowId(const RowKey& key, uint32_t row) {
  kv::BlockId id;
  std::memcpy(id.bytes.data(), &key.space, 4);
  std::memcpy(id.bytes.data() + 4, &key.sequence, 4);
  std::memcpy(id.bytes.data() + 8, &row, 4);
  std::memcpy(id.bytes.data() + 12, kIdMark, sizeof kIdMark);
  return id;
}

kv::KvFormat RowFormat(size_t row_bytes) {
  kv::KvFormat format;
  format.fields = {{.name = "row", .heads = 1, .elements = static_cast<uint32_t>(row_bytes)}};
  format.layers = 1;
  format.block_tokens = 1;
  format.codec = kv::ElementCodec::kOpaque8;
  return format;
}

void FillRow(const RowKey& key, uint32_t row, std::span<uint8_t> out) {
  RowWords words(key, row);
  for (size_t at = 0; at + 8 <= out.size(); at += 8) {
    const uint64_t word = words.Next();
    std::memcpy(out.data() + at, &word, sizeof word);
  }
}

bool RowIsRight(const RowKey& key, uint32_t row, std::span<const uint8_t> bytes) {
  RowWords words(key, row);
  uint64_t differing = 0;
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    differing |= word ^ words.Next();
  }
  return differing == 0;
}

std::shared_ptr<DejavuRows::Buffer> DejavuRows::Open(const RowKey& key) {
  MutexLock lock(mu_);
  std::shared_ptr<Buffer>& buffer = buffers_[key];
  // Shared: a transfer may outlive the sequence.
  if (buffer == nullptr) buffer = std::make_shared<Buffer>(rows_max_, row_bytes_);
  return buffer;
}

void DejavuRows::Hold(Buffer& buffer, uint32_t row, Buffer::State state) {
  buffer.state_[row] = state;
  while (buffer.prefix_ < buffer.state_.size() &&
         buffer.state_[buffer.prefix_] != Buffer::State::kAbsent) {
    ++buffer.prefix_;
  }
}

std::vector<uint32_t> DejavuRows::Absent(const RowKey& key, uint32_t first, uint32_t count) {
  const std::shared_ptr<Buffer> buffer = Open(key);
  std::vector<uint32_t> absent;
  MutexLock lock(mu_);
  for (uint32_t row = first; row < std::min(first + count, rows_max_); ++row) {
    if (buffer->state_[row] == Buffer::State::kAbsent) absent.push_back(row);
  }
  return absent;
}

std::vector<uint32_t> DejavuRows::Write(const RowKey& key, uint32_t first, uint32_t count) {
  const std::shared_ptr<Buffer> buffer = Open(key);
  std::vector<uint32_t> absent = Absent(key, first, count);
  for (const uint32_t row : absent) FillRow(key, row, buffer->row(row));
  MutexLock lock(mu_);
  for (const uint32_t row : absent) Hold(*buffer, row, Buffer::State::kOwn);
  return absent;
}

void DejavuRows::NotePulled(Buffer& buffer, uint32_t row) {
  MutexLock lock(mu_);
  Hold(buffer, row, Buffer::State::kPulled);
}

uint32_t DejavuRows::Prefix(const RowKey& key) {
  const std::shared_ptr<Buffer> buffer = Open(key);
  MutexLock lock(mu_);
  return buffer->prefix_;
}

DejavuRows::Dropped DejavuRows::Drop(uint32_t sequence) {
  std::map<RowKey, std::shared_ptr<Buffer>> gone;
  {
    MutexLock lock(mu_);
    for (auto it = buffers_.begin(); it != buffers_.end();) {
      if (it->first.sequence == sequence) {
        gone.insert(buffers_.extract(it++));
      } else {
        ++it;
      }
    }
  }
  Dropped dropped;
  for (const auto& [key, buffer] : gone) {
    std::vector<Buffer::State> states;
    {
      MutexLock lock(mu_);
      states = buffer->state_;
    }
    for (uint32_t row = 0; row < states.size(); ++row) {
      if (states[row] != Buffer::State::kPulled) continue;
      ++dropped.pulled;
      if (!RowIsRight(key, row, buffer->row(row))) ++dropped.wrong;
    }
  }
  return dropped;
}

kv::SegmentSource::Block DejavuRows::Find(const kv::BlockId& id) {
  const auto place = PlaceOf(id);
  if (!place.has_value() || place->row >= rows_max_) return {};
  const std::shared_ptr<Buffer> buffer = Open(place->key);
  MutexLock lock(mu_);
  const bool held = buffer->state_[place->row] != Buffer::State::kAbsent;
  return {.state = held ? State::kReady : State::kPending,
          .layers_ready = held ? 1u : 0u,
          .first_position = place->row,
          .data = buffer->row(place->row).data(),
          .checksums = {},
          .pin = kv::SegmentPin([buffer] {})};
}

}  // namespace reprise::bench
