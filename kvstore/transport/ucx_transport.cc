#include "kvstore/transport/ucx_transport.h"

#include <netinet/in.h>
#include <ucp/api/ucp.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/limits.h"
#include "common/mutex.h"
#include "common/thread.h"
#include "kvstore/transport/port_sockets.h"
#include "kvstore/transport/ucx_context.h"

namespace reprise::kv {
namespace {

constexpr unsigned kMessageAm = 1;
constexpr unsigned kBulkAm = 2;
constexpr unsigned kKnockAm = 3;
constexpr TimeNs kFlushTimeoutNs = kSecond;
constexpr int kProgressBurst = 64;  // progress calls between looks at the clock and the mailbox

class UcxTransport final : public Transport {
 public:
  UcxTransport(const UcxOptions& options, std::unique_ptr<UcxContext> context)
      : thread_name_(options.thread_name), context_(std::move(context)) {}
  ~UcxTransport() override;

  Status Prepare(const UcxOptions& options);

  void Start(TransportHandler* handler) override;
  void Stop(std::function<bool()> quiet) override;
  int port() const override { return port_; }
  StatusOr<EndpointId> Connect(const std::string& host, int port) override;
  void Send(EndpointId endpoint, std::string message) override;
  void SendBulk(EndpointId endpoint, const BulkHeader& header, std::span<const uint8_t> payload,
                Completion done) override;
  void Close(EndpointId endpoint) override;
  StatusOr<std::string> DescribeLanes(EndpointId endpoint) override;
  void Post(std::function<void()> function) override;
  TimeNs NowNs() const override { return RealClock().NowNs(); }
  Status Register(void* base, size_t bytes) override { return context_->Map(base, bytes); }

 private:
  // Lives until UCX has confirmed the close, because error callbacks point to it.
  struct Endpoint {
    UcxTransport* transport;
    EndpointId id;
    ucp_ep_h handle = nullptr;
    bool open = true;  // false: the handler has been told, or has closed it
    // UCX 1.13.1 loses, reorders or asserts on messages posted while the lanes still connect. A
    // single byte gets through: the connecting side knocks, the other knocks back and is knocked
    // at once more; having heard proves the lanes connected, and until then sends wait in `held`.
    bool initiator = false;
    int knocks = 0;  // heard
    bool connected = false;
    std::vector<std::function<void()>> held;
  };
  // One posted operation; frees itself in Finish.
  struct Operation {
    UcxTransport* transport;
    Completion done;      // null for messages
    std::string message;  // owned bytes of a message
    BulkHeader header{};  // UCX reads it until the operation ends
    absl::string_view what;
  };

  void Run();
  void End();
  void Flush();
  void CloseListener(int listeners);
  bool RunPosted();
  bool RunDeferred();
  void Finish(Operation* operation, ucs_status_t status);
  // For what ucp_*_nbx returned: an operation that ended at once or could not start.
  void Settle(Operation* operation, ucs_status_ptr_t request);
  StatusOr<EndpointId> CreateEndpoint(ucp_ep_params_t params);
  Endpoint* Find(EndpointId id);
  void CloseHandle(Endpoint* endpoint);
  void OnError(Endpoint* endpoint, ucs_status_t status);
  void PostMessage(Endpoint* endpoint, unsigned am, std::string message);
  // Posts what waited, or completes it once the endpoint is closed.
  void ReleaseHeld(Endpoint* endpoint);
  void PostBulk(EndpointId id, Operation* operation, std::span<const uint8_t> payload);
  EndpointId SenderOf(const ucp_am_recv_param_t* param) const;
  ucs_status_t ReceiveMessage(const void* data, size_t bytes, const ucp_am_recv_param_t* param);
  ucs_status_t ReceiveKnock(const ucp_am_recv_param_t* param);
  ucs_status_t ReceiveBulk(const void* header, size_t header_bytes, void* data, size_t bytes,
                           const ucp_am_recv_param_t* param);

  static void HandleConnection(ucp_conn_request_h request, void* arg);
  static void HandleSent(void* request, ucs_status_t status, void* arg);
  static void HandleReceived(void* request, ucs_status_t status, size_t bytes, void* arg);

  // Constant after Start.
  const std::string thread_name_;
  std::unique_ptr<UcxContext> context_;
  ucp_listener_h listener_ = nullptr;
  int port_ = 0;
  TransportHandler* handler_ = nullptr;

