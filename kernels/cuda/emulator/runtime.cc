#include "kernels/cuda/device/runtime.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "kernels/cuda/device/tensor_map.h"
#include "kernels/cuda/emulator/copy_engine.h"
#include "kernels/cuda/emulator/queue.h"

namespace reprise::cuda {
namespace {

using Work = std::function<int()>;

constexpr size_t kAlignment = 256;
// What the emulated device says it has.
constexpr int64_t kMemoryBytes = int64_t{1} << 30;

struct EmulatedGraph {
  std::vector<Work> work;
};

struct EmulatedStream {
  bool capturing = false;
  EmulatedGraph captured;
};

struct EmulatedEvent {
  std::chrono::steady_clock::time_point at;
};

std::atomic<int> sticky{0};
std::atomic<int64_t> allocated{0};

EmulatedStream& Of(Stream stream) {
  static EmulatedStream default_stream;
  return stream == nullptr ? default_stream : *static_cast<EmulatedStream*>(stream);
}

int Queue(Stream stream, Work work) {
  if (const int e = sticky.load(); e != 0) return e;
  EmulatedStream& s = Of(stream);
  if (!s.capturing) return work();
  s.captured.work.push_back(std::move(work));
  return 0;
}

// The block's size stands before it, for Free.
int Take(void** memory, size_t bytes) {
  if (const int e = sticky.load(); e != 0) return e;
  *memory = nullptr;
  const auto size = static_cast<int64_t>(bytes);
  if (allocated.fetch_add(size) + size > kMemoryBytes) {
    allocated -= size;
    return kErrorMemory;
  }
  void* p = nullptr;
  if (posix_memalign(&p, kAlignment, bytes + kAlignment) != 0) return kErrorMemory;
  std::memcpy(p, &size, sizeof size);
  *memory = static_cast<uint8_t*>(p) + kAlignment;
  std::memset(*memory, emulator::SharedMemory::kPoison, bytes);
  return 0;
}

int GiveBack(void* memory) {
  if (memory == nullptr) return 0;
  void* p = static_cast<uint8_t*>(memory) - kAlignment;
  int64_t size = 0;
  std::memcpy(&size, p, sizeof size);
  allocated -= size;
  free(p);
  return sticky.load();
}

}  // namespace

namespace emulator {

int Enqueue(void* stream, const GridShape& shape, std::function<void()> body) {
  return Queue(stream, [shape, body = std::move(body)] {
    if (sticky.load() == 0 && !RunGrid(shape, body).empty()) sticky = kErrorLaunchFailure;
    return sticky.load();
  });
}

void ResetDevice() {
  sticky = 0;
  TakeFailure();
}

void BreakDevice() { sticky = kErrorLaunchFailure; }

}  // namespace emulator

int FindDevice(DeviceInfo* info) {
  *info = {"emulated device",         9,   0, 4, kMemoryBytes, kMemoryBytes - allocated.load(),
           emulator::kSharedBytesMax, true};
  return sticky.load();
}

std::string ErrorText(int error) {
  switch (error) {
    case 0:
      return "no error";
    case kErrorInvalidValue:
      return "invalid argument";
    case kErrorMemory:
      return "out of memory";
    case kErrorLaunchFailure:
      return "a kernel failed on the emulated device";
    default:
      return "error " + std::to_string(error) + " of the emulated device";
  }
}

int Allocate(void** memory, size_t bytes) { return Take(memory, bytes); }
int Free(void* memory) { return GiveBack(memory); }
int AllocatePinned(void** memory, size_t bytes) { return Take(memory, bytes); }
int FreePinned(void* memory) { return GiveBack(memory); }

int CopyWithin(void* to, const void* from, size_t bytes, Stream stream) {
  return Queue(stream, [=] {
    if (bytes > 0) std::memmove(to, from, bytes);
    return 0;
  });
}
int CopyIn(void* device, const void* host, size_t bytes, Stream stream) {
  return CopyWithin(device, host, bytes, stream);
}
int CopyOut(void* host, const void* device, size_t bytes, Stream stream) {
  return CopyWithin(host, device, bytes, stream);
}
int Fill(void* device, uint8_t value, size_t bytes, Stream stream) {
  return Queue(stream, [=] {
    if (bytes > 0) std::memset(device, value, bytes);
    return 0;
  });
}

int MakeStream(Stream* stream, bool) {
  *stream = new EmulatedStream;
  return sticky.load();
}
int DestroyStream(Stream stream) {
  delete static_cast<EmulatedStream*>(stream);
  return sticky.load();
}
int Synchronize(Stream) { return sticky.load(); }

int MakeEvent(Event* event, bool) {
  *event = new EmulatedEvent;
  return sticky.load();
}
int DestroyEvent(Event event) {
  delete static_cast<EmulatedEvent*>(event);
  return sticky.load();
}
int Record(Event event, Stream stream) {
  return Queue(stream, [event] {
    static_cast<EmulatedEvent*>(event)->at = std::chrono::steady_clock::now();
    return 0;
  });
}
int WaitFor(Stream, Event) { return sticky.load(); }
int AwaitEvent(Event) { return sticky.load(); }
int Elapsed(float* ms, Event from, Event to) {
  *ms = std::chrono::duration<float, std::milli>(static_cast<EmulatedEvent*>(to)->at -
                                                 static_cast<EmulatedEvent*>(from)->at)
            .count();
  return sticky.load();
}

int BeginCapture(Stream stream) {
  if (Of(stream).capturing) return kErrorInvalidValue;
  Of(stream) = {.capturing = true, .captured = {}};
  return sticky.load();
}
int EndCapture(Stream stream, Graph* graph) {
  if (!Of(stream).capturing) return kErrorInvalidValue;
  *graph = new EmulatedGraph(std::move(Of(stream).captured));
  Of(stream) = {};
  return sticky.load();
}
int LaunchGraph(Graph graph, Stream) {
  for (const Work& work : static_cast<EmulatedGraph*>(graph)->work) {
    if (const int e = work(); e != 0) return e;
  }
  return sticky.load();
}
int DestroyGraph(Graph graph) {
  delete static_cast<EmulatedGraph*>(graph);
  return sticky.load();
}

int MakeTensorMap(const TensorSpec& spec, TensorMap* map) {
  emulator::Tensor t;
  t.base = spec.base;
  t.rank = static_cast<uint32_t>(spec.rank);
  t.element_bytes = 2;
  t.swizzle_bytes = spec.swizzle_bytes;
  for (int d = 0; d < kTensorRankMax; ++d) {
    t.dims[d] = spec.dims[d];
    t.stride_bytes[d] = d == 0 ? t.element_bytes : spec.stride_bytes[d];
    t.box[d] = spec.box[d];
  }
  if (!emulator::CheckTensor(t).empty()) return kErrorInvalidValue;
  std::memcpy(map->bytes, &t, sizeof t);
  return 0;
}

}  // namespace reprise::cuda
