// Loopback ports for processes that cannot choose their own, or must know each other's before they
// start: free a moment ago, which is all one can know. For clusters on one machine. Any thread.
#ifndef REPRISE_COMMON_FREE_PORTS_H_
#define REPRISE_COMMON_FREE_PORTS_H_

#include <cstdint>
#include <vector>

#include "common/status.h"

namespace reprise {

// `count` different ones; UNAVAILABLE when there are not so many.
StatusOr<std::vector<uint16_t>> FreePorts(int count);

}  // namespace reprise

#endif  // REPRISE_COMMON_FREE_PORTS_H_
