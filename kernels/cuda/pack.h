// The device's end of the KV store's transfers: segments and rows of the pool into contiguous bytes
// with the CRC-32C that the store expects (kvstore/block/checksum.h, kvstore/stream/tail_pack.h),
// and segments back, verified before a byte of the pool is touched. Device pointers, owned by the
// caller. Threads: any; work is queued on the stream.
//
// Any sizes and addresses are right; fast are multiples of 16.
#ifndef REPRISE_KERNELS_CUDA_PACK_H_
#define REPRISE_KERNELS_CUDA_PACK_H_

#include <cstdint>

#include "kernels/cuda/device/runtime.h"
#include "kernels/cuda/kv_pool.h"

namespace reprise::cuda {

struct SegmentCopy {
  const void* from = nullptr;
  void* to = nullptr;
  uint32_t seed = 0;      // of the checksum: SegmentSeed
  uint32_t checksum = 0;  // that the bytes must have; packing ignores it
};

// Segments of one size, distinct places.
struct SegmentsArgs {
  const SegmentCopy* segments = nullptr;  // [count]
  int64_t count = 0;
  int64_t bytes = 0;              // of each
  uint32_t* checksums = nullptr;  // [count], of what was read
  uint32_t* ok = nullptr;         // [count], by UnpackSegments: 1, or 0: nothing was written
};
int PackSegments(const SegmentsArgs& args, Stream stream);
int UnpackSegments(const SegmentsArgs& args, Stream stream);

// Rows first_row .. first_row + rows of a page in all layers, packed as [layer][row][part][head].
struct TailCopy {
  int32_t page = 0;
  int32_t first_row = 0;
  int32_t rows = 0;   // first_row + rows: at most kPageRows
  uint32_t seed = 0;  // TailSeed
  void* to = nullptr;
};
struct TailsArgs {
  const TailCopy* tails = nullptr;  // [count]
  int64_t count = 0;
  int rows_max = 0;  // of any
  KvPool pool;       // layer 0's
  int layers = 0;
  int64_t layer_stride_bytes = 0;  // from one layer's page to the next one's
  uint32_t* checksums = nullptr;   // [count]
};
int PackTails(const TailsArgs& args, Stream stream);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_PACK_H_
