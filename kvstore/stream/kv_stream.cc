#include "kvstore/stream/kv_stream.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "common/limits.h"
#include "common/mutex.h"
#include "kvstore/stream/stream_lane.h"
#include "kvstore/stream/stream_over.h"
#include "kvstore/transport/ucx_transport.h"

namespace reprise::kv {
namespace {

// A lane pulls on its own core, then verifies what it pulled while it is still in that core's
// cache; with two, one lane's checksum overlaps the other's transfer. Measured with 1 MiB runs
// from memory over CMA: one puller and one verifier thread reach 0.7 of two such lanes.
constexpr size_t kLanes = 2;
// A fetch smaller than this is not worth a second lane.
constexpr size_t kSplitBytesMin = size_t{1} << 20;

// Joins the parts of a fetch that two or more lanes carry. The lanes hand their events to the first
// lane's loop, so the listener hears one call at a time.
class SplitFetch {
 public:
  SplitFetch(std::shared_ptr<FetchListener> listener, Transport* home, size_t items, size_t parts)
      : listener_(std::move(listener)), home_(home), statuses_(items), parts_left_(parts) {}

  class Part : public FetchListener {
   public:
    Part(std::shared_ptr<SplitFetch> whole, std::vector<size_t> items)
        : whole_(std::move(whole)), items_(std::move(items)) {}
    void OnLayer(size_t item, uint32_t layer, uint32_t checksum) override {
      whole_->home_->Post([whole = whole_, index = items_[item], layer, checksum] {
        whole->listener_->OnLayer(index, layer, checksum);
      });
    }
    void OnDone(const std::vector<Status>& statuses) override {
      whole_->home_->Post([whole = whole_, items = items_, statuses] {
        for (size_t i = 0; i < items.size(); ++i) whole->statuses_[items[i]] = statuses[i];
        if (--whole->parts_left_ == 0) whole->listener_->OnDone(whole->statuses_);
      });
    }

   private:
    const std::shared_ptr<SplitFetch> whole_;
    const std::vector<size_t> items_;
  };

 private:
  const std::shared_ptr<FetchListener> listener_;
  Transport* const home_;
  std::vector<Status> statuses_;  // with parts_left_: the home loop's
  size_t parts_left_;
};

class KvStreamImpl final : public KvStream {
 public:
  KvStreamImpl(std::vector<std::unique_ptr<Transport>> transports, const StreamOptions& options,
               SegmentSource* source, TailSink* tails);
  ~KvStreamImpl() override;

  PeerAddress address() const override { return address_; }
  Status Register(void* base, size_t bytes) override;
  StatusOr<FetchHandle> Fetch(FetchSpec spec, std::shared_ptr<FetchListener> listener) override;
  void CancelFetch(FetchHandle fetch) override;
  void Publish(const BlockId& id, uint32_t layers_ready, std::vector<uint32_t> checksums) override;
  void Withdraw(const BlockId& id) override;
  void Offer(const PeerAddress& peer, BlockOffer offer) override;
  void OnOffer(std::function<void(BlockOffer)> handler) override;
  void Append(const PeerAddress& store, TailAppend append) override;
  void Release(const PeerAddress& store, const RequestKey& request) override;
  void QueryTails(const PeerAddress& store, const RequestKey& request, TimeNs timeout_ns,
                  std::function<void(const Status&, std::vector<TailState>)> done) override;
  void OnHeld(std::function<void(const NodeKey&, std::vector<HeldRows>)> handler) override;
  void OnReplicaLost(std::function<void(const NodeKey&, const Status&)> handler) override;
  void TellHeld(const NodeKey& owner, std::vector<HeldRows> held) override;
  void Probe(const PeerAddress& peer, TimeNs timeout_ns,
             std::function<void(const Status&)> done) override;
  void FenceRequest(const RequestKey& request) override;
  StreamStats stats() const override;
  StatusOr<std::string> DescribeLanes(const NodeKey& peer) const override;

 private:
  struct Lane {
    std::unique_ptr<Transport> transport;
    std::unique_ptr<StreamLane> logic;
  };

  // Of a spec that names its part.
  Status Validate(const FetchSpec& spec) const;
  size_t BlockBytes(const FetchSpec& spec) const;  // that are fetched of each
  void StartPart(size_t lane, FetchHandle handle, FetchSpec spec,
                 std::shared_ptr<FetchListener> listener);
  // On the lane that listens, which also carries all replication.
  void OnServer(std::function<void(FetchServer&)> function);
  void OnReplicas(std::function<void(ReplicaClient&)> function);

