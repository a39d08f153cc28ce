// Settings of the C library and of Abseil that a process of ours makes once, first thing in main.
#ifndef REPRISE_COMMON_PROCESS_TUNING_H_
#define REPRISE_COMMON_PROCESS_TUNING_H_

namespace reprise {

// A step's messages come and go as one; by default malloc gives their memory back to the kernel
// after every step and faults it in again at the next, which is 3 to 4 % of a token's way (bench
// gateway). And Debian's Abseil looks for cycles whenever a lock is taken, gRPC's included.
void TuneProcess();

}  // namespace reprise

#endif  // REPRISE_COMMON_PROCESS_TUNING_H_
