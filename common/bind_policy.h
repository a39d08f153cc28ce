// Suspends, for tests, the rule of bind_address.h that nothing listens beyond loopback. Any thread.
#ifndef REPRISE_COMMON_BIND_POLICY_H_
#define REPRISE_COMMON_BIND_POLICY_H_

namespace reprise {

// For tests whose nodes have addresses of their own: from now on CheckLoopback lets this process
// listen on any numeric address, in plaintext. Whoever calls it says so in the log.
void AllowPlaintextBeyondLoopback();

}  // namespace reprise

#endif  // REPRISE_COMMON_BIND_POLICY_H_
