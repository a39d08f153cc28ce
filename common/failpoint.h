// Named moments at which a test may stop a process, to aim a crash or a freeze at one phase of the
// protocol. Every name is in kFailpoints; nothing happens at one unless it is armed, which only
// ArmFailpoint can do, and roles call that only for a process started with REPRISE_FAILPOINTS set
// (they say so in their log). A disarmed failpoint costs one load. Any thread.
#ifndef REPRISE_COMMON_FAILPOINT_H_
#define REPRISE_COMMON_FAILPOINT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"

namespace reprise {

// role.phase, in the order a request meets them. Tests check that each can be hit.
inline constexpr const char* kFailpoints[] = {
    "gateway.place",               // before a placement is asked for
    "gateway.submit",              // placed, before the worker is told
    "gateway.token",               // a token came from the worker, the client has not got it
    "gateway.detach",              // the client has gone
    "gateway.attach",              // a client came back, before the worker is told
    "gateway.finish",              // before the terminal event is written
    "coordinator.report",          // a report came
    "coordinator.place",           // a placement was asked for
    "coordinator.grant",           // decided, before the answer
    "coordinator.lead.candidate",  // before the leader's key is taken
    "coordinator.lead.elected",    // after
    "worker.submit",               // a request came
    "worker.restore.query",        // before stores are asked for tails
    "worker.restore.fetch",        // before the first fetch of a restore
    "worker.restore.arrived",      // rows are here, none replayed yet
    "worker.leg.call",             // before a prefill leg is ordered
    "worker.leg.layer",            // in a leg's step, a layer is published, others are not
    "worker.leg.reply",            // the prompt is computed, the first token is not sent
    "worker.step.layer",           // in a step that decodes, between two layers
    "worker.step.done",            // tokens are sampled, not sent
    "worker.emit",                 // tokens were given to the stream
    "worker.append.pack",          // before rows are packed for the replicas
    "worker.append.send",          // packed, not sent
    "worker.held",                 // a store's acknowledgement came
    "worker.seal",                 // a block became complete
    "worker.attach",               // another gateway takes a request over
    "worker.drain",                // draining began
    "store.offer",                 // blocks were offered
    "store.block.stored",          // a fetched block is complete, not announced
    "store.append.receive",        // appended rows have come, not taken
    "store.append.take",           // taken, not acknowledged
    "store.append.ack",            // acknowledged
    "store.seal",                  // a tail became a block
    "store.query",                 // a tail was asked for
    "store.serve",                 // a block is about to be sent
    "store.disk.write",            // before a block is written to disk
    "store.release",               // a request let its replicas go
};

enum class FailpointAction : uint8_t {
  kCount,  // nothing but counting
  kKill,   // SIGKILL to this process
  kStop,   // SIGSTOP to this process
  kHang,   // the thread that met it waits until the point is armed anew
};

namespace internal {
extern std::atomic<bool> failpoints_armed;
void HitFailpoint(const char* name);
}  // namespace internal

inline void Failpoint(const char* name) {
  if (internal::failpoints_armed.load(std::memory_order_relaxed)) internal::HitFailpoint(name);
}

// False until the first was armed.
inline bool FailpointsArmed() { return internal::failpoints_armed.load(std::memory_order_relaxed); }

// The action is taken at hit number `nth` from now on (1: the next), once. NOT_FOUND for a name
// that is not in kFailpoints.
Status ArmFailpoint(absl::string_view name, FailpointAction action, int64_t nth);
// From a text "name=kill@3,name=stop@1,name=hang,name=count", as in REPRISE_FAILPOINTS.
Status ArmFailpoints(absl::string_view text);
// Hits of each since the first was armed, in the order of kFailpoints.
std::vector<std::pair<std::string, int64_t>> FailpointHits();

}  // namespace reprise

#endif  // REPRISE_COMMON_FAILPOINT_H_
