// Device memory, streams, events and graphs: the part of CUDA's runtime that Reprise uses, as plain
// functions so that code without nvcc can call it, on a card or in the emulator (one of the two is
// linked). Every function returns 0 or a cudaError_t; an error of a kernel is sticky: the calls
// after it return it, too, and nothing on the device is of use any more.
//
// Threads: any; a stream and what is captured from it belong to one thread at a time.
#ifndef REPRISE_KERNELS_CUDA_DEVICE_RUNTIME_H_
#define REPRISE_KERNELS_CUDA_DEVICE_RUNTIME_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace reprise::cuda {

using Stream = void*;  // null: the default one
using Event = void*;
using Graph = void*;

inline constexpr int kErrorInvalidValue = 1;
inline constexpr int kErrorMemory = 2;
inline constexpr int kErrorNoDriver = 35;
inline constexpr int kErrorNoDevice = 100;
inline constexpr int kErrorLaunchFailure = 719;

struct DeviceInfo {
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int processors = 0;        // SMs
  int64_t memory_bytes = 0;  // all
  int64_t free_bytes = 0;
  int64_t shared_bytes_max = 0;  // of a block
  bool emulated = false;
};

// Whether there is a device for this process: kErrorNoDriver, kErrorNoDevice or what is wrong else.
int FindDevice(DeviceInfo* info);
// In words, with what is known of the cause.
std::string ErrorText(int error);

int Allocate(void** memory, size_t bytes);  // aligned to 256
int Free(void* memory);
// Host memory that copies need not stage.
int AllocatePinned(void** memory, size_t bytes);
int FreePinned(void* memory);

// Queued; the host side must stay as it is until the stream has done it.
int CopyIn(void* device, const void* host, size_t bytes, Stream stream);
int CopyOut(void* host, const void* device, size_t bytes, Stream stream);
int CopyWithin(void* to, const void* from, size_t bytes, Stream stream);
int Fill(void* device, uint8_t value, size_t bytes, Stream stream);

// `urgent` streams go before the others.
int MakeStream(Stream* stream, bool urgent);
int DestroyStream(Stream stream);
int Synchronize(Stream stream);

int MakeEvent(Event* event, bool timed);
int DestroyEvent(Event event);
int Record(Event event, Stream stream);
int WaitFor(Stream stream, Event event);  // on the device
int AwaitEvent(Event event);              // on the host
// Milliseconds between two timed events that are over.
int Elapsed(float* ms, Event from, Event to);

// What is queued between these two becomes a graph instead of being run.
int BeginCapture(Stream stream);
int EndCapture(Stream stream, Graph* graph);
int LaunchGraph(Graph graph, Stream stream);
int DestroyGraph(Graph graph);

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DEVICE_RUNTIME_H_
