#include "kvstore/transport/ucx_context.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <time.h>
#include <ucs/config/global_opts.h>
#include <ucs/debug/debug.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "common/crash_report.h"

namespace reprise::kv {
namespace {

constexpr int kFruitlessMax = 16;
constexpr TimeNs kNapMinNs = 10 * kMicrosecond;
constexpr TimeNs kNapMaxNs = kMillisecond;

struct FreeConfig {
  void operator()(ucp_config_t* config) const { ucp_config_release(config); }
};
using Config = std::unique_ptr<ucp_config_t, FreeConfig>;

struct Setting {
  const char* key;
  const char* value;
};

// Transport settings are named as in their own tables (UCX_POSIX_ERROR_HANDLING is
// MM_ERROR_HANDLING there); UCX ignores an unknown one silently, so tests assert the effects.
constexpr Setting kSettings[] = {
    // Without these two, mode PEER leaves only TCP lanes, silently.
    {"MM_ERROR_HANDLING", "y"},
    {"MEMORY_INVALIDATE", "y"},
    // Only TCP can connect by address here; data then moves over the other lanes.
    {"SOCKADDR_TLS_PRIORITY", "tcp"},
    // The default of 20 s is how long a killed peer can go unnoticed over posix.
    {"KEEPALIVE_INTERVAL", "1s"},
    // The receiver pulls, so the sender's processor is free and the receiver decides.
    {"RNDV_SCHEME", "get_zcopy"},
    // A zero-copy message posted while the endpoint still connects aborts the process once the
    // shared memory lane takes over ("max_iov > 1"). Payloads (rendezvous) are not concerned.
    {"ZCOPY_THRESH", "inf"},
    // TCP moves a payload in pieces of this size, a system call each on both sides; at the default
    // of 8 KiB that costs two thirds of the rate (measured over loopback; 1 MiB adds nothing).
    {"TX_SEG_SIZE", "512k"},
    {"RX_SEG_SIZE", "512k"},
    // A restarted node binds its old port at once.
    {"CM_REUSEADDR", "y"},
};

StatusOr<Config> MakeConfig(const UcxContextOptions& options) {
  ucp_config_t* raw = nullptr;
  // The host's UCX_* variables fill in what is not set below.
  const ucs_status_t read = ucp_config_read("REPRISE", nullptr, &raw);
  if (read != UCS_OK) return StatusFromUcs(read, "reading the UCX configuration");
  Config config(raw);
  const auto modify = [&](const char* key, const char* value) {
    return StatusFromUcs(ucp_config_modify(config.get(), key, value),
                         absl::StrCat("setting UCX ", key, "=", value));
  };
  for (const Setting& setting : kSettings) RETURN_IF_ERROR(modify(setting.key, setting.value));
  RETURN_IF_ERROR(modify("TLS", options.shared_memory ? "posix,cma,tcp,self" : "tcp,self"));
  RETURN_IF_ERROR(modify("NET_DEVICES", options.devices.c_str()));
  return config;
}

// UCX logs to standard output and takes over fatal signals; both belong to the program.
void QuietenUcx() {
  ucs_global_opts_set_value("LOG_LEVEL", "fatal");
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) ucs_debug_disable_signal(signal);
  RestoreCrashReport();
}

// UCX 1.13.1 may assert, or find freed memory, when a worker is destroyed: after somebody was
// connecting to it, and when another worker of the process has got a descriptor that was this
// one's. So what is left of it (descriptors, some memory, no endpoint) stays until the process
// ends, which in a role is about now. A process that makes more of them, as tests do, has few
// descriptors left after a while: then those that nobody was connecting to are destroyed. True: it
// stays.
bool LeaveToTheProcess(ucp_context_h context, ucp_worker_h worker, bool disturbed) {
  constexpr size_t kLeft = 16;
  static Mutex mu;
  static auto* const left = new std::vector<std::pair<ucp_context_h, ucp_worker_h>>;
  MutexLock lock(mu);
  if (!disturbed && left->size() >= kLeft) return false;
  left->emplace_back(context, worker);
  return true;
}

}  // namespace

