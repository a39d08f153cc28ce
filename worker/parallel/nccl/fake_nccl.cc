#include "worker/parallel/nccl/fake_nccl.h"

#include <algorithm>
#include <cstring>

#include "worker/parallel/tree_sum.h"

namespace reprise::parallel {
namespace {

constexpr uint8_t kGarbage = 0xEE;

bool Within(const void* memory, const uint8_t* block, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(memory);
  return at >= block && at < block + bytes;
}

}  // namespace

class FakeComm final : public NcclComm {
 public:
  FakeComm(FakeNccl* nccl, int process, const NcclUniqueId& id, int rank, int size) : nccl_(nccl) {
    comm_.process = process;
    comm_.id = id;
    comm_.rank = rank;
    comm_.size = size;
    MutexLock lock(nccl_->mu_);
    nccl_->comms_.push_back(&comm_);
    nccl_->Connect(id, size);
  }
  ~FakeComm() override {
    MutexLock lock(nccl_->mu_);
    nccl_->LastWrites(comm_);
    std::erase(nccl_->comms_, &comm_);
  }
  StatusOr<bool> Settled() override {
    MutexLock lock(nccl_->mu_);
    const auto error = nccl_->errors_.find(comm_.process);
    if (error != nccl_->errors_.end()) return error->second;
    return !comm_.launching;
  }
  Status Exchange(std::span<const NcclSend> sends, std::span<const NcclReceive> receives) override {
    std::function<void()> died;
    {
      MutexLock lock(nccl_->mu_);
      nccl_->CheckUsable(comm_, "Exchange");
      FakeNccl::Work work;
      for (const NcclSend& send : sends) work.sends.emplace_back(send, false);
      for (const NcclReceive& receive : receives) work.receives.emplace_back(receive, false);
      const auto kill = nccl_->kill_after_.find(comm_.process);
      if (kill != nccl_->kill_after_.end()) {
        kill->second.first -= static_cast<int>(sends.size() + receives.size());
        if (kill->second.first < 0) {
          nccl_->dead_.insert(comm_.process);
          died = std::move(kill->second.second);
          nccl_->kill_after_.erase(kill);
        }
      }
      comm_.launching = true;
      nccl_->Queue(comm_, std::move(work));
    }
    if (died) died();
    return absl::OkStatus();
  }
  Status QueueCopy(const void* from, void* to, size_t bytes) override {
    MutexLock lock(nccl_->mu_);
    nccl_->CheckUsable(comm_, "QueueCopy");
    for (const FakeNccl::Work& work : comm_.stream) {
      if (work.copy_bytes == 0) nccl_->violations_.push_back("a copy would wait for other ranks");
    }
    FakeNccl::Work work;
    work.copy_from = from;
    work.copy_to = to;
    work.copy_bytes = bytes;
    nccl_->Queue(comm_, std::move(work));
    return absl::OkStatus();
  }
  StatusOr<bool> Idle() override {
    MutexLock lock(nccl_->mu_);
    nccl_->CheckUsable(comm_, "Idle");
    return comm_.stream.empty();
  }
  void Abort() override {
    MutexLock lock(nccl_->mu_);
    while (nccl_->hold_aborts_) nccl_->changed_.Wait(nccl_->mu_);
    if (comm_.aborted) nccl_->violations_.push_back("aborted twice");
    comm_.aborted = true;
  }
  Status Quiesce() override {
    MutexLock lock(nccl_->mu_);
    if (!comm_.aborted) nccl_->violations_.push_back("waits for a stream that was not aborted");
    nccl_->LastWrites(comm_);
    return absl::OkStatus();
  }

 private:
  FakeNccl* const nccl_;
  FakeNccl::Comm comm_;  // under the lock of nccl_
};

class FakeDevice final : public NcclDevice {
 public:
  FakeDevice(FakeNccl* nccl, int process) : nccl_(nccl), process_(process) {}
  StatusOr<NcclUniqueId> MakeUniqueId() override {
    MutexLock lock(nccl_->mu_);
    NcclUniqueId id{};
    id[0] = nccl_->next_id_++;
    return id;
  }
  StatusOr<std::unique_ptr<NcclComm>> Join(const NcclUniqueId& id, int rank, int size) override {
    return std::make_unique<FakeComm>(nccl_, process_, id, rank, size);
  }
  StatusOr<void*> Allocate(size_t bytes) override {
    auto block = std::make_unique<uint8_t[]>(std::max<size_t>(bytes, 1));
    uint8_t* memory = block.get();
    MutexLock lock(nccl_->mu_);
    nccl_->blocks_[memory] = {std::move(block), bytes};
    return memory;
  }
  void Free(void* memory) override {
    MutexLock lock(nccl_->mu_);
    const auto block = nccl_->blocks_.extract(static_cast<const uint8_t*>(memory));
    const size_t bytes = block.mapped().second;
    for (const FakeNccl::Comm* comm : nccl_->comms_) {
      for (const FakeNccl::Work& work : comm->stream) {
        const bool used =
            std::any_of(work.sends.begin(), work.sends.end(),
                        [&](const auto& s) { return Within(s.first.data, block.key(), bytes); }) ||
            std::any_of(work.receives.begin(), work.receives.end(),
                        [&](const auto& r) { return Within(r.first.data, block.key(), bytes); });
        if (used) nccl_->violations_.push_back("device memory is freed under a message");
      }
    }
  }
  bool OnDevice(const void* memory) override {
    MutexLock lock(nccl_->mu_);
    for (const auto& [block, owned] : nccl_->blocks_) {
      if (Within(memory, block, owned.second)) return true;
    }
    return false;
  }
  Status Copy(const void* from, void* to, size_t bytes) override {
    std::memmove(to, from, bytes);
    return absl::OkStatus();
  }
  Status TreeSum(std::span<float* const> terms, size_t n) override {
    for (const float* term : terms) {
      if (n == 0 || OnDevice(term)) continue;
      MutexLock lock(nccl_->mu_);
      nccl_->violations_.push_back("a sum on the device of host memory");
    }
    parallel::TreeSum(terms, n);
    return absl::OkStatus();
  }

