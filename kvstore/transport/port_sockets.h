// The TCP sockets of this process on one of its ports, found by asking the kernel: those that a
// library opened and does not show. Any thread.
#ifndef REPRISE_KVSTORE_TRANSPORT_PORT_SOCKETS_H_
#define REPRISE_KVSTORE_TRANSPORT_PORT_SOCKETS_H_

namespace reprise::kv {

// Who listens on the port takes nobody in any more. How many there were.
int ShutListeners(int port);
// All on the port, those that listen(ed) too: who is connected reads the end, and its owner closes
// it. How many there are.
int ShutPort(int port);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_TRANSPORT_PORT_SOCKETS_H_
