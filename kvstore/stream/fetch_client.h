// The fetching side of one lane: asks sources for blocks, says where payloads go, verifies them in
// place and announces layers. Owned by the lane; one thread.
//
// Invariants:
// 1. A fetch ends (OnDone) only when no receive into its destinations is outstanding and either
//    every item is settled, or its source has said that it posts no more, or the link is closed.
// 2. A payload is accepted only for the next layers of an unsettled item of a running fetch, from
//    the very connection the fetch was sent on.
// 3. Layers that are contiguous in their destination are received there. Of others, cut by heads, a
//    run is staged, and its one pass into the destination is the one that verifies it.
#ifndef REPRISE_KVSTORE_STREAM_FETCH_CLIENT_H_
#define REPRISE_KVSTORE_STREAM_FETCH_CLIENT_H_

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/lane_context.h"
#include "kvstore/stream/part_copy.h"
#include "kvstore/stream/peer_links.h"
#include "kvstore/stream/rows_pool.h"

namespace reprise::kv {

// Of the memory for staged runs, kept for the next ones.
inline constexpr size_t kStagingIdleBytesMax = size_t{16} << 20;

class FetchClient final : private PeerLinks::User {
 public:
  explicit FetchClient(const LaneContext& context)
      : context_(context), links_(context, this, PeerLinks::Formats::kConvertible) {}

  // The spec is valid and names its part.
  void Start(FetchHandle handle, FetchSpec spec, std::shared_ptr<FetchListener> listener,
             TimeNs deadline_ns);
  void Cancel(FetchHandle handle);
  void CancelAll();
  // By force: fetches end as soon as their receives have.
  void CloseLinks();
  bool idle() const { return fetches_.empty(); }

  void OnMessage(EndpointId endpoint, const wire::Envelope& envelope);
  void OnMalformed(EndpointId endpoint, const Status& status);
  Sink OnBulk(EndpointId endpoint, const wire::Bulk& bulk, size_t bytes);
  void OnFailed(EndpointId endpoint, const Status& status);
  StatusOr<std::string> DescribeLanes(const NodeKey& peer);

 private:
  struct Item {
    uint32_t layers_started = 0;    // receives posted for layers below
    uint32_t layers_announced = 0;  // verified and told
    bool settled = false;
    Status status;
    // Verified, but layers before them are not yet: by first layer.
    std::vector<std::pair<uint32_t, std::vector<uint32_t>>> early;
  };
  struct Fetch {
    Fetch(FetchSpec s, const KvFormat& format)
        : spec(std::move(s)), view(format, spec.into.value_or(*spec.part), *spec.part) {}
    FetchHandle handle = 0;
    const FetchSpec spec;
    const PartView view;                // of the destinations
    std::optional<PartCopier> scatter;  // unless the view is direct
    std::shared_ptr<FetchListener> listener;
    PeerLink* link = nullptr;
    TimeNs deadline_ns = 0;
    TimerQueue::Id timer{};  // the deadline, then that of the cancel's acknowledgement
    std::vector<Item> items;
    size_t unsettled = 0;
    size_t outstanding = 0;       // receives
    bool sent = false;            // the source knows of it
    std::optional<Status> ended;  // why, when it ends before every item is settled
    bool source_quiet = false;    // the source posts no more
  };

  void OnLinkUp(PeerLink& link) override;
  void OnLinkDown(PeerLink& link, const Status& status) override;

  void SendFetch(Fetch& fetch);
  void End(Fetch& fetch, const Status& status);
  void Settle(Fetch& fetch, size_t item, Status status);
  using Staged = std::shared_ptr<RowsPool::Rows>;  // shared with the receive's completion

  uint8_t* Destination(const Fetch& fetch, uint32_t item, uint32_t layer) const {
    return fetch.spec.items[item].destination + fetch.view.SegmentAt(layer);
  }
  // Both may destroy the fetch.
  void FinishIfQuiet(Fetch& fetch);
  void OnReceived(FetchHandle handle, const wire::Bulk& bulk, const Staged& staged,
                  const Status& status);
  void Verify(Fetch& fetch, const wire::Bulk& bulk, const Staged& staged);
  void Announce(Fetch& fetch, const wire::Bulk& bulk, std::vector<uint32_t> checksums);
  static bool Fits(const Fetch& fetch, const wire::Bulk& bulk, size_t bytes);
  Fetch* Find(FetchHandle handle, const PeerLink* link);
  void Handle(PeerLink& link, const wire::ItemsMissing& message);
  void Handle(PeerLink& link, const wire::FetchDone& message);
  void Handle(PeerLink& link, const wire::CancelAck& message);

  const LaneContext& context_;
  PeerLinks links_;
  std::unordered_map<FetchHandle, std::unique_ptr<Fetch>> fetches_;
  const std::shared_ptr<RowsPool> staging_ = std::make_shared<RowsPool>(kStagingIdleBytesMax);
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_STREAM_FETCH_CLIENT_H_