  const KvFormat format_;
  const KvPart part_;
  PeerAddress address_;
  StreamCounters counters_;
  std::vector<Lane> lanes_;
  std::atomic<FetchHandle> last_handle_{0};
};

KvStreamImpl::KvStreamImpl(std::vector<std::unique_ptr<Transport>> transports,
                           const StreamOptions& options, SegmentSource* source, TailSink* tails)
    : format_(options.format), part_(options.part.value_or(WholePart(options.format))) {
  const KvFormat held = FormatOfPart(format_, part_);
  address_ = {options.self, options.listen_host, transports.front()->port()};
  for (auto& transport : transports) {
    const LaneContext context{.self = options.self,
                              .format = format_,
                              .format_text = format_.CanonicalText(),
                              .convert_codecs = options.convert_codecs,
                              .part = part_,
                              .segment_bytes = held.segment_bytes(),
                              .layers = held.layers,
                              .block_tokens = format_.block_tokens,
                              .transport = transport.get(),
                              .counters = &counters_};
    std::optional<StreamLane::ServerRole> server;
    if (lanes_.empty()) {
      server = {.options = {.inflight_bytes_max = options.inflight_bytes_max,
                            .throttle_bytes_per_s = options.throttle_bytes_per_s},
                .source = source,
                .tails = tails};
    }
    auto logic = std::make_unique<StreamLane>(context, server);
    lanes_.push_back({std::move(transport), std::move(logic)});
  }
  for (Lane& lane : lanes_) lane.transport->Start(lane.logic.get());
}

KvStreamImpl::~KvStreamImpl() {
  // The home lane last: parts of split fetches end there.
  for (auto lane = lanes_.rbegin(); lane != lanes_.rend(); ++lane) {
    lane->transport->Stop([logic = lane->logic.get()] { return logic->Quiet(); });
  }
}

Status KvStreamImpl::Register(void* base, size_t bytes) {
  for (Lane& lane : lanes_) RETURN_IF_ERROR(lane.transport->Register(base, bytes));
  return absl::OkStatus();
}

Status KvStreamImpl::Validate(const FetchSpec& spec) const {
  if (spec.items.empty() || spec.items.size() > limits::kFetchItemsMax) {
    return absl::InvalidArgumentError(absl::StrCat("a fetch has 1 to ", limits::kFetchItemsMax,
                                                   " items, found ", spec.items.size()));
  }
  if (spec.timeout_ns <= 0) return absl::InvalidArgumentError("a fetch needs a positive timeout");
  if (spec.fence.request.id.size() > limits::kRequestIdBytesMax ||
      spec.source.key.name.size() > limits::kNodeNameBytesMax) {
    return absl::InvalidArgumentError("a fetch names a request or node with too long a name");
  }
  const KvFormat& format = spec.format != nullptr ? *spec.format : format_;
  RETURN_IF_ERROR(ValidateFormat(format));
  RETURN_IF_ERROR(CheckPart(format, *spec.part));
  if (spec.into.has_value()) {
    RETURN_IF_ERROR(CheckPart(format, *spec.into));
    if (!spec.into->Contains(*spec.part)) {
      return absl::InvalidArgumentError(absl::StrCat("destinations of ", spec.into->ToString(),
                                                     " have no room for ", spec.part->ToString()));
    }
  }
  for (const FetchItem& item : spec.items) {
    if (item.destination == nullptr || item.first_position < 0) {
      return absl::InvalidArgumentError("an item lacks a destination or has a negative position");
    }
  }
  return absl::OkStatus();
}

size_t KvStreamImpl::BlockBytes(const FetchSpec& spec) const {
  const KvFormat& format = spec.format != nullptr ? *spec.format : format_;
  return FormatOfPart(format, *spec.part).block_bytes();
}

void KvStreamImpl::StartPart(size_t index, FetchHandle handle, FetchSpec spec,
                             std::shared_ptr<FetchListener> listener) {
  Lane& lane = lanes_[index];
  const TimeNs now_ns = lane.transport->NowNs();
  const TimeNs deadline_ns =
      spec.timeout_ns > INT64_MAX - now_ns ? INT64_MAX - 1 : now_ns + spec.timeout_ns;
  lane.transport->Post([logic = lane.logic.get(), handle, spec = std::move(spec),
                        listener = std::move(listener), deadline_ns]() mutable {
    logic->client().Start(handle, std::move(spec), std::move(listener), deadline_ns);
  });
}

StatusOr<FetchHandle> KvStreamImpl::Fetch(FetchSpec spec, std::shared_ptr<FetchListener> listener) {
  if (!spec.part.has_value()) spec.part = part_;
  RETURN_IF_ERROR(Validate(spec));
  const FetchHandle handle = ++last_handle_;
  const size_t lanes = std::min(lanes_.size(), spec.items.size());
  if (lanes == 1 || spec.items.size() * BlockBytes(spec) < kSplitBytesMin) {
    StartPart(handle % lanes_.size(), handle, std::move(spec), std::move(listener));
    return handle;
  }
  auto whole = std::make_shared<SplitFetch>(std::move(listener), lanes_.front().transport.get(),
                                            spec.items.size(), lanes);
  const std::vector<FetchItem> items = std::exchange(spec.items, {});
  for (size_t lane = 0; lane < lanes; ++lane) {
    FetchSpec part = spec;
    std::vector<size_t> indices;
    for (size_t i = lane; i < items.size(); i += lanes) {
      part.items.push_back(items[i]);
      indices.push_back(i);
    }
    StartPart(lane, handle, std::move(part),
              std::make_shared<SplitFetch::Part>(whole, std::move(indices)));
  }
  return handle;
}

void KvStreamImpl::CancelFetch(FetchHandle fetch) {
  for (Lane& lane : lanes_) {
    lane.transport->Post([logic = lane.logic.get(), fetch] { logic->client().Cancel(fetch); });
  }
}

void KvStreamImpl::OnServer(std::function<void(FetchServer&)> function) {
  Lane& lane = lanes_.front();
  lane.transport->Post(
      [logic = lane.logic.get(), function = std::move(function)] { function(*logic->server()); });
}

void KvStreamImpl::Publish(const BlockId& id, uint32_t layers_ready,
                           std::vector<uint32_t> checksums) {
  OnServer([id, layers_ready, checksums = std::move(checksums)](FetchServer& server) {
    server.Publish(id, layers_ready, checksums);
  });
}

void KvStreamImpl::Withdraw(const BlockId& id) {
  OnServer([=](FetchServer& server) { server.Withdraw(id); });
}

void KvStreamImpl::OnOffer(std::function<void(BlockOffer)> handler) {
  OnServer([=](FetchServer& server) { server.SetOfferHandler(handler); });
}

void KvStreamImpl::FenceRequest(const RequestKey& request) {
  OnServer([=](FetchServer& server) { server.FenceRequest(request); });
}

// ---- Replication. ----

void KvStreamImpl::OnReplicas(std::function<void(ReplicaClient&)> function) {
  Lane& lane = lanes_.front();
  lane.transport->Post(
      [logic = lane.logic.get(), function = std::move(function)] { function(logic->replicas()); });
}

void KvStreamImpl::Offer(const PeerAddress& peer, BlockOffer offer) {
  OnReplicas([peer, offer = std::move(offer)](ReplicaClient& client) mutable {
    client.Offer(peer, std::move(offer));
  });
}

void KvStreamImpl::Append(const PeerAddress& store, TailAppend append) {
  OnReplicas([store, append = std::move(append)](ReplicaClient& client) mutable {
    client.Append(store, std::move(append));
  });
}

void KvStreamImpl::Release(const PeerAddress& store, const RequestKey& request) {
  OnReplicas([store, request](ReplicaClient& client) { client.Release(store, request); });
}

void KvStreamImpl::QueryTails(const PeerAddress& store, const RequestKey& request,
                              TimeNs timeout_ns,
                              std::function<void(const Status&, std::vector<TailState>)> done) {
  const TimeNs deadline_ns = lanes_.front().transport->NowNs() + timeout_ns;
  OnReplicas([=, done = std::move(done)](ReplicaClient& client) mutable {
    client.Query(store, request, deadline_ns, std::move(done));
  });
}

void KvStreamImpl::OnHeld(std::function<void(const NodeKey&, std::vector<HeldRows>)> handler) {
  OnReplicas([handler = std::move(handler)](ReplicaClient& client) mutable {
    client.SetHeldHandler(std::move(handler));
  });
}

void KvStreamImpl::OnReplicaLost(std::function<void(const NodeKey&, const Status&)> handler) {
  OnReplicas([handler = std::move(handler)](ReplicaClient& client) mutable {
    client.SetLostHandler(std::move(handler));
  });
}

void KvStreamImpl::TellHeld(const NodeKey& owner, std::vector<HeldRows> held) {
  OnServer([owner, held = std::move(held)](FetchServer& server) mutable {
    server.replicas().TellHeld(owner, std::move(held));
  });
}

// ---- Probes. ----

// Holds the memory of a probe until nothing writes to it any more.
class ProbeListener : public FetchListener {
 public:
  ProbeListener(size_t bytes, std::function<void(const Status&)> done)
      : memory(bytes), done_(std::move(done)) {}
  void OnLayer(size_t, uint32_t, uint32_t) override {}
  void OnDone(const std::vector<Status>& items) override { done_(items.front()); }

