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
inline constexpr float kTemperatureMax = 100;
inline constexpr float kPenaltyMax = 100;  // of the absolute value
inline constexpr float kLogitBiasAbsMax = 100;
inline constexpr int64_t kDeadlineMsMax = 3'600'000;
inline constexpr int64_t kDeadlineMsDefault = 600'000;

// Queues (RESOURCE_EXHAUSTED with a retry hint when over).
inline constexpr int32_t kGatewayStreamsMax = 4096;
inline constexpr int32_t kWorkerWaitingMax = 4096;
inline constexpr int32_t kWorkerRunningMax = 2048;
inline constexpr size_t kWorkerMailboxMax = 16'384;  // events that wait while a layer runs
inline constexpr size_t kWorkerStreamBufferBytesMax = size_t{8} << 20;  // unread by one gateway
inline constexpr size_t kStreamBufferBytesMax = size_t{256} << 10;  // unread output of one client

// Messages.
inline constexpr int kGrpcMessageBytesMax = 16 << 20;
// Unread, of one call. gRPC would measure what it needs by pings, one for nearly every message:
// half of what an idle cluster's processors did.
inline constexpr int kGrpcWindowBytes = 1 << 20;
inline constexpr size_t kReportEventsMax = 4096;        // KV events in one report
inline constexpr size_t kSnapshotChunkBlocks = 16'384;  // block ids in one snapshot chunk
inline constexpr size_t kEventWindow = 65'536;          // KV events a node can send again

// Coordinator.
inline constexpr size_t kNodesMax = 1024;
inline constexpr size_t kNodeNameBytesMax = 128;
inline constexpr size_t kAddressBytesMax = 256;
inline constexpr size_t kFormatTextBytesMax = size_t{64} << 10;
inline constexpr size_t kIncarnationsRemembered = 16;              // per node name, to refuse them
inline constexpr size_t kIndexBlocksPerNodeMax = size_t{4} << 20;  // more are not indexed
inline constexpr size_t kIndexEntriesMax = size_t{32} << 20;       // (block, node) pairs
inline constexpr size_t kRequestsTracked = 65'536;          // the least recently seen are forgotten
inline constexpr size_t kReportRequestsMax = 8192;          // requests named in one report
inline constexpr size_t kPlaceBlocksMax = size_t{1} << 18;  // block ids in one placement query
inline constexpr size_t kPlaceAvoidMax = 64;
inline constexpr size_t kPlaceSourcesMax = 16;  // prefix ranges in one placement
inline constexpr int32_t kReplicaStoresMax = 8;
inline constexpr size_t kPlaceReplicasMax = 16;     // stores named in one placement query
inline constexpr uint32_t kCrashesBeforeAlone = 2;  // then a request runs alone
inline constexpr uint32_t kCrashesMax = 3;          // then it ends (INTERNAL)
inline constexpr uint64_t kLeaderEpochMax =
    (uint64_t{1} << 32) - 2;                   // owner epochs begin at it << 32
inline constexpr size_t kCoordinatorsMax = 8;  // of one group
inline constexpr int64_t kResumeWindowMsDefault = 10'000;
inline constexpr int64_t kResumeWindowMsMax = 600'000;
inline constexpr size_t kResumeHandleBytes = 16;
// What one attempt to connect has, between processes of a cluster: a busy host is no dead one.
inline constexpr int64_t kConnectMs = 1'000;
// A worker's word on every stream that has requests, and how long a gateway goes without it.
inline constexpr int64_t kServeHeartbeatMs = 200;
inline constexpr int64_t kServeSilenceMs = 1'000;
inline constexpr int64_t kServeStuckMs = 1'500;  // busy without progress
inline constexpr size_t kVerdictsMax = 1'024;
inline constexpr size_t kKeptRequestsMax = 4'096;  // ended, their tokens kept for the resume window
inline constexpr uint64_t kMicrobatchesMax = 64;   // that take turns in one worker
inline constexpr int32_t kRebuildsMax = 4;         // replicas a worker begins anew at a time
inline constexpr int64_t kReplicasNamedMax = 32;   // stores of earlier attempts in one request
inline constexpr size_t kStoresListedMax = 1'024;  // live stores in one report answer

