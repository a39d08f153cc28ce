// The kvstore role: holds blocks in a memory arena and a disk file, subscribes to what workers
// offer, serves any peer, and tells the coordinator what it holds. A thin shell around StoreCore.
//
// Threads: the stream's threads call in as SegmentSource and FetchListener; `disk_io` threads write
// and load; a reporter reports. All core state is under one mutex, held for bookkeeping only.
//
// Invariants:
// 1. Bytes of a slot are touched only by the use StoreCore granted: one fetch, pinned readers, or
//    one disk operation.
// 2. Ready means the model's format is known, the arena is mapped and a block has made the round
//    trip through this node's own stream.
#ifndef REPRISE_KVSTORE_NODE_STORE_SERVER_H_
#define REPRISE_KVSTORE_NODE_STORE_SERVER_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/bounded_queue.h"
#include "common/metrics.h"
#include "common/mutex.h"
#include "common/status.h"
#include "common/thread.h"
#include "coordinator/client/reporter.h"
#include "kvstore/node/store_core.h"
#include "kvstore/stream/kv_stream.h"
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
};

class StoreServer : public SegmentSource {
 public:
  // `self` is this process's identity, `format` and `model` the cluster's.
  static StatusOr<std::unique_ptr<StoreServer>> Start(const StoreOptions& options,
                                                      const NodeKey& self,
                                                      const v1::ModelInfo& model,
                                                      MetricsRegistry* metrics);
  ~StoreServer() override;

  PeerAddress kv_address() const { return stream_->address(); }
  void FillReport(v1::ReportRequest* request);
  void OnReportAnswer(const v1::ReportResponse& response);
  void SetWaker(std::function<void()> wake);

  Block Find(const BlockId& id) override;

 private:
  struct Arena;
  class Listener;
  struct DiskJob {
    std::variant<WriteDisk, LoadDisk, ForgetDisk> work;
  };

  StoreServer(const StoreOptions& options, const KvFormat& format);
  Status OpenTiers();
  StoreCoreOptions CoreOptions() const;
  Status OpenStream(const StoreOptions& options, const NodeKey& self);
  void RestoreFromDisk();
  void AddMetrics(MetricsRegistry* metrics);
  void OnOffer(BlockOffer offer);
  void OnLayer(uint64_t fetch, size_t item, uint32_t layer, uint32_t checksum);
  void OnFetchDone(uint64_t fetch, const std::vector<Status>& items);
  void Unpin(uint64_t pin);
  // Takes the core's commands under the lock and carries them out without it.
  void Run(std::vector<StoreCommand> commands);
  void StartFetch(const StartStoreFetch& fetch);
  void DiskLoop();
  void DoDisk(const DiskJob& job);
  uint8_t* SlotData(Slot slot) const;

  const StoreOptions options_;
  const KvFormat format_;
  const Digest256 digest_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<DiskFile> disk_;
  std::string disk_replaced_;

  mutable Mutex mu_;
  std::optional<StoreCore> core_ GUARDED_BY(mu_);
  std::optional<EventReporter> reporter_ GUARDED_BY(mu_);
  // Addresses of offering nodes, by identity, so that a fetch command can be carried out.
  std::map<NodeKey, PeerAddress> peers_ GUARDED_BY(mu_);
  std::function<void()> wake_ GUARDED_BY(mu_);

  std::unique_ptr<BoundedQueue<DiskJob>> disk_jobs_;
  std::unique_ptr<KvStream> stream_;  // destroyed before the core and arena it uses
  std::vector<Thread> disk_threads_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_NODE_STORE_SERVER_H_
