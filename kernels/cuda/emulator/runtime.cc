#include "kernels/cuda/device/runtime.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
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
using SharedGraph = std::shared_ptr<const EmulatedGraph>;

std::atomic<int> sticky{0};
std::atomic<int64_t> allocated{0};
std::atomic<bool> late{false};

// Used by one thread at a time.
class EmulatedStream {
 public:
  EmulatedStream() {
    const std::scoped_lock lock(all_mu);
    all.insert(this);
  }
  ~EmulatedStream() {
    Run(asked_);
    const std::scoped_lock lock(all_mu);
    all.erase(this);
  }
  EmulatedStream(const EmulatedStream&) = delete;
  EmulatedStream& operator=(const EmulatedStream&) = delete;

  int Add(Work work) {
    user_ = std::this_thread::get_id();
    ++asked_;
    queued_.push_back(std::move(work));
    return late ? 0 : Run(asked_);
  }
  // Until so many of what was asked for have happened; on a device that has failed nothing does.
  int Run(uint64_t asked) {
    while (done_ < asked) {
      const Work work = std::move(queued_.front());
      queued_.pop_front();
      ++done_;
      if (sticky == 0) work();
    }
    return sticky.load();
  }
  uint64_t asked() const { return asked_; }

  // All of this thread's.
  static void RunAll() {
    std::vector<EmulatedStream*> own;
    {
      const std::scoped_lock lock(all_mu);
      for (EmulatedStream* stream : all) {
        if (stream->user_ == std::this_thread::get_id()) own.push_back(stream);
      }
    }
    for (EmulatedStream* stream : own) stream->Run(stream->asked_);
  }

  bool capturing = false;
  EmulatedGraph captured;

 private:
  inline static std::mutex all_mu;
  inline static std::set<EmulatedStream*> all;

  std::atomic<std::thread::id> user_;
  std::deque<Work> queued_;
  uint64_t asked_ = 0;
  uint64_t done_ = 0;
};

struct EmulatedEvent {
  std::chrono::steady_clock::time_point at;
  // What happened before it.
  EmulatedStream* stream = nullptr;
  uint64_t asked = 0;
};

EmulatedStream& Of(Stream stream) {
  static thread_local EmulatedStream default_stream;
  return stream == nullptr ? default_stream : *static_cast<EmulatedStream*>(stream);
}

int Queue(Stream stream, Work work) {
  if (const int e = sticky.load(); e != 0) return e;
  EmulatedStream& s = Of(stream);
  if (!s.capturing) return s.Add(std::move(work));
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

// As on a card, once nothing is under way.
int GiveBack(void* memory) {
  if (memory == nullptr) return 0;
  EmulatedStream::RunAll();
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

void SetLate(bool value) {
  EmulatedStream::RunAll();
  late = value;
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
int Synchronize(Stream stream) {
  EmulatedStream& s = Of(stream);
  return s.Run(s.asked());
}

int MakeEvent(Event* event, bool) {
  *event = new EmulatedEvent;
  return sticky.load();
}
int DestroyEvent(Event event) {
  delete static_cast<EmulatedEvent*>(event);
  return sticky.load();
}
int Record(Event event, Stream stream) {
  auto* const recorded = static_cast<EmulatedEvent*>(event);
  const int e = Queue(stream, [recorded] {
    recorded->at = std::chrono::steady_clock::now();
    return 0;
  });
  EmulatedStream& s = Of(stream);
  if (!s.capturing) {
    recorded->stream = &s;
    recorded->asked = s.asked();
  }
  return e;
}
int WaitFor(Stream stream, Event event) {
  const EmulatedEvent recorded = *static_cast<EmulatedEvent*>(event);
  if (recorded.stream == nullptr) return sticky.load();
  return Queue(stream, [recorded] { return recorded.stream->Run(recorded.asked); });
}
int AwaitEvent(Event event) {
  const auto* const recorded = static_cast<EmulatedEvent*>(event);
  return recorded->stream == nullptr ? sticky.load() : recorded->stream->Run(recorded->asked);
}
int Elapsed(float* ms, Event from, Event to) {
  *ms = std::chrono::duration<float, std::milli>(static_cast<EmulatedEvent*>(to)->at -
                                                 static_cast<EmulatedEvent*>(from)->at)
            .count();
  return sticky.load();
}

int BeginCapture(Stream stream) {
  if (Of(stream).capturing) return kErrorInvalidValue;
  Of(stream).capturing = true;
  Of(stream).captured = {};
  return sticky.load();
}
int EndCapture(Stream stream, Graph* graph) {
  if (!Of(stream).capturing) return kErrorInvalidValue;
  *graph = new SharedGraph(std::make_shared<EmulatedGraph>(std::move(Of(stream).captured)));
  Of(stream).capturing = false;
  return sticky.load();
}
int LaunchGraph(Graph graph, Stream stream) {
  return Queue(stream, [launched = *static_cast<SharedGraph*>(graph)] {
    for (const Work& work : launched->work) {
      if (const int e = work(); e != 0) return e;
    }
    return sticky.load();
  });
}
int DestroyGraph(Graph graph) {
  delete static_cast<SharedGraph*>(graph);
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
