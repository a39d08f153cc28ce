// The kvstore role: holds blocks in a memory arena and a disk file, subscribes to what workers
// offer, keeps the replica tails they append to, serves any peer, and tells the coordinator what it
// holds. A thin shell around StoreCore.
//
// Threads: the stream's threads call in as SegmentSource, TailSink and FetchListener; a `disk_io`
// thread writes and loads; a `reaper` releases what nobody owns; a reporter reports. All core state
// is under one mutex, held for bookkeeping only: no byte of a block is copied under it.
//
// Invariants:
// 1. Bytes of a slot are touched only by the use StoreCore granted: one fetch, one write of
//    appended rows, pinned readers, or one disk operation.
// 2. Ready means the model's format is known, the arena is mapped and a block has made the round
//    trip through this node's own stream.
#ifndef REPRISE_KVSTORE_NODE_STORE_SERVER_H_
#define REPRISE_KVSTORE_NODE_STORE_SERVER_H_

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/bounded_queue.h"
#include "common/mapped_memory.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/status.h"
#include "common/thread.h"
#include "coordinator/client/reporter.h"
#include "kvstore/node/store_core.h"
#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/stream_in.h"
#include "kvstore/stream/tail_pack.h"
#include "kvstore/tier/disk_file.h"

namespace reprise::kv {

struct StoreOptions {
  std::string name = "store";
  std::string coordinator;                // host:port
  std::string listen = "127.0.0.1:0";     // gRPC: health, reflection
  std::string kv_listen = "127.0.0.1:0";  // KV stream
  std::string metrics_listen = "127.0.0.1:0";
  std::string failure_domain;
  int64_t memory_bytes = int64_t{256} << 20;
  std::string disk_path;  // empty: no disk tier
  int64_t disk_bytes = int64_t{1} << 30;
  std::string devices = "lo";
  bool shared_memory = true;
  std::string model;  // empty: the cluster's only one
  // Replicas of a request whose owner's connection is gone are let go after this.
  TimeNs orphan_ns = 30 * kSecond;
};

class StoreServer : public SegmentSource, public TailSink {
 public:
  // `self` is this process's identity, `model` the cluster's. `clock` outlives the server.
  static StatusOr<std::unique_ptr<StoreServer>> Start(const StoreOptions& options,
                                                      const NodeKey& self,
                                                      const v1::ModelInfo& model,
                                                      MetricsRegistry* metrics,
                                                      const Clock& clock = RealClock());
  ~StoreServer() override;

  PeerAddress kv_address() const { return stream_->address(); }
  // The report to coordinator number `index` of options.coordinator.
  void FillReport(v1::ReportRequest* request, size_t index = 0);
  // True: report to it again at once.
  bool OnReportAnswer(const v1::ReportResponse& response, size_t index = 0);

  // Of all slots, for tests that damage it.
  std::span<uint8_t> memory_for_testing() const;

  Block Find(const BlockId& id) override;

  std::vector<HeldRows> OnAppend(const NodeKey& from, std::span<const TailEntry> entries,
                                 std::span<const uint8_t> rows) override;
  void OnRelease(const NodeKey& from, const RequestKey& request) override;
  StatusOr<std::vector<TailState>> OnQuery(const NodeKey& from, const RequestKey& request) override;
  void OnFence(const RequestKey& request) override;
  void OnPeerLost(const NodeKey& peer) override;

 private:
  class Listener;
  struct DiskJob {
    std::variant<WriteDisk, LoadDisk, ForgetDisk> work;
  };

  StoreServer(const StoreOptions& options, const KvFormat& format, const Clock& clock);
  Status OpenTiers();
  StoreCoreOptions CoreOptions() const;
  Status OpenStream(const StoreOptions& options, const NodeKey& self);
  void RestoreFromDisk();
  void AddMetrics(MetricsRegistry* metrics);
  void AddReplicaMetrics(MetricsRegistry* metrics);
  void OnOffer(BlockOffer offer);
  void OnLayer(uint64_t fetch, size_t item, uint32_t layer, uint32_t checksum);
  void OnFetchDone(uint64_t fetch, const std::vector<Status>& items);
  void Unpin(uint64_t pin);
  // What the core wants done: taken under the lock, carried out without it.
  struct Effects {
    std::vector<StoreCommand> commands;
    std::vector<ToldHeld> told;
  };
  Effects TakeEffects() REQUIRES(mu_);
  void Run(Effects effects);
  void RunCommands(std::vector<StoreCommand> commands);
  void TellOwners(std::vector<ToldHeld> told);
  struct PlannedEntry {
    size_t entry = 0;
    StoreCore::AppendPlan plan;
    Status status;
    std::vector<uint32_t> parts;  // of the rows written
  };
  // Plans entries from `*next` on that can be written side by side; answers the others.
  std::vector<PlannedEntry> PlanEntries(const NodeKey& from, std::span<const TailEntry> entries,
                                        size_t* next, std::vector<HeldRows>* held);
  void WriteRows(const TailEntry& entry, std::span<const uint8_t> rows, PlannedEntry* planned);
  void TakeEntries(const std::vector<PlannedEntry>& planned, std::vector<HeldRows>* held);
  void ReapLoop();
  void StartFetch(const StartStoreFetch& fetch);
  void CancelFetch(const CancelStoreFetch& cancel);
  void DiskLoop();
  void DoDisk(DiskJob job);
  Status DoWrite(const WriteDisk& write);
  int64_t DiskAgeMs() const;  // of the disk operation that runs
  uint8_t* SlotData(Slot slot) const;
  std::span<uint8_t> SlotSpan(Slot slot) const { return {SlotData(slot), format_.block_bytes()}; }

  const StoreOptions options_;
  const KvFormat format_;
  const Digest256 digest_;
  const TailUnpacker unpacker_;
  const Clock& clock_;
  MappedMemory arena_;
  std::unique_ptr<DiskFile> disk_;
  std::string disk_replaced_;

  mutable Mutex mu_;
  std::optional<StoreCore> core_ GUARDED_BY(mu_);
  std::deque<EventReporter> reporters_ GUARDED_BY(mu_);  // by coordinator
  // Addresses of offering nodes, by identity, so that a fetch command can be carried out.
  // Who offered, with the group it belongs to, or as one of one.
  std::map<NodeKey, RankGroup> peers_ GUARDED_BY(mu_);
  // The core's fetches, at the stream.
  std::map<uint64_t, std::shared_ptr<StreamIn>> running_ GUARDED_BY(mu_);
  bool stopping_ GUARDED_BY(mu_) = false;
  CondVar stop_;

  std::atomic<TimeNs> disk_busy_since_ns_{0};  // 0: no operation runs
  std::unique_ptr<BoundedQueue<DiskJob>> disk_jobs_;
  std::unique_ptr<KvStream> owned_stream_;  // destroyed before the core and arena it uses
  KvStream* stream_ = nullptr;  // the same: its last calls back still use it while it ends
  Thread disk_thread_;
  Thread reaper_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_NODE_STORE_SERVER_H_