 private:
  FakeNccl* const nccl_;
  const int process_;
};

FakeNccl::FakeNccl() : thread_("fake-nccl", [this] { Run(); }) {}

FakeNccl::~FakeNccl() {
  MutexLock lock(mu_);
  stopping_ = true;
  Changed();
}

std::unique_ptr<NcclDevice> FakeNccl::MakeDevice(int process) {
  return std::make_unique<FakeDevice>(this, process);
}

void FakeNccl::KillAfter(int process, int messages, std::function<void()> died) {
  MutexLock lock(mu_);
  kill_after_[process] = {messages, std::move(died)};
}

void FakeNccl::Fail(int process, const Status& error) {
  MutexLock lock(mu_);
  errors_[process] = error;
}

void FakeNccl::HoldMessages(bool hold) {
  MutexLock lock(mu_);
  hold_messages_ = hold;
  Changed();
}

void FakeNccl::HoldAborts(bool hold) {
  MutexLock lock(mu_);
  hold_aborts_ = hold;
  Changed();
}

void FakeNccl::AwaitExchange(int process) {
  MutexLock lock(mu_);
  const auto under_way = [&](const Comm* comm) NO_THREAD_SAFETY_ANALYSIS {
    return comm->process == process && !comm->stream.empty() &&
           comm->stream.front().copy_bytes == 0;
  };
  while (std::none_of(comms_.begin(), comms_.end(), under_way)) changed_.Wait(mu_);
}

std::vector<std::string> FakeNccl::Violations() {
  MutexLock lock(mu_);
  return violations_;
}

size_t FakeNccl::Allocations() {
  MutexLock lock(mu_);
  return blocks_.size();
}

// ---- What the hardware does. ----

bool FakeNccl::Work::Ended() const {
  const auto moved = [](const auto& message) { return message.second; };
  return copy_bytes == 0 && std::all_of(sends.begin(), sends.end(), moved) &&
         std::all_of(receives.begin(), receives.end(), moved);
}

void FakeNccl::Changed() {
  dirty_ = true;
  changed_.NotifyAll();
}

void FakeNccl::Run() {
  MutexLock lock(mu_);
  while (!stopping_) {
    while (!dirty_ && !stopping_) changed_.Wait(mu_);
    dirty_ = false;
    bool moved = true;
    while (moved) {
      moved = false;
      for (Comm* comm : comms_) {
        if (!comm->stream.empty()) comm->launching = false;
        moved = RunFront(*comm) || moved;
      }
    }
    changed_.NotifyAll();
  }
}

FakeNccl::Comm* FakeNccl::Find(const NcclUniqueId& id, int rank) {
  for (Comm* comm : comms_) {
    if (comm->id == id && comm->rank == rank) return comm;
  }
  return nullptr;
}

void FakeNccl::Connect(const NcclUniqueId& id, int size) {
  for (int r = 0; r < size; ++r) {
    if (Find(id, r) == nullptr) return;
  }
  for (int r = 0; r < size; ++r) Find(id, r)->launching = false;
}

void FakeNccl::CheckUsable(const Comm& comm, const char* call) {
  if (comm.aborted) violations_.push_back(std::string(call) + " after an abort");
  if (comm.launching) violations_.push_back(std::string(call) + " before it has settled");
}

void FakeNccl::Queue(Comm& comm, Work work) {
  comm.stream.push_back(std::move(work));
  Changed();
}

bool FakeNccl::RunFront(Comm& comm) {
  if (comm.stream.empty() || comm.aborted || dead_.contains(comm.process)) return false;
  Work& work = comm.stream.front();
  if (work.copy_bytes > 0) {
    std::memcpy(work.copy_to, work.copy_from, work.copy_bytes);
    comm.stream.pop_front();
    return true;
  }
  const bool moved = MoveMessages(comm);
  if (!work.Ended()) return moved;
  comm.stream.pop_front();
  return true;
}

bool FakeNccl::MoveMessages(Comm& comm) {
  bool any = false;
  for (auto& [send, sent] : comm.stream.front().sends) {
    Comm* peer = Find(comm.id, send.to);
    if (sent || hold_messages_ || peer == nullptr || peer->aborted || peer->stream.empty() ||
        dead_.contains(peer->process)) {
      continue;
    }
    auto& receives = peer->stream.front().receives;
    const auto due = std::find_if(receives.begin(), receives.end(), [&](const auto& receive) {
      return !receive.second && receive.first.from == comm.rank;
    });
    if (due == receives.end()) continue;
    if (due->first.bytes != send.bytes) {
      violations_.push_back("a message and its receive differ in size");
      continue;
    }
    std::memcpy(due->first.data, send.data, send.bytes);
    sent = due->second = any = true;
  }
  return any;
}

void FakeNccl::LastWrites(Comm& comm) {
  if (!comm.stream.empty()) {
    for (const auto& [receive, received] : comm.stream.front().receives) {
      if (!received) std::memset(receive.data, kGarbage, receive.bytes);
    }
  }
  for (const Work& work : comm.stream) {
    if (work.copy_bytes > 0) std::memcpy(work.copy_to, work.copy_from, work.copy_bytes);
  }
  comm.stream.clear();
}

}  // namespace reprise::parallel
