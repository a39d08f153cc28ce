#include "worker/engine/swap_tier.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/clock.h"
#include "common/crc32c.h"
#include "common/log.h"

namespace reprise::worker {
namespace {

// Binds a layer's checksum to its place and to the order that made the copy.
uint32_t Seed(const SwapItem& item, uint32_t layer) {
  const uint64_t place[2] = {item.ticket, layer};
  return Crc32c(place, sizeof place);
}

Status DiskError(const char* what, ssize_t did, size_t bytes) {
  if (did >= 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, " of the swap file: ", did, " of ", bytes, " bytes"));
  }
  const std::string text = absl::StrCat(what, " of the swap file: ", std::strerror(errno));
  const bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
  return full ? absl::ResourceExhaustedError(text) : absl::UnavailableError(text);
}

}  // namespace

int32_t SwapTier::Slots(int64_t bytes, const kv::KvFormat& format) {
  return static_cast<int32_t>(
      std::min<int64_t>(bytes / static_cast<int64_t>(format.block_bytes()), INT32_MAX / 2));
}

SwapTier::SwapTier(const SwapOptions& options, Pool pool, std::function<void(Event)> post)
    : pool_(std::move(pool)),
      page_bytes_(pool_.format.block_bytes()),
      host_slots_(Slots(options.host_bytes, pool_.format)),
      post_(std::move(post)),
      slots_(static_cast<size_t>(host_slots_ + Slots(options.disk_bytes, pool_.format))),
      link_(options.throttle_bytes_per_s) {}

StatusOr<std::unique_ptr<SwapTier>> SwapTier::Create(const SwapOptions& options, Pool pool,
                                                     std::function<void(Event)> post) {
  std::unique_ptr<SwapTier> tier(new SwapTier(options, std::move(pool), std::move(post)));
  if (tier->host_slots_ > 0) {
    ASSIGN_OR_RETURN(tier->host_,
                     MappedMemory::Map(static_cast<size_t>(tier->host_slots_) * tier->page_bytes_,
                                       "swapped pages"));
  }
  if (tier->slots_.size() > static_cast<size_t>(tier->host_slots_)) {
    RETURN_IF_ERROR(tier->Open(options.disk_dir));
  }
  tier->thread_.Start("worker_swap", [t = tier.get()](const Order& order) {
    std::visit([t](const auto& typed) { t->Do(typed); }, order);
  });
  return tier;
}

SwapTier::~SwapTier() {
  Stop();
  if (disk_ >= 0) close(disk_);
}

Status SwapTier::Open(const std::string& dir) {
  if (dir.empty()) {
    return absl::InvalidArgumentError("swapping to disk needs a folder for its file");
  }
  std::string path = dir + "/reprise-swap-XXXXXX";
  disk_ = mkostemp(path.data(), O_CLOEXEC);
  if (disk_ < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot make a swap file in ", dir, ": ", std::strerror(errno)));
  }
  unlink(path.c_str());
  return absl::OkStatus();
}

void SwapTier::Cross() {
  if (link_.active()) thread_.SleepUntil(link_.Cross(RealClock().NowNs(), page_bytes_));
}

void SwapTier::Do(const SwapOut& order) {
  const TimeNs start = RealClock().NowNs();
  SwapDone done{order.swap, absl::OkStatus(), false};
  for (const SwapItem& item : order.items) {
    const Status status = Write(item);
    Cross();
    if (status.ok() || !done.status.ok()) continue;
    done.status = status;
    done.disk = OnDisk(item.slot);
    LogWarning("swap_out_failed", {{"slot", item.slot}, {"status", status}});
  }
  done.took_ns = std::max<TimeNs>(1, RealClock().NowNs() - start);
  post_(std::move(done));
}

void SwapTier::Do(const SwapIn& order) {
  const TimeNs start = RealClock().NowNs();
  FetchDone done{order.fetch, {}};
  for (const SwapItem& item : order.items) {
    done.items.push_back(Read(item));
    Cross();
    if (!done.items.back().ok()) {
      LogWarning("swap_in_failed", {{"slot", item.slot}, {"status", done.items.back()}});
    }
  }
  done.took_ns = std::max<TimeNs>(1, RealClock().NowNs() - start);
  post_(std::move(done));
}

Status SwapTier::Write(const SwapItem& item) {
  Slot& slot = slots_[static_cast<size_t>(item.slot)];
  slot.ticket = 0;
  slot.checksums.resize(pool_.format.layers);
  const size_t bytes = pool_.format.segment_bytes();
  for (uint32_t layer = 0; layer < pool_.format.layers; ++layer) {
    const uint8_t* const from = Page(item.page) + layer * bytes;
    const uint32_t seed = Seed(item, layer);
    slot.checksums[layer] =
        OnDisk(item.slot) ? Crc32c(from, bytes, seed)
                          : Crc32cCopy(HostSlot(item.slot) + layer * bytes, from, bytes, seed);
  }
  if (OnDisk(item.slot)) {
    const ssize_t wrote = pwrite(disk_, Page(item.page), page_bytes_, DiskOffset(item.slot));
    if (wrote != static_cast<ssize_t>(page_bytes_)) return DiskError("write", wrote, page_bytes_);
  }
  slot.ticket = item.ticket;
  return absl::OkStatus();
}

Status SwapTier::Read(const SwapItem& item) {
  const Slot& slot = slots_[static_cast<size_t>(item.slot)];
  if (slot.ticket != item.ticket || item.ticket == 0) {
    return absl::DataLossError(
        absl::StrCat("slot ", item.slot, " holds ticket ", slot.ticket, ", not ", item.ticket));
  }
  const size_t bytes = pool_.format.segment_bytes();
  if (OnDisk(item.slot)) {
    const ssize_t read = pread(disk_, Page(item.page), page_bytes_, DiskOffset(item.slot));
    if (read != static_cast<ssize_t>(page_bytes_)) return DiskError("read", read, page_bytes_);
  }
  for (uint32_t layer = 0; layer < pool_.format.layers; ++layer) {
    uint8_t* const to = Page(item.page) + layer * bytes;
    const uint32_t seed = Seed(item, layer);
    const uint32_t found = OnDisk(item.slot)
                               ? Crc32c(to, bytes, seed)
                               : Crc32cCopy(to, HostSlot(item.slot) + layer * bytes, bytes, seed);
    if (found != slot.checksums[layer]) {
      return absl::DataLossError(
          absl::StrCat("layer ", layer, " of slot ", item.slot, " does not match its checksum"));
    }
  }
  return absl::OkStatus();
}

void SwapTier::Damage(SlotId slot) {
  if (!OnDisk(slot)) {
    HostSlot(slot)[page_bytes_ / 2] ^= 1;
    return;
  }
  uint8_t byte = 0;
  const off_t at = DiskOffset(slot) + static_cast<off_t>(page_bytes_ / 2);
  if (pread(disk_, &byte, 1, at) != 1) return;
  byte ^= 1;
  static_cast<void>(pwrite(disk_, &byte, 1, at));
}

}  // namespace reprise::worker
