// Between cluster.proto and the coordinator's core. Incoming messages are checked against every
// limit here, once; what comes out may be trusted. Pure functions; any thread.
//
// Invariants of what Parse functions return:
// 1. Names and ids are neither empty nor over their limits; digests and block ids have their size.
// 2. Counts are within limits::; numbers are finite, not negative and far from overflow in sums.
// 3. A worker's or store's model has block_tokens >= 1.
// 4. A node's group has 1 to limits::kGroupRanksMax ranks, and one unless it is a worker.
#ifndef REPRISE_COORDINATOR_SERVER_CONVERT_H_
#define REPRISE_COORDINATOR_SERVER_CONVERT_H_

#include "common/status.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/types.h"
#include "coordinator/leader/leader_record.h"
#include "reprise/v1/cluster.pb.h"

namespace reprise::coordinator {

// INVALID_ARGUMENT (MALFORMED) names the field, the limit and the value.
StatusOr<Report> ParseReport(const v1::ReportRequest& message);
StatusOr<PlaceQuery> ParsePlaceQuery(const v1::PlaceRequest& message);
StatusOr<LeaderRecord> ParseLead(const v1::LeadRequest& message);
Status CheckDrain(const v1::DrainRequest& message);

void Fill(const ReportAnswer& answer, v1::ReportResponse* message);
void Fill(const Placement& placement, v1::PlaceResponse* message);
void Fill(const ModelInfo& model, v1::ModelInfo* message);
void Fill(const NodeSummary& node, v1::NodeStatus* message);

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_SERVER_CONVERT_H_