  // The loop's own.
  std::unordered_map<EndpointId, std::unique_ptr<Endpoint>> endpoints_;
  std::unordered_map<ucp_ep_h, EndpointId> ids_;  // open ones
  std::vector<std::function<void()>> deferred_;   // what UCX reported, run outside its calls
  EndpointId next_id_ = 1;
  size_t operations_ = 0;
  bool ending_ = false;  // handler calls are over

  Mutex mu_;
  std::vector<std::function<void()>> posted_ GUARDED_BY(mu_);
  std::function<bool()> quiet_ GUARDED_BY(mu_);
  bool stopping_ GUARDED_BY(mu_) = false;
  bool stopped_ GUARDED_BY(mu_) = false;
  std::atomic<bool> asleep_{false};  // true: Post must signal
  Thread thread_;                    // last: joined before the rest goes
};

UcxTransport::~UcxTransport() {
  Stop([] { return true; });
  if (listener_ != nullptr) ucp_listener_destroy(listener_);
}

Status UcxTransport::Prepare(const UcxOptions& options) {
  const auto handle = [this](unsigned id, ucp_am_recv_callback_t callback) {
    ucp_am_handler_param_t params{};
    params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                        UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    params.id = id;
    params.flags = UCP_AM_FLAG_WHOLE_MSG;
    params.cb = callback;
    params.arg = this;
    return StatusFromUcs(ucp_worker_set_am_recv_handler(context_->worker(), &params),
                         "setting a message handler");
  };
  RETURN_IF_ERROR(handle(kMessageAm, [](void* arg, const void*, size_t, void* data, size_t bytes,
                                        const ucp_am_recv_param_t* param) {
    return static_cast<UcxTransport*>(arg)->ReceiveMessage(data, bytes, param);
  }));
  RETURN_IF_ERROR(handle(kBulkAm, [](void* arg, const void* header, size_t header_bytes, void* data,
                                     size_t bytes, const ucp_am_recv_param_t* param) {
    return static_cast<UcxTransport*>(arg)->ReceiveBulk(header, header_bytes, data, bytes, param);
  }));
  RETURN_IF_ERROR(handle(kKnockAm, [](void* arg, const void*, size_t, void*, size_t,
                                      const ucp_am_recv_param_t* param) {
    return static_cast<UcxTransport*>(arg)->ReceiveKnock(param);
  }));
  if (!options.listen) return absl::OkStatus();

  ASSIGN_OR_RETURN(const SocketAddress address, ParseSocketAddress(options.host, options.port));
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr = {reinterpret_cast<const sockaddr*>(&address.storage), address.length};
  params.conn_handler = {&UcxTransport::HandleConnection, this};
  const ucs_status_t status = ucp_listener_create(context_->worker(), &params, &listener_);
  if (status != UCS_OK) {
    listener_ = nullptr;
    return StatusFromUcs(status, absl::StrCat("listening on ", options.host, ":", options.port));
  }
  ucp_listener_attr_t attributes{};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  RETURN_IF_ERROR(StatusFromUcs(ucp_listener_query(listener_, &attributes), "own port"));
  const auto* bound = reinterpret_cast<const sockaddr*>(&attributes.sockaddr);
  port_ =
      ntohs(bound->sa_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(bound)->sin6_port
                                         : reinterpret_cast<const sockaddr_in*>(bound)->sin_port);
  return absl::OkStatus();
}

// ---- The loop. ----

void UcxTransport::Start(TransportHandler* handler) {
  handler_ = handler;
  thread_ = Thread(thread_name_, [this] { Run(); });
}

void UcxTransport::Stop(std::function<bool()> quiet) {
  {
    MutexLock lock(mu_);
    if (!stopping_) quiet_ = std::move(quiet);
    stopping_ = true;
  }
  context_->Signal();
  thread_.Join();
}

void UcxTransport::Post(std::function<void()> function) {
  {
    MutexLock lock(mu_);
    if (stopped_) return;
    posted_.push_back(std::move(function));
  }
  if (asleep_.load()) context_->Signal();
}

bool UcxTransport::RunPosted() {
  std::vector<std::function<void()>> functions;
  {
    MutexLock lock(mu_);
    functions.swap(posted_);
  }
  for (auto& function : functions) function();
  return !functions.empty();
}

bool UcxTransport::RunDeferred() {
  std::vector<std::function<void()>> functions;
  functions.swap(deferred_);
  for (auto& function : functions) function();
  return !functions.empty();
}

void UcxTransport::Run() {
  for (;;) {
    bool busy = RunPosted();
    for (int i = 0; i < kProgressBurst && ucp_worker_progress(context_->worker()) != 0; ++i) {
      busy = true;
      if (!deferred_.empty()) break;
    }
    if (RunDeferred()) busy = true;
    const TimeNs wake_ns = handler_->OnWake(NowNs());
    std::function<bool()> quiet;
    {
      MutexLock lock(mu_);
      if (stopping_) quiet = quiet_;
    }
    if (quiet && quiet()) break;
    if (busy || !deferred_.empty()) {
      context_->NoteProgress();
      continue;
    }
    asleep_.store(true);
    bool posted;
    {
      MutexLock lock(mu_);
      posted = !posted_.empty();
    }
    // A function posted after this look finds asleep_ set and signals.
    if (!posted) context_->Sleep(wake_ns == INT64_MAX ? kMinute : wake_ns - NowNs());
    asleep_.store(false);
  }
  End();
}

void UcxTransport::End() {
  ending_ = true;
  const int listeners = listener_ != nullptr ? ShutListeners(port_) : 0;
  RunDeferred();  // refuses those that have come
  std::vector<EndpointId> open;
  for (const auto& [id, endpoint] : endpoints_) {
    if (!endpoint->connected) context_->NoteDisturbed();
    open.push_back(id);
  }
  for (const EndpointId id : open) Close(id);
  while (operations_ > 0 || !endpoints_.empty() || !deferred_.empty()) {
    const bool progressed = ucp_worker_progress(context_->worker()) != 0;
    if (!RunDeferred() && !progressed) context_->Sleep(kMillisecond);
  }
  Flush();
  CloseListener(listeners);
  while (RunPosted()) {  // what the last completions posted
  }
  std::vector<std::function<void()>> dropped;  // destroyed outside the lock
  MutexLock lock(mu_);
  stopped_ = true;
  dropped.swap(posted_);
}

void UcxTransport::Flush() {
  // UCX discards the lanes of closed endpoints in the background and asserts when its worker goes
  // before that is over. A flush that does not end has met a peer that cannot answer any more.
  ucp_request_param_t param{};
  void* request = ucp_worker_flush_nbx(context_->worker(), &param);
  if (!UCS_PTR_IS_PTR(request)) return;
  const TimeNs deadline_ns = NowNs() + kFlushTimeoutNs;
  while (ucp_request_check_status(request) == UCS_INPROGRESS && NowNs() < deadline_ns) {
    if (ucp_worker_progress(context_->worker()) == 0) context_->Sleep(kMillisecond);
  }
  ucp_request_free(request);
}

// UCX takes connections in on a thread of its own, and one whose request arrives after the listener
// or the worker is gone finds freed memory. So nobody is taken in any more by now; here those that
// were, and have not said yet who they are, are cut off and waited for, while all of it still
// stands.
void UcxTransport::CloseListener(int listeners) {
  if (listener_ == nullptr) return;
  const TimeNs deadline_ns = NowNs() + kFlushTimeoutNs;
  while (ShutPort(port_) > listeners && NowNs() < deadline_ns) {
    context_->NoteDisturbed();
    const bool progressed = ucp_worker_progress(context_->worker()) != 0;
    if (!RunDeferred() && !progressed) context_->Sleep(kMillisecond);
  }
  ucp_listener_destroy(std::exchange(listener_, nullptr));
}

// ---- Endpoints. ----

UcxTransport::Endpoint* UcxTransport::Find(EndpointId id) {
  const auto found = endpoints_.find(id);
  return found != endpoints_.end() && found->second->open ? found->second.get() : nullptr;
}

StatusOr<EndpointId> UcxTransport::CreateEndpoint(ucp_ep_params_t params) {
  auto endpoint = std::make_unique<Endpoint>(Endpoint{.transport = this, .id = next_id_++});
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.arg = endpoint.get();
  params.err_handler.cb = [](void* arg, ucp_ep_h, ucs_status_t status) {
    auto* failed = static_cast<Endpoint*>(arg);
    failed->transport->OnError(failed, status);
  };
  const ucs_status_t status = ucp_ep_create(context_->worker(), &params, &endpoint->handle);
  if (status != UCS_OK) return StatusFromUcs(status, "creating an endpoint");
  const EndpointId id = endpoint->id;
  ids_[endpoint->handle] = id;
  endpoints_[id] = std::move(endpoint);
  return id;
}

StatusOr<EndpointId> UcxTransport::Connect(const std::string& host, int port) {
  ASSIGN_OR_RETURN(const SocketAddress address, ParseSocketAddress(host, port));
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr = {reinterpret_cast<const sockaddr*>(&address.storage), address.length};
  ASSIGN_OR_RETURN(const EndpointId id, CreateEndpoint(params));
  Endpoint* endpoint = Find(id);
  endpoint->initiator = true;
  PostMessage(endpoint, kKnockAm, "k");
  return id;
}

void UcxTransport::HandleConnection(ucp_conn_request_h request, void* arg) {
  auto* self = static_cast<UcxTransport*>(arg);
  self->deferred_.push_back([self, request] {
    if (self->ending_) {
      self->context_->NoteDisturbed();
      ucp_listener_reject(self->listener_, request);
      return;
    }
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
    params.conn_request = request;
    // On failure UCX has released the request and the peer hears of it.
    const StatusOr<EndpointId> id = self->CreateEndpoint(params);
    if (id.ok()) self->handler_->OnAccepted(*id);
  });
}

void UcxTransport::OnError(Endpoint* endpoint, ucs_status_t status) {
  if (!endpoint->open) return;
  deferred_.push_back([this, id = endpoint->id, status] {
    Endpoint* failed = Find(id);
    if (failed == nullptr) return;
    CloseHandle(failed);
    if (!ending_) handler_->OnFailed(id, StatusFromUcs(status, "connection lost"));
  });
}

void UcxTransport::Close(EndpointId id) {
  if (Endpoint* endpoint = Find(id)) CloseHandle(endpoint);
}

void UcxTransport::CloseHandle(Endpoint* endpoint) {
  endpoint->open = false;
  ids_.erase(endpoint->handle);
  ReleaseHeld(endpoint);
  // Deferred: a handler may close from inside a UCX callback of this very endpoint.
  deferred_.push_back([this, endpoint] {
    ucp_request_param_t param{};
    param.op_attr_mask =
        UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    param.user_data = endpoint;
    param.cb.send = [](void* request, ucs_status_t, void* arg) {
      auto* closed = static_cast<Endpoint*>(arg);
      ucp_request_free(request);
      UcxTransport* self = closed->transport;
      self->deferred_.push_back([self, id = closed->id] { self->endpoints_.erase(id); });
    };
    const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint->handle, &param);
    if (!UCS_PTR_IS_PTR(request)) endpoints_.erase(endpoint->id);
  });
}

StatusOr<std::string> UcxTransport::DescribeLanes(EndpointId id) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr) return absl::NotFoundError("the endpoint is closed");
  char* text = nullptr;
  size_t bytes = 0;
  FILE* stream = open_memstream(&text, &bytes);
  if (stream == nullptr) return absl::ResourceExhaustedError("no memory for a description");
  ucp_ep_print_info(endpoint->handle, stream);
  fclose(stream);
  std::string description(text, bytes);
  free(text);
  return description;
}