// Model files.
inline constexpr size_t kConfigBytesMax = size_t{1} << 20;
inline constexpr size_t kSafetensorsHeaderBytesMax = 100'000'000;  // the format's own cap
inline constexpr size_t kSafetensorsIndexBytesMax = size_t{16} << 20;
inline constexpr size_t kTensorRankMax = 64;
inline constexpr size_t kTensorsMax = 100'000;
inline constexpr size_t kModelShardsMax = 1'000;
inline constexpr size_t kTokenizerBytesMax = size_t{64} << 20;
inline constexpr int64_t kHiddenSizeMax = 1 << 16;
inline constexpr int64_t kIntermediateSizeMax = 1 << 19;
inline constexpr int64_t kAttentionHeadsMax = 1024;
inline constexpr int64_t kHeadDimMax = 256;
inline constexpr int64_t kLatentRankMax = 1024;
inline constexpr int64_t kExpertsMax = 1024;        // of a layer
inline constexpr int64_t kScaleBlockMax = 1 << 16;  // rows or columns that share an FP8 scale
inline constexpr float kBlockScaleMax = 0x1p118F;   // times the largest code, 448, is finite
inline constexpr int64_t kVocabMax = 1 << 20;
inline constexpr int64_t kContextTokensMax = 1 << 20;  // rotation angles stay exact below it
inline constexpr size_t kEosIdsMax = 64;

// Tokenizer files (RESOURCE_EXHAUSTED) and texts; the largest published vocabularies hold about
// 260,000 entries in 40 MB.
inline constexpr int64_t kVocabEntriesMax = 1'000'000;  // also bounds the ids: gaps cost memory
inline constexpr size_t kMergesMax = 2'000'000;
inline constexpr size_t kTokenBytesMax = size_t{64} << 10;
inline constexpr size_t kAddedTokenBytesMax = 4096;  // bounds the trie walk at one text position
inline constexpr size_t kAddedTokensBytesMax = size_t{8} << 20;  // together: one trie node a byte
inline constexpr size_t kTokenizerStagesMax = 64;  // of one normalizer, pre-tokenizer or decoder
inline constexpr size_t kDecoderContentBytesMax = 256;  // bounds how a token may grow
inline constexpr size_t kDecodedVocabBytesMax = size_t{256} << 20;
inline constexpr size_t kEncodeTextBytesMax = size_t{16} << 20;      // INVALID_ARGUMENT when over
inline constexpr size_t kNormalizedTextBytesMax = size_t{64} << 20;  // normalizers lengthen text
inline constexpr size_t kRegexPatternBytesMax = size_t{64} << 10;
inline constexpr int64_t kRegexStatesMin = 4'000'000;  // backtracking states a call may save, and
inline constexpr int64_t kRegexStatesPerByte = 100;    // that many more per byte of text
inline constexpr int32_t kRegexStackBytesMax = 64 << 20;

// KV stream.
inline constexpr size_t kStreamMessageBytesMax = size_t{64} << 20;
inline constexpr size_t kFetchItemsMax = 4096;
inline constexpr size_t kPeersMax = 1024;
inline constexpr size_t kFetchesPerPeerMax = 4096;    // being served to one peer
inline constexpr size_t kFencedRequestsMax = 65'536;  // whose highest attempt is remembered
inline constexpr size_t kQueuedOffersMax = 64;        // to a peer not connected yet
inline constexpr size_t kAppendEntriesMax = 1'024;
inline constexpr size_t kAppendBytesMax = size_t{8} << 20;        // rows of one append
inline constexpr size_t kAppendInlineBytesMax = size_t{8} << 10;  // larger ones travel apart
inline constexpr size_t kAppendsPerPeerMax = 256;  // without an answer (RESOURCE_EXHAUSTED)
inline constexpr size_t kAppendBytesPerPeerMax = size_t{16} << 20;   // of their rows
inline constexpr size_t kAppendStagingBytesMax = size_t{256} << 20;  // all senders of one store
inline constexpr size_t kHeldEntriesMax = 4'096;                     // of one message
inline constexpr size_t kTailQueriesMax = 4'096;                     // without an answer, per peer
inline constexpr size_t kSequencesMax = 65'536;                      // a store keeps tails of
inline constexpr size_t kHostBytesMax = 64;
inline constexpr size_t kTenantSaltBytesMax = 256;
inline constexpr size_t kStreamErrorBytesMax = 1024;
inline constexpr int kBlockTokensMax = 1024;
inline constexpr int kLayersMax = 1024;

// Groups of ranks.
inline constexpr uint32_t kGroupRanksMax = 64;                   // INVALID_ARGUMENT
inline constexpr size_t kGroupInlineBytesMax = size_t{8} << 10;  // larger ones travel apart
inline constexpr uint64_t kGroupWindow = 64;       // messages of a pair kept for the receiver
inline constexpr size_t kGroupStrangersMax = 256;  // connections whose group has not begun here
inline constexpr size_t kGroupOrderBytesMax = size_t{64} << 20;  // of one step
inline constexpr uint32_t kGroupLoadsMax = 1 << 20;              // pages given anew before one step
inline constexpr uint64_t kGroupStepMsMax = 3'600'000;           // that a driver gives a step
inline constexpr int64_t kStripeLeavesMax = 2048;                // of a stripe, INVALID_ARGUMENT

}  // namespace reprise::limits

#endif  // REPRISE_COMMON_LIMITS_H_
