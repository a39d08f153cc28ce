#include "coordinator/core/types.h"

namespace reprise::coordinator {

const char* RoleName(Role role) {
  switch (role) {
    case Role::kGateway:
      return "gateway";
    case Role::kWorker:
      return "worker";
    case Role::kStore:
      return "store";
  }
  return "unknown";
}

const char* StateName(NodeState state) {
  switch (state) {
    case NodeState::kLive:
      return "live";
    case NodeState::kSuspect:
      return "suspect";
    case NodeState::kLeaving:
      return "leaving";
    case NodeState::kDead:
      return "dead";
  }
  return "unknown";
}

}  // namespace reprise::coordinator
