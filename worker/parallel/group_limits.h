// Limits of the messages between ranks, beside those of common/limits.h. Constants; any thread.
#ifndef REPRISE_WORKER_PARALLEL_GROUP_LIMITS_H_
#define REPRISE_WORKER_PARALLEL_GROUP_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace reprise::limits {

inline constexpr uint32_t kGroupRanksMax = 64;                   // INVALID_ARGUMENT
inline constexpr size_t kGroupInlineBytesMax = size_t{8} << 10;  // larger ones travel apart
inline constexpr uint64_t kGroupWindow = 64;       // messages of a pair kept for the receiver
inline constexpr size_t kGroupStrangersMax = 256;  // connections whose group has not begun here

}  // namespace reprise::limits

#endif  // REPRISE_WORKER_PARALLEL_GROUP_LIMITS_H_
