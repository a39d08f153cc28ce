// Whether the device draws what the host's sampler draws, found out at start on known logits, as
// the numerics class is: where a card, a driver or a compiler makes of the kernel something else,
// tokens would depend on who drew them, and the host draws. The steps thread's; runs on the device.
#ifndef REPRISE_WORKER_DEVICE_SAMPLE_CHECK_H_
#define REPRISE_WORKER_DEVICE_SAMPLE_CHECK_H_

#include "common/status.h"

namespace reprise::worker {

// Tokens, log-probabilities and alternatives of rows with every option, by their bits.
StatusOr<bool> DrawsAsTheHost();

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_DEVICE_SAMPLE_CHECK_H_
