// The messages one request sends and what it reads from those it gets, as plain functions: nothing
// here decides anything. Any thread.
#ifndef REPRISE_GATEWAY_SERVER_SESSION_MESSAGES_H_
#define REPRISE_GATEWAY_SERVER_SESSION_MESSAGES_H_

#include <google/protobuf/repeated_field.h>

#include <string>

#include "gateway/generation/core/session_core.h"
#include "gateway/generation/request_validation.h"
#include "gateway/server/coordinator_link.h"
#include "reprise/v1/cluster.pb.h"
#include "reprise/v1/generation.pb.h"

namespace reprise::gateway {

using NodeRefs = google::protobuf::RepeatedPtrField<v1::NodeRef>;

// 16 random bytes.
std::string DrawHandle();
std::string HandleDigest(const std::string& handle);

Attempt FromProto(const v1::Attempt& attempt);
void ToProto(const Attempt& attempt, v1::Attempt* out);
Status StatusOf(const v1::WorkerDone& done);

SessionSpec MakeSpec(const ValidatedRequest& request, const ModelSnapshot& model,
                     int32_t attempts_max, TimeNs arrived);
// What the core needs of an Attached, held against the request when that came with its input.
AttachedInfo ReadAttached(const v1::Attached& attached, const ValidatedRequest& request);

// What is known of a request besides its core.
struct RequestFacts {
  const ValidatedRequest& request;
  const ModelSnapshot& model;
  const std::string& handle;
  const NodeRefs& replicas;  // stores that may hold its tails
};
v1::PlaceRequest PlaceMessage(const RequestFacts& facts, const SessionCore& core,
                              const AskPlacement& ask);
v1::ServeRequest SubmitMessage(const RequestFacts& facts, const SessionCore& core,
                               const SubmitAttempt& submit, const v1::PlaceResponse& placed);
v1::ServeRequest AttachMessage(const RequestFacts& facts, const Placement& placement,
                               const v1::PlaceResponse& placed);
v1::ServeRequest CancelMessage(const std::string& request_id, const CancelWorker& cancel);
v1::ServeRequest DetachMessage(const std::string& request_id, const Placement& placement);

// After a placement on `stores`: these first, then those of the attempts before, which hold more
// until the new ones have caught up; at most kReplicaStoresMax.
void KeepReplicas(const NodeRefs& stores, NodeRefs* replicas);

void FillAccepted(const RequestFacts& facts, v1::Accepted* out);
void FillBranchEnd(const BranchEnd& end, const SessionCore& core, v1::BranchFinished* out);
void FillFinished(const SessionEnd& finish, const SessionCore& core, v1::Finished* out);

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_SESSION_MESSAGES_H_
