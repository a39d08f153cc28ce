// Whole segments on their way from the device's pool to the host: pages that a step writes from
// their first row to their last, layer by layer, each with its checksum's part made while it is
// copied (kernels/cuda/pack.h). So no processor of the host sums them again, however many peers
// fetch them, and the sum covers the bus and the host's memory, too. Owned by the DeviceModel; one
// thread.
#ifndef REPRISE_WORKER_DEVICE_SEGMENT_PACKER_H_
#define REPRISE_WORKER_DEVICE_SEGMENT_PACKER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"
#include "kernels/cuda/pack.h"
#include "worker/device/step_memory.h"
#include "worker/device/step_upload.h"

namespace reprise::worker {

class SegmentPacker {
 public:
  SegmentPacker(int64_t layers, int64_t segment_bytes)
      : layers_(layers), segment_bytes_(segment_bytes) {}

  // For a step: what the host has of the last one is lost. `pool` is [page][layer] segments.
  Status Prepare(uint8_t* pool, std::span<const int32_t> pages, cuda::Stream stream);
  // Queues the layer's segments, once they are written; layers in order, all on one stream.
  Status Send(int64_t layer, cuda::Stream stream);

  // On the host when the stream is done with the layer; `i` is a place in pages().
  const std::vector<int32_t>& pages() const { return pages_; }
  const uint8_t* segment(int64_t layer, size_t i) const;
  std::span<const uint8_t> all(int64_t layer) const {
    return {segment(layer, 0), pages_.size() * static_cast<size_t>(segment_bytes_)};
  }
  // The segment's part of a checksum (common/crc32c.h).
  uint32_t part(int64_t layer, size_t i) const;

 private:
  const int64_t layers_;
  const int64_t segment_bytes_;
  StepMoves moves_;  // of what no captured step is about
  std::vector<int32_t> pages_;
  StepUpload upload_{&moves_};
  Uploaded<cuda::SegmentCopy> copies_;   // [layers, pages]
  DeviceScratch packed_{&moves_};        // [pages] segments of one layer
  DeviceScratch sums_{&moves_};          // [pages]
  PinnedMemory host_segments_{&moves_};  // [layers, pages]
  PinnedMemory host_sums_{&moves_};      // [layers, pages]
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_SEGMENT_PACKER_H_
