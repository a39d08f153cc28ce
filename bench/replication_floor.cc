#include "bench/replication_floor.h"

#include <sys/uio.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/percentile.h"

namespace reprise::bench {
namespace {

Status CarryAll(std::span<const uint8_t> from, uint8_t* to) {
  const iovec local{to, from.size()};
  const iovec remote{const_cast<uint8_t*>(from.data()), from.size()};
  const ssize_t bytes = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
  if (bytes == static_cast<ssize_t>(from.size())) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("process_vm_readv copied ", bytes, " bytes"));
}

}  // namespace

ReplicationFloor::ReplicationFloor(const kv::KvFormat& format, uint32_t sequences)
    : format_(format),
      sequences_(sequences),
      row_bytes_(kv::PackedBytes(format, 1)),
      unpacker_(format) {}

StatusOr<ReplicationFloor> ReplicationFloor::Create(const kv::KvFormat& format,
                                                    uint32_t sequences) {
  ReplicationFloor floor(format, sequences);
  const size_t bytes = sequences * format.block_bytes();
  ASSIGN_OR_RETURN(floor.from_, MappedMemory::Map(bytes, "the floor's pages"));
  ASSIGN_OR_RETURN(floor.to_, MappedMemory::Map(bytes, "the floor's slots"));
  kv::StagingPool buffers(0);
  ASSIGN_OR_RETURN(floor.packed_, buffers.Take(sequences * floor.row_bytes_));
  ASSIGN_OR_RETURN(floor.carried_, buffers.Take(sequences * floor.row_bytes_));
  std::memset(floor.from_.data(), 3, bytes);
  std::memset(floor.to_.data(), 4, bytes);
  return floor;
}

std::span<uint8_t> ReplicationFloor::Page(const MappedMemory& pool, uint32_t sequence) const {
  return {pool.data() + sequence * format_.block_bytes(), format_.block_bytes()};
}

Status ReplicationFloor::Pass() {
  const uint32_t row = std::exchange(row_, (row_ + 1) % format_.block_tokens);
  const auto bytes_of = [&](const MappedMemory& rows, uint32_t sequence) {
    return std::span(rows.data() + sequence * row_bytes_, row_bytes_);
  };
  std::vector<uint32_t> sums(sequences_);
  std::vector<uint32_t> parts;
  const TimeNs start = ThreadCpuClock().NowNs();
  for (uint32_t i = 0; i < sequences_; ++i) {
    ASSIGN_OR_RETURN(sums[i],
                     kv::PackTail(format_, Page(from_, i), {row, 1}, 0, bytes_of(packed_, i)));
  }
  const TimeNs is_packed = ThreadCpuClock().NowNs();
  RETURN_IF_ERROR(CarryAll({packed_.data(), sequences_ * row_bytes_}, carried_.data()));
  const TimeNs is_carried = ThreadCpuClock().NowNs();
  for (uint32_t i = 0; i < sequences_; ++i) {
    const kv::TailRows rows{
        .packed = bytes_of(carried_, i), .checksum = sums[i], .seed = 0, .rows = 1, .skip = 0};
    RETURN_IF_ERROR(unpacker_.Unpack(rows, row, Page(to_, i), &parts));
  }
  const auto us = [&](TimeNs ns) { return static_cast<double>(ns) / kMicrosecond / sequences_; };
  pack_us_.push_back(us(is_packed - start));
  carry_us_.push_back(us(is_carried - is_packed));
  unpack_us_.push_back(us(ThreadCpuClock().NowNs() - is_carried));
  return absl::OkStatus();
}

Status ReplicationFloor::PassBlock() {
  for (uint32_t row = 0; row < format_.block_tokens; ++row) RETURN_IF_ERROR(Pass());
  return absl::OkStatus();
}

FloorCost ReplicationFloor::cost() const {
  return {Median(pack_us_), Median(carry_us_), Median(unpack_us_)};
}

}  // namespace reprise::bench