  std::vector<uint8_t> memory;

 private:
  const std::function<void(const Status&)> done_;
};

void KvStreamImpl::Probe(const PeerAddress& peer, TimeNs timeout_ns,
                         std::function<void(const Status&)> done) {
  auto listener =
      std::make_shared<ProbeListener>(FormatOfPart(format_, part_).block_bytes(), std::move(done));
  FetchSpec spec{.source = peer, .timeout_ns = timeout_ns};
  spec.items.push_back({ProbeId(peer.key.incarnation), 0, listener->memory.data()});
  const auto started = Fetch(std::move(spec), listener);
  if (started.ok()) return;
  lanes_.front().transport->Post(
      [listener, status = started.status()] { listener->OnDone({status}); });
}

StreamStats KvStreamImpl::stats() const {
  const auto get = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  return {.bytes_sent = get(counters_.bytes_sent),
          .bytes_received = get(counters_.bytes_received),
          .segments_sent = get(counters_.segments_sent),
          .segments_received = get(counters_.segments_received),
          .checksum_failures = get(counters_.checksum_failures),
          .stale_refused = get(counters_.stale_refused),
          .malformed_refused = get(counters_.malformed_refused),
          .fetches_failed = get(counters_.fetches_failed),
          .peers = get(counters_.peers),
          .posted_bytes = get(counters_.posted_bytes),
          .appends_sent = get(counters_.appends_sent),
          .append_bytes_sent = get(counters_.append_bytes_sent),
          .append_posted_bytes = get(counters_.append_posted_bytes),
          .appends_received = get(counters_.appends_received),
          .append_bytes_received = get(counters_.append_bytes_received),
          .append_staged_bytes = get(counters_.append_staged_bytes),
          .replicas_lost = get(counters_.replicas_lost)};
}

StatusOr<std::string> KvStreamImpl::DescribeLanes(const NodeKey& peer) const {
  struct Answer {
    Mutex mu;
    CondVar came;
    std::optional<StatusOr<std::string>> text GUARDED_BY(mu);
  };
  StatusOr<std::string> last = absl::NotFoundError("no lanes");
  for (const Lane& lane : lanes_) {
    const auto answer = std::make_shared<Answer>();
    lane.transport->Post([logic = lane.logic.get(), answer, peer] {
      StatusOr<std::string> text = logic->client().DescribeLanes(peer);
      MutexLock lock(answer->mu);
      answer->text = std::move(text);
      answer->came.NotifyAll();
    });
    MutexLock lock(answer->mu);
    while (!answer->text.has_value()) answer->came.Wait(answer->mu);
    last = *answer->text;
    if (last.ok()) break;
  }
  return last;
}

}  // namespace

std::unique_ptr<KvStream> StreamOver(std::vector<std::unique_ptr<Transport>> transports,
                                     const StreamOptions& options, SegmentSource* source,
                                     TailSink* tails) {
  return std::make_unique<KvStreamImpl>(std::move(transports), options, source, tails);
}

StatusOr<std::unique_ptr<KvStream>> KvStream::Create(const StreamOptions& options,
                                                     SegmentSource* source, TailSink* tails) {
  RETURN_IF_ERROR(ValidateFormat(options.format));
  if (options.part.has_value()) RETURN_IF_ERROR(CheckPart(options.format, *options.part));
  if (options.self.incarnation == 0) {
    return absl::InvalidArgumentError("a stream needs an incarnation other than zero");
  }
  std::vector<std::unique_ptr<Transport>> transports;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    ASSIGN_OR_RETURN(auto transport,
                     CreateUcxTransport({.devices = options.devices,
                                         .shared_memory = options.shared_memory,
                                         .listen = lane == 0,
                                         .host = options.listen_host,
                                         .port = options.listen_port,
                                         .thread_name = absl::StrCat("kv-stream-", lane)}));
    transports.push_back(std::move(transport));
  }
  return StreamOver(std::move(transports), options, source, tails);
}

}  // namespace reprise::kv
