// The disk tier's file: fixed slots of whole blocks behind a table of records, made so that a crash
// at any moment leaves every record either valid with its bytes or invalid. Owned by the store
// server; Write, Read and Forget may run concurrently on different slots.
//
// Layout (little-endian): a header page of 4,096 bytes (magic "RPKVDSK1", version, block bytes,
// layers, slots, format digest, CRC32C); `slots` records of record_bytes (state, id, first
// position, `layers` checksums, CRC32C), padded to a page; then the slots, each padded to a page.
//
// Invariants:
// 1. A slot's record is made invalid before its bytes change and valid only after they are synced.
// 2. A record is believed only when its own CRC32C matches; bytes only when the segments' do.
#ifndef REPRISE_KVSTORE_TIER_DISK_FILE_H_
#define REPRISE_KVSTORE_TIER_DISK_FILE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/sha256.h"
#include "common/status.h"
#include "kvstore/block/block_id.h"
#include "kvstore/node/store_core.h"

namespace reprise::kv {

struct DiskFileOptions {
  std::string path;
  Digest256 format_digest{};
  uint64_t block_bytes = 0;
  uint32_t layers = 0;
  Slot slots = 0;
};

class DiskFile {
 public:
  // Opens or creates the file. One of another format, geometry or with a damaged header is emptied
  // (a cache may be lost, never believed) and *replaced says why. RESOURCE_EXHAUSTED when the disk
  // has no room for it, UNAVAILABLE when another process holds it.
  static StatusOr<std::unique_ptr<DiskFile>> Open(const DiskFileOptions& options,
                                                  std::string* replaced);
  ~DiskFile();
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;

  // The valid records found by Open, by slot.
  std::vector<std::pair<BlockRecord, Slot>> TakeRecords() { return std::move(records_); }

  // `data` is block_bytes. Durable when it returns.
  Status Write(const BlockRecord& record, Slot slot, const uint8_t* data);
  // DATA_LOSS when the record is not `id` or a segment's checksum fails; `data` is then
  // unspecified.
  Status Read(const BlockId& id, Slot slot, uint8_t* data);
  Status Forget(Slot slot);

 private:
  DiskFile(int fd, const DiskFileOptions& options);
  Status Initialize();
  Status WriteRecord(Slot slot, const BlockRecord* record);  // null: invalid
  StatusOr<BlockRecord> ReadRecord(Slot slot) const;
  void Scan();
  uint64_t record_offset(Slot slot) const;
  uint64_t data_offset(Slot slot) const;
  uint64_t file_bytes() const;

  const int fd_;
  const DiskFileOptions options_;
  const uint64_t record_bytes_;
  const uint64_t slot_bytes_;
  std::vector<std::pair<BlockRecord, Slot>> records_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_TIER_DISK_FILE_H_
