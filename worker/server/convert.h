// Between cluster.proto and the worker's core. Incoming messages are checked here, once, against
// every limit that does not depend on the model; what comes out may be trusted, except token ids,
// which the core checks against its vocabulary. Pure functions; any thread.
//
// Invariants of what Parse functions return:
// 1. Ids, names, addresses and counts are within limits::, numbers finite.
// 2. `branches` is empty or has one entry for each of the n branches.
// 3. Deadlines are instants of the clock `now` was read from.
#ifndef REPRISE_WORKER_SERVER_CONVERT_H_
#define REPRISE_WORKER_SERVER_CONVERT_H_

#include "common/status.h"
#include "reprise/v1/cluster.pb.h"
#include "worker/engine/core/types.h"

namespace reprise::worker {

// INVALID_ARGUMENT names the field, the limit and the value.
StatusOr<Submit> ParseSubmit(const v1::Submit& message, TimeNs now);
StatusOr<SubmitPrefill> ParsePrefill(const v1::PrefillRequest& message, TimeNs now);
StatusOr<Attach> ParseAttach(const v1::Attach& message);
// The live stores of a coordinator's answer; entries that name none are left out.
LiveStores ParseStores(const v1::ReportResponse& message);
StatusOr<RequestKey> ParseKey(const std::string& request_id, const v1::Attempt& attempt);
// The answer of another worker to a leg with `n` branches.
StatusOr<PrefillReply> ParsePrefillResponse(const v1::PrefillResponse& message, int32_t n);

// `now`: of the same clock as the request's deadline.
void Fill(const Emit& emit, TimeNs now, v1::RequestEvent* message);
// `now`: of the same clock as the leg's deadline.
void Fill(const CallPrefill& call, TimeNs now, v1::PrefillRequest* message);
void Fill(const ReplyPrefill& reply, v1::PrefillResponse* message);
void Fill(const Attempt& attempt, v1::Attempt* message);
void Fill(const NodeRef& node, v1::NodeRef* message);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_SERVER_CONVERT_H_
