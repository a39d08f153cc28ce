// UCX's context and worker with every setting this project relies on, made in this one place (the
// reasons are beside the settings in ucx_context.cc). Owned by the transport. Signal and Map
// from any thread; the rest from the thread that progresses the worker.
#ifndef REPRISE_KVSTORE_TRANSPORT_UCX_CONTEXT_H_
#define REPRISE_KVSTORE_TRANSPORT_UCX_CONTEXT_H_

#include <sys/socket.h>
#include <ucp/api/ucp.h>

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "common/status.h"

namespace reprise::kv {

Status StatusFromUcs(ucs_status_t status, absl::string_view what);

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};
// INVALID_ARGUMENT unless `host` is a numeric IPv4 or IPv6 address and `port` is in [0, 65535].
StatusOr<SocketAddress> ParseSocketAddress(const std::string& host, int port);

struct UcxContextOptions {
  std::string devices;
  bool shared_memory = true;
};

class UcxContext {
 public:
  static StatusOr<std::unique_ptr<UcxContext>> Create(const UcxContextOptions& options);
  // After every endpoint and listener is gone. UCX's worker may stay, idle, as long as the process.
  ~UcxContext();
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;

  ucp_worker_h worker() const { return worker_; }
  void Signal() { ucp_worker_signal(worker_); }
  // Sleeps until something arrives, Signal, or the timeout. Returns at once when work waits; when
  // UCX says so again and again and yet progress finds nothing, naps grow up to a millisecond.
  void Sleep(TimeNs timeout_ns);
  void NoteProgress() { fruitless_ = 0; }
  // Somebody was connecting while the worker came to its end.
  void NoteDisturbed() { disturbed_ = true; }
  Status Map(void* base, size_t bytes);

 private:
  UcxContext() = default;

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;  // the worker's
  int fruitless_ = 0;  // refusals to arm in a row, without progress between
  bool disturbed_ = false;
  struct Mappings;
  std::unique_ptr<Mappings> mappings_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_TRANSPORT_UCX_CONTEXT_H_