// ---- Operations. ----

void UcxTransport::Finish(Operation* operation, ucs_status_t status) {
  deferred_.push_back([this, operation, status] {
    --operations_;
    const std::unique_ptr<Operation> ended(operation);
    if (ended->done) ended->done(StatusFromUcs(status, ended->what));
  });
}

void UcxTransport::Settle(Operation* operation, ucs_status_ptr_t request) {
  if (!UCS_PTR_IS_PTR(request)) Finish(operation, UCS_PTR_STATUS(request));
}

void UcxTransport::HandleSent(void* request, ucs_status_t status, void* arg) {
  auto* operation = static_cast<Operation*>(arg);
  ucp_request_free(request);
  operation->transport->Finish(operation, status);
}

void UcxTransport::HandleReceived(void* request, ucs_status_t status, size_t, void* arg) {
  HandleSent(request, status, arg);
}

void UcxTransport::Send(EndpointId id, std::string message) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr) return;
  if (endpoint->connected) {
    PostMessage(endpoint, kMessageAm, std::move(message));
    return;
  }
  endpoint->held.push_back([this, id, message = std::move(message)]() mutable {
    if (Endpoint* connected = Find(id)) PostMessage(connected, kMessageAm, std::move(message));
  });
}

void UcxTransport::PostMessage(Endpoint* endpoint, unsigned am, std::string message) {
  auto* operation = new Operation{.transport = this,
                                  .done = nullptr,
                                  .message = std::move(message),
                                  .what = "sending a message"};
  ++operations_;
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  // Eager keeps messages in order with each other and with the announcements of payloads.
  param.flags = UCP_AM_SEND_FLAG_EAGER | UCP_AM_SEND_FLAG_REPLY;
  param.cb.send = &UcxTransport::HandleSent;
  param.user_data = operation;
  Settle(operation, ucp_am_send_nbx(endpoint->handle, am, nullptr, 0, operation->message.data(),
                                    operation->message.size(), &param));
}