struct UcxContext::Mappings {
  Mutex mu;
  std::vector<ucp_mem_h> handles GUARDED_BY(mu);
};

Status StatusFromUcs(ucs_status_t status, absl::string_view what) {
  if (status == UCS_OK) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", ucs_status_string(status));
  switch (status) {
    case UCS_ERR_CANCELED:
      return absl::CancelledError(message);
    case UCS_ERR_REJECTED:
      return absl::AbortedError(message);
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
      return absl::InvalidArgumentError(message);
    default:
      return absl::UnavailableError(message);
  }
}

StatusOr<SocketAddress> ParseSocketAddress(const std::string& host, int port) {
  if (port < 0 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("port ", port, " is not in [0, 65535]"));
  }
  SocketAddress address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    address.length = sizeof(sockaddr_in);
  } else if (inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    address.length = sizeof(sockaddr_in6);
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("a numeric address is needed, found \"", host, "\""));
  }
  return address;
}

StatusOr<std::unique_ptr<UcxContext>> UcxContext::Create(const UcxContextOptions& options) {
  QuietenUcx();
  ASSIGN_OR_RETURN(Config config, MakeConfig(options));
  std::unique_ptr<UcxContext> context(new UcxContext);
  context->mappings_ = std::make_unique<Mappings>();

  ucp_params_t params{};
  params.field_mask =
      UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.name = "reprise-kv";
  params.mt_workers_shared = 1;  // Map runs beside the progress thread
  ucs_status_t status = ucp_init(&params, config.get(), &context->context_);
  if (status != UCS_OK) {
    context->context_ = nullptr;
    return StatusFromUcs(status, absl::StrCat("opening UCX on devices ", options.devices));
  }
  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SINGLE;
  status = ucp_worker_create(context->context_, &worker_params, &context->worker_);
  if (status != UCS_OK) {
    context->worker_ = nullptr;
    return StatusFromUcs(status, "creating the UCX worker");
  }
  status = ucp_worker_get_efd(context->worker_, &context->event_fd_);
  if (status != UCS_OK) return StatusFromUcs(status, "event descriptor of the UCX worker");
  return context;
}

UcxContext::~UcxContext() {
  if (mappings_ != nullptr) {
    MutexLock lock(mappings_->mu);
    for (ucp_mem_h handle : mappings_->handles) ucp_mem_unmap(context_, handle);
  }
  if (worker_ != nullptr) {
    if (LeaveToTheProcess(context_, worker_, disturbed_)) return;
    ucp_worker_destroy(worker_);
  }
  if (context_ != nullptr) ucp_cleanup(context_);
}

void UcxContext::Sleep(TimeNs timeout_ns) {
  if (timeout_ns <= 0) return;
  timeout_ns = std::min(timeout_ns, kMinute);
  pollfd waited = {.fd = event_fd_, .events = POLLIN, .revents = 0};
  nfds_t descriptors = 1;
  if (ucp_worker_arm(worker_) == UCS_OK) {
    fruitless_ = 0;
  } else {
    // Over shared memory arming is refused as long as a message waits for room at a peer, which is
    // for ever when that peer is frozen.
    if (++fruitless_ <= kFruitlessMax) return;
    descriptors = 0;
    timeout_ns =
        std::min(timeout_ns, std::min(kNapMinNs << (fruitless_ - kFruitlessMax), kNapMaxNs));
    fruitless_ = std::min(fruitless_, kFruitlessMax + 10);
  }
  const timespec timeout = {.tv_sec = timeout_ns / kSecond, .tv_nsec = timeout_ns % kSecond};
  ppoll(&waited, descriptors, &timeout, nullptr);  // an early return is harmless
}

Status UcxContext::Map(void* base, size_t bytes) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = base;
  params.length = bytes;
  ucp_mem_h handle = nullptr;
  RETURN_IF_ERROR(StatusFromUcs(ucp_mem_map(context_, &params, &handle),
                                absl::StrCat("registering ", bytes, " bytes")));
  MutexLock lock(mappings_->mu);
  mappings_->handles.push_back(handle);
  return absl::OkStatus();
}

}  // namespace reprise::kv
