// Every limit of the project: name, unit, default. The error a caller sees names the limit and the
// value found; docs/limits.md says which metric counts each. Constants; any thread.
#ifndef REPRISE_COMMON_LIMITS_H_
#define REPRISE_COMMON_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace reprise::limits {

// Requests (INVALID_ARGUMENT when over).
inline constexpr size_t kRequestIdBytesMax = 64;
inline constexpr size_t kTextBytesMax = size_t{4} << 20;
inline constexpr int32_t kPromptTokensMax = 1 << 20;
inline constexpr int32_t kMaxTokensDefault = 128;
inline constexpr int32_t kBranchesMax = 8;
inline constexpr int32_t kTopLogprobsMax = 20;
inline constexpr int32_t kLogitBiasMax = 1024;
inline constexpr int32_t kStopIdsMax = 64;
inline constexpr int64_t kDeadlineMsMax = 3'600'000;
inline constexpr int64_t kDeadlineMsDefault = 600'000;

// Queues (RESOURCE_EXHAUSTED with a retry hint when over).
inline constexpr int32_t kGatewayStreamsMax = 4096;
inline constexpr int32_t kWorkerWaitingMax = 4096;
inline constexpr int32_t kWorkerRunningMax = 2048;
inline constexpr size_t kStreamBufferBytesMax = size_t{256} << 10;  // unread output of one client

// Messages.
inline constexpr int kGrpcMessageBytesMax = 16 << 20;
inline constexpr size_t kReportEventsMax = 4096;        // KV events in one report
inline constexpr size_t kSnapshotChunkBlocks = 16'384;  // block ids in one snapshot chunk
inline constexpr size_t kEventWindow = 65'536;          // KV events a node can send again

// Model files.
inline constexpr size_t kConfigBytesMax = size_t{1} << 20;
inline constexpr size_t kSafetensorsHeaderBytesMax = size_t{100} << 20;
inline constexpr size_t kTensorsMax = 100'000;
inline constexpr size_t kModelShardsMax = 1'000;
inline constexpr size_t kTokenizerBytesMax = size_t{64} << 20;

// KV stream.
inline constexpr size_t kStreamMessageBytesMax = size_t{64} << 20;
inline constexpr size_t kFetchItemsMax = 4096;
inline constexpr size_t kPeersMax = 1024;
inline constexpr int kBlockTokensMax = 1024;
inline constexpr int kLayersMax = 1024;

}  // namespace reprise::limits

#endif  // REPRISE_COMMON_LIMITS_H_