void UcxTransport::SendBulk(EndpointId id, const BulkHeader& header,
                            std::span<const uint8_t> payload, Completion done) {
  auto* operation = new Operation{.transport = this,
                                  .done = std::move(done),
                                  .message = {},
                                  .header = header,
                                  .what = "sending a payload"};
  ++operations_;
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr || endpoint->connected) {
    PostBulk(id, operation, payload);
  } else {
    endpoint->held.push_back([this, id, operation, payload] { PostBulk(id, operation, payload); });
  }
}

void UcxTransport::PostBulk(EndpointId id, Operation* operation, std::span<const uint8_t> payload) {
  Endpoint* endpoint = Find(id);
  if (endpoint == nullptr) {
    Finish(operation, UCS_ERR_CANCELED);
    return;
  }
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.flags = UCP_AM_SEND_FLAG_RNDV | UCP_AM_SEND_FLAG_REPLY;
  param.cb.send = &UcxTransport::HandleSent;
  param.user_data = operation;
  Settle(operation,
         ucp_am_send_nbx(endpoint->handle, kBulkAm, operation->header.data(),
                         operation->header.size(), payload.data(), payload.size(), &param));
}

void UcxTransport::ReleaseHeld(Endpoint* endpoint) {
  std::vector<std::function<void()>> held;
  held.swap(endpoint->held);
  for (auto& send : held) send();
}

