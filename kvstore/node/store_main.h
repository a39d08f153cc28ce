// Runs the kvstore role until told to stop: waits for the cluster's model, starts the server, its
// doors and its reports. Called once per process by the command line.
#ifndef REPRISE_KVSTORE_NODE_STORE_MAIN_H_
#define REPRISE_KVSTORE_NODE_STORE_MAIN_H_

#include <functional>

#include "common/role.h"
#include "common/status.h"
#include "kvstore/node/store_server.h"

namespace reprise::kv {

Status RunStore(const StoreOptions& options, const RoleControl& control);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_NODE_STORE_MAIN_H_
