// Any bytes as a placement query, through the parser into a core with a small live cluster: refused
// by name, or placed within what the query and the cluster allow.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <variant>

#include "common/limits.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/server/convert.h"

namespace {

using reprise::coordinator::CoordinatorCore;
using reprise::coordinator::Placement;
using reprise::coordinator::Role;

constexpr reprise::TimeNs kNow = 10 * reprise::kSecond;

void Require(bool holds) {
  if (!holds) std::abort();
}

// Two workers and a store of the all-zero format in blocks of one token; all hold block zero.
void AddNodes(CoordinatorCore& core) {
  for (const char* name : {"a", "b", "s"}) {
    reprise::coordinator::Report report;
    report.node.ref.key = {name, 1};
    report.node.role = name[0] == 's' ? Role::kStore : Role::kWorker;
    report.node.can_decode = report.node.can_prefill = name[0] != 's';
    report.node.model.block_tokens = 1;
    report.node.model.context_tokens = 4096;
    report.sequence = 1;
    report.load.blocks_total = report.load.blocks_free = 8192;
    report.events = reprise::coordinator::KvEvents{.first = 1, .events = {{}}};
    Require(core.OnReport(report, kNow).ok());
  }
}

void RequireSound(const Placement& placement, const reprise::coordinator::PlaceQuery& query) {
  Require(placement.attempt.n >= 1);
  if (query.previous) Require(placement.attempt > *query.previous);
  Require(placement.decode.key.name == "a" || placement.decode.key.name == "b");
  if (placement.prefill) Require(placement.prefill->key != placement.decode.key);
  const int stores = query.replica_stores == 0 ? 1 : std::max(0, query.replica_stores);
  Require(placement.stores.size() <= static_cast<size_t>(stores));
  Require(placement.alone == (query.crashes == reprise::limits::kCrashesBeforeAlone));
  Require(placement.sources.size() <= reprise::limits::kPlaceSourcesMax);
  int64_t end = 0;
  for (const auto& source : placement.sources) {
    Require(source.first_block >= end && source.blocks >= 1);
    Require(source.node.key != placement.decode.key);
    end = int64_t{source.first_block} + source.blocks;
  }
  Require(end <= static_cast<int64_t>(query.block_ids.size()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  reprise::v1::PlaceRequest message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  const auto query = reprise::coordinator::ParsePlaceQuery(message);
  if (!query.ok()) {
    Require(!query.status().message().empty());
    return 0;
  }
  Require(query->request_id.size() <= reprise::limits::kRequestIdBytesMax);
  const bool asks_only = query->attach && query->prompt_tokens == 0;
  Require(asks_only ||
          (query->prompt_tokens >= 1 && query->branches >= 1 && query->max_tokens >= 1));
  Require(!query->attach || query->handle_digest);
  CoordinatorCore core(reprise::coordinator::CoreOptions{}, 0);
  AddNodes(core);
  for (int twice = 0; twice < 2; ++twice) {
    const auto result = core.OnPlace(*query, kNow);
    if (const Placement* placement = std::get_if<Placement>(&result)) {
      // The same attempt is granted once; who attaches may again, to what then runs.
      Require(twice == 0 || query->attach);
      Require(query->crashes < reprise::limits::kCrashesMax && !asks_only);
      if (placement->running) {
        Require(twice == 1 && placement->attempt.n == 1);
      } else {
        RequireSound(*placement, *query);
      }
      reprise::v1::PlaceResponse response;
      Fill(*placement, &response);
    } else {
      const auto& refusal = std::get<reprise::coordinator::Refusal>(result);
      Require(!ToStatus(refusal).ok());
    }
  }
  return 0;
}