EndpointId UcxTransport::SenderOf(const ucp_am_recv_param_t* param) const {
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return 0;
  const auto found = ids_.find(param->reply_ep);
  return found != ids_.end() ? found->second : 0;
}

ucs_status_t UcxTransport::ReceiveMessage(const void* data, size_t bytes,
                                          const ucp_am_recv_param_t* param) {
  const EndpointId sender = SenderOf(param);
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_ERR_REJECTED;
  if (sender == 0 || ending_ || bytes > limits::kStreamMessageBytesMax) return UCS_OK;
  handler_->OnMessage(sender, {static_cast<const uint8_t*>(data), bytes});
  return UCS_OK;
}

ucs_status_t UcxTransport::ReceiveKnock(const ucp_am_recv_param_t* param) {
  Endpoint* endpoint = Find(SenderOf(param));
  if (endpoint == nullptr || endpoint->connected || ending_) return UCS_OK;
  ++endpoint->knocks;
  if (endpoint->knocks == 1) PostMessage(endpoint, kKnockAm, "k");
  endpoint->connected = endpoint->knocks == (endpoint->initiator ? 1 : 2);
  if (endpoint->connected) ReleaseHeld(endpoint);
  return UCS_OK;
}

ucs_status_t UcxTransport::ReceiveBulk(const void* header, size_t header_bytes, void* data,
                                       size_t bytes, const ucp_am_recv_param_t* param) {
  const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
  const ucs_status_t refused = rendezvous ? UCS_ERR_REJECTED : UCS_OK;
  const EndpointId sender = SenderOf(param);
  if (sender == 0 || ending_ || !rendezvous || header_bytes != kBulkHeaderBytes) return refused;
  BulkHeader parsed;
  std::copy_n(static_cast<const uint8_t*>(header), parsed.size(), parsed.begin());
  Sink sink = handler_->OnBulk(sender, parsed, bytes);
  if (sink.destination == nullptr) return refused;

  auto* operation = new Operation{.transport = this,
                                  .done = std::move(sink.done),
                                  .message = {},
                                  .header = parsed,
                                  .what = "receiving a payload"};
  ++operations_;
  ucp_request_param_t receive{};
  receive.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  receive.cb.recv_am = &UcxTransport::HandleReceived;
  receive.user_data = operation;
  Settle(operation,
         ucp_am_recv_data_nbx(context_->worker(), data, sink.destination, bytes, &receive));
  return UCS_INPROGRESS;
}

}  // namespace

StatusOr<std::unique_ptr<Transport>> CreateUcxTransport(const UcxOptions& options) {
  ASSIGN_OR_RETURN(
      std::unique_ptr<UcxContext> context,
      UcxContext::Create({.devices = options.devices, .shared_memory = options.shared_memory}));
  auto transport = std::make_unique<UcxTransport>(options, std::move(context));
  RETURN_IF_ERROR(transport->Prepare(options));
  return transport;
}

}  // namespace reprise::kv
