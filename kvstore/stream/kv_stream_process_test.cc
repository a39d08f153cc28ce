// The stream between real processes over real UCX, with shared memory and over TCP alone: transfer,
// subscription, and every way a source can go away.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/mutex.h"
#include "common/subprocess.h"
#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/stream_test_blocks.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::kv {
namespace {

constexpr TimeNs kPatience = 20 * kSecond;
const char* const kPeerProgram = "kvstore/stream/stream_test_peer";

// A source in its own process, with the socket that commands it.
class SourceProcess {
 public:
  struct Options {
    uint64_t incarnation = 1;
    int port = 0;
    bool shared_memory = true;
    int64_t throttle_bytes_per_s = 0;
  };
  explicit SourceProcess(const Options& options) {
    static int number = 0;
    // Abstract: a path below the test's folder may be longer than a socket's address.
    const std::string path = absl::StrCat("reprise.source.", getpid(), ".", ++number);
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "%s", path.c_str());
    EXPECT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0) << path;
    EXPECT_EQ(listen(listener, 1), 0);
    auto spawned = Subprocess::Spawn(
        {.argv = {kPeerProgram, absl::StrCat(options.incarnation), absl::StrCat(options.port),
                  options.shared_memory ? "shm" : "tcp", absl::StrCat(options.throttle_bytes_per_s),
                  path},
         .extra_env = {},
         .out = SubprocessOutput::Inherit(),
         .err = SubprocessOutput::Inherit()});
    EXPECT_TRUE(spawned.ok()) << spawned.status();
    process_ = std::move(*spawned);
    pollfd waiting{.fd = listener, .events = POLLIN, .revents = 0};
    EXPECT_EQ(poll(&waiting, 1, 20'000), 1) << "the source did not start";
    commands_ = accept(listener, nullptr, nullptr);
    close(listener);
    std::string port;
    char c = 0;
    while (read(commands_, &c, 1) == 1 && c != '\n') port += c;
    address_ = {{"source", options.incarnation}, "127.0.0.1", std::atoi(port.c_str())};
    EXPECT_GT(address_.port, 0);
  }
  ~SourceProcess() { close(commands_); }

  const PeerAddress& address() const { return address_; }
  void Publish(int layers) { dprintf(commands_, "p %d\n", layers); }
  void Withdraw() { dprintf(commands_, "w 0\n"); }
  // SIGSTOP takes effect before this returns.
  void Signal(int signal) {
    ASSERT_TRUE(process_->Kill(signal).ok());
    if (signal != SIGSTOP) return;
    siginfo_t stopped{};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(process_->pid()), &stopped, WSTOPPED | WNOWAIT), 0);
  }
  void KillAndReap() {
    Signal(SIGKILL);
    process_->Wait();
  }

 private:
  std::unique_ptr<Subprocess> process_;
  int commands_ = -1;
  PeerAddress address_;
};

TimeNs ProcessCpuNs() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return used.tv_sec * kSecond + used.tv_nsec;
}

struct RunningFetch {
  std::shared_ptr<RecordingListener> listener = std::make_shared<RecordingListener>();
  std::vector<std::vector<uint8_t>> memory;
  std::vector<BlockId> ids;
  FetchHandle handle = 0;

  // Every item arrived, in order and to the byte.
  void ExpectDelivered() {
    const auto items = listener->AwaitDone(kPatience);
    ASSERT_TRUE(items.has_value());
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_TRUE((*items)[i].ok()) << (*items)[i];
      EXPECT_EQ(memory[i], TestBlock(ids[i]));
      EXPECT_THAT(listener->layers(i), testing::ElementsAre(0, 1, 2, 3));
    }
  }
  absl::StatusCode Outcome(TimeNs patience_ns = kPatience) {
    const auto items = listener->AwaitDone(patience_ns);
    return items.has_value() ? items->front().code() : absl::StatusCode::kUnknown;
  }
};

class KvStreamProcessTest : public testing::TestWithParam<bool> {
 protected:
  KvStreamProcessTest() {
    StreamOptions options;
    options.self = {"sink", 77};
    options.shared_memory = GetParam();
    options.format = TestFormat();
    auto stream = KvStream::Create(options, nullptr);
    EXPECT_TRUE(stream.ok()) << stream.status();
    stream_ = std::move(*stream);
  }
  SourceProcess::Options SourceOptions(uint64_t incarnation = 1) {
    return {.incarnation = incarnation, .shared_memory = GetParam()};
  }
  std::unique_ptr<RunningFetch> Fetch(const PeerAddress& source, std::vector<BlockId> ids,
                                      TimeNs timeout_ns = kPatience) {
    auto fetch = std::make_unique<RunningFetch>();
    fetch->ids = std::move(ids);
    FetchSpec spec{.source = source, .subscribe = true, .timeout_ns = timeout_ns};
    for (const BlockId& id : fetch->ids) {
      fetch->memory.emplace_back(TestFormat().block_bytes());
      spec.items.push_back({id, 0, fetch->memory.back().data()});
    }
    const auto handle = stream_->Fetch(spec, fetch->listener);
    EXPECT_TRUE(handle.ok()) << handle.status();
    fetch->handle = *handle;
    return fetch;
  }
  static std::vector<BlockId> Many(char kind, int n) {
    std::vector<BlockId> ids;
    for (int i = 0; i < n; ++i) ids.push_back(TestId(kind, static_cast<uint8_t>(i)));
    return ids;
  }

  std::unique_ptr<KvStream> stream_;
};

TEST_P(KvStreamProcessTest, FetchesSealedBlocksOverLanesThatSeeTheirPeerDie) {
  SourceProcess source(SourceOptions());
  Fetch(source.address(), Many('r', 200))->ExpectDelivered();
  const auto lanes = stream_->DescribeLanes(source.address().key);
  ASSERT_TRUE(lanes.ok()) << lanes.status();
  EXPECT_EQ(lanes->find("posix") != std::string::npos, GetParam()) << *lanes;
  EXPECT_EQ(lanes->find("cma") != std::string::npos, GetParam()) << *lanes;
  EXPECT_EQ(stream_->stats().segments_received, 200u * 4);
  EXPECT_EQ(stream_->stats().checksum_failures, 0u);
}

TEST_P(KvStreamProcessTest, DeliversLayersAsTheyArePublished) {
  SourceProcess source(SourceOptions());
  const auto fetch = Fetch(source.address(), {TestId('p', 1), TestId('r', 1)});
  ASSERT_TRUE(fetch->listener->AwaitLayers(1, 4, kPatience));
  for (int layers = 1; layers <= 4; ++layers) {
    EXPECT_EQ(fetch->listener->done_calls(), 0);
    EXPECT_EQ(fetch->listener->layers(0).size(), static_cast<size_t>(layers - 1));
    source.Publish(layers);
    ASSERT_TRUE(fetch->listener->AwaitLayers(0, static_cast<size_t>(layers), kPatience));
  }
  fetch->ExpectDelivered();
}

TEST_P(KvStreamProcessTest, ReportsMissingAndWithdrawnBlocks) {
  SourceProcess source(SourceOptions());
  const auto fetch = Fetch(source.address(), {TestId('r', 1), TestId('x', 1), TestId('p', 1)});
  ASSERT_TRUE(fetch->listener->AwaitLayers(0, 4, kPatience));
  source.Withdraw();
  const auto items = fetch->listener->AwaitDone(kPatience);
  ASSERT_TRUE(items.has_value());
  EXPECT_TRUE((*items)[0].ok());
  EXPECT_EQ((*items)[1].code(), absl::StatusCode::kNotFound);
  EXPECT_EQ((*items)[2].code(), absl::StatusCode::kNotFound);
}

TEST_P(KvStreamProcessTest, AKilledSourceEndsItsFetchesWithinASecondAndNoOthers) {
  SourceProcess::Options slow = SourceOptions(1);
  slow.throttle_bytes_per_s = 1'000'000;
  SourceProcess victim(slow);
  SourceProcess neighbour(SourceOptions(2));
  const auto stable = Fetch(neighbour.address(), {TestId('p', 1), TestId('r', 1)});
  ASSERT_TRUE(stable->listener->AwaitLayers(1, 4, kPatience));
  const auto doomed = Fetch(victim.address(), Many('r', 200));  // 3 MB: 3 s
  ASSERT_TRUE(doomed->listener->AwaitLayers(0, 1, kPatience));
  const TimeNs killed_ns = RealClock().NowNs();
  victim.KillAndReap();
  const auto items = doomed->listener->AwaitDone(kPatience);
  ASSERT_TRUE(items.has_value());
  EXPECT_EQ(items->back().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(RealClock().NowNs() - killed_ns, kSecond);
  EXPECT_EQ(doomed->listener->done_calls(), 1);
  EXPECT_EQ(stable->listener->done_calls(), 0);
  neighbour.Publish(4);
  stable->ExpectDelivered();
}

TEST_P(KvStreamProcessTest, AKilledSourceEndsAWaitingSubscription) {
  SourceProcess source(SourceOptions());
  const auto fetch = Fetch(source.address(), {TestId('p', 1), TestId('r', 1)});
  ASSERT_TRUE(fetch->listener->AwaitLayers(1, 4, kPatience));
  source.KillAndReap();
  EXPECT_EQ(fetch->Outcome(kSecond), absl::StatusCode::kUnavailable);
}

TEST_P(KvStreamProcessTest, ARestartedSourceIsAnotherSource) {
  auto first = std::make_unique<SourceProcess>(SourceOptions(1));
  const PeerAddress old_address = first->address();
  Fetch(old_address, Many('r', 3))->ExpectDelivered();
  first->KillAndReap();
  SourceProcess::Options options = SourceOptions(2);
  options.port = old_address.port;
  SourceProcess second(options);
  ASSERT_EQ(second.address().port, old_address.port);
  const auto stale = Fetch(old_address, Many('r', 3));
  EXPECT_THAT(stale->Outcome(), testing::AnyOf(absl::StatusCode::kFailedPrecondition,
                                               absl::StatusCode::kUnavailable));
  EXPECT_EQ(Fetch(old_address, Many('r', 3))->Outcome(), absl::StatusCode::kFailedPrecondition);
  Fetch(second.address(), Many('r', 3))->ExpectDelivered();
}

TEST_P(KvStreamProcessTest, CancelAndDeadlineEndASubscription) {
  SourceProcess source(SourceOptions());
  const auto cancelled = Fetch(source.address(), {TestId('p', 1)});
  const auto ready = Fetch(source.address(), Many('r', 3));
  ready->ExpectDelivered();
  stream_->CancelFetch(cancelled->handle);
  EXPECT_EQ(cancelled->Outcome(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Fetch(source.address(), {TestId('p', 2)}, 50 * kMillisecond)->Outcome(),
            absl::StatusCode::kDeadlineExceeded);
  Fetch(source.address(), Many('r', 3))->ExpectDelivered();
}

TEST_P(KvStreamProcessTest, AFrozenSourceCannotHoldADestinationBeyondTheDeadline) {
  SourceProcess source(SourceOptions());
  Fetch(source.address(), Many('r', 3))->ExpectDelivered();
  source.Signal(SIGSTOP);
  const TimeNs cpu_before_ns = ProcessCpuNs();
  // More messages than a shared memory queue has room for.
  std::vector<std::unique_ptr<RunningFetch>> fetches;
  for (int i = 0; i < 300; ++i) {
    fetches.push_back(Fetch(source.address(), Many('r', 3), 100 * kMillisecond));
  }
  for (const auto& fetch : fetches) {
    EXPECT_EQ(fetch->Outcome(5 * kSecond), absl::StatusCode::kDeadlineExceeded);
  }
  // 1.1 s of waiting for an answer is spent asleep.
  EXPECT_LT(ProcessCpuNs() - cpu_before_ns, 150 * kMillisecond);
  source.Signal(SIGCONT);
  // The link was closed by force; the next fetch makes a new one.
  Fetch(source.address(), Many('r', 3))->ExpectDelivered();
  EXPECT_NE(fetches[0]->memory[0], TestBlock(fetches[0]->ids[0]));
}

// ---- Replication. ----

// What stores answered, by request, and which were lost. Shared with the handlers, which may
// outlive the test's body.
class Answers {
 public:
  static std::shared_ptr<Answers> Of(KvStream* stream) {
    auto answers = std::make_shared<Answers>();
    stream->OnHeld([answers](const NodeKey&, const std::vector<HeldRows>& held) {
      MutexLock lock(answers->mu_);
      for (const HeldRows& one : held) {
        answers->rows_[one.request.id] = one.rows;
        if (!one.status.ok()) ++answers->refused_;
      }
      answers->changed_.NotifyAll();
    });
    stream->OnReplicaLost([answers](const NodeKey&, const Status&) {
      MutexLock lock(answers->mu_);
      ++answers->lost_;
      answers->changed_.NotifyAll();
    });
    return answers;
  }
  bool AwaitRows(const std::string& request, int64_t rows) {
    MutexLock lock(mu_);
    while (rows_[request] != rows) {
      if (!WaitUntil(deadline_ns_)) return false;
    }
    return true;
  }
  bool AwaitLost() {
    MutexLock lock(mu_);
    while (lost_ == 0) {
      if (!WaitUntil(deadline_ns_)) return false;
    }
    return true;
  }
  int refused() const {
    MutexLock lock(mu_);
    return refused_;
  }

 private:
  bool WaitUntil(TimeNs deadline_ns) REQUIRES(mu_) {
    if (RealClock().NowNs() > deadline_ns) return false;
    changed_.WaitFor(mu_, std::chrono::milliseconds(100));
    return true;
  }
  const TimeNs deadline_ns_ = RealClock().NowNs() + kPatience;
  mutable Mutex mu_;
  CondVar changed_;
  std::map<std::string, int64_t> rows_ GUARDED_BY(mu_);
  int lost_ GUARDED_BY(mu_) = 0;
  int refused_ GUARDED_BY(mu_) = 0;
};

// `blocks` whole blocks of 16 rows (16 KiB each) or, for 0, a single row of 1 KiB.
TailAppend AppendOf(const std::string& request, int blocks) {
  const KvFormat format = TestFormat();
  const uint32_t rows = blocks == 0 ? 1 : format.block_tokens;
  const size_t entries = static_cast<size_t>(std::max(blocks, 1));
  const size_t bytes = PackedBytes(format, rows);
  auto packed = std::make_shared<PackedRows>(bytes * entries);
  TailAppend append;
  for (size_t i = 0; i < entries; ++i) {
    TailEntry entry{.request = {request, {1, 1}}, .parent = {}};
    entry.tokens.assign(rows, 7);
    entry.checksum = *PackTail(format, TestBlock(TestId('t', static_cast<uint8_t>(i))), {0, rows},
                               TailSeed(entry), packed->writable().subspan(i * bytes, bytes));
    append.entries.push_back(std::move(entry));
  }
  append.rows = packed;
  return append;
}

TEST_P(KvStreamProcessTest, AppendsOfAllSizesArriveInOrder) {
  SourceProcess store(SourceOptions());
  const auto answers = Answers::Of(stream_.get());
  int64_t rows = 0;
  for (int turn = 0; turn < 5; ++turn) {
    for (const int blocks : {0, 8, 0, 64, 256, 0}) {  // 1 KiB, 128 KiB, 1 MiB, 4 MiB
      stream_->Append(store.address(), AppendOf("r", blocks));
      rows += blocks == 0 ? 1 : blocks * 16;
    }
    ASSERT_TRUE(answers->AwaitRows("r", rows)) << turn;
  }
  EXPECT_EQ(answers->refused(), 0);
  EXPECT_EQ(stream_->stats().append_posted_bytes, 0u);
  EXPECT_EQ(stream_->stats().append_bytes_sent, 5u * (328u << 14));
}

TEST_P(KvStreamProcessTest, AKilledStoreIsLostWithAppendsInFlight) {
  SourceProcess store(SourceOptions());
  const auto answers = Answers::Of(stream_.get());
  stream_->Append(store.address(), AppendOf("r", 0));
  ASSERT_TRUE(answers->AwaitRows("r", 1));
  std::vector<std::weak_ptr<const TailPayload>> payloads;
  store.Signal(SIGSTOP);  // so that the kill finds them in flight
  for (int i = 0; i < 3; ++i) {
    TailAppend append = AppendOf("r", 256);
    payloads.push_back(append.rows);
    stream_->Append(store.address(), std::move(append));
  }
  const TimeNs until_ns = RealClock().NowNs() + kPatience;
  while (stream_->stats().append_posted_bytes < 3u << 22 && RealClock().NowNs() < until_ns) {
    std::this_thread::yield();
  }
  EXPECT_EQ(stream_->stats().append_posted_bytes, 3u << 22);
  store.KillAndReap();
  EXPECT_TRUE(answers->AwaitLost());
  while (stream_->stats().append_posted_bytes > 0 && RealClock().NowNs() < until_ns) {
    std::this_thread::yield();
  }
  EXPECT_EQ(stream_->stats().append_posted_bytes, 0u);
  // The lane counts them terminal, then lets them go.
  for (const auto& payload : payloads) {
    while (!payload.expired() && RealClock().NowNs() < until_ns) std::this_thread::yield();
    EXPECT_TRUE(payload.expired());
  }
}

TEST_P(KvStreamProcessTest, AFrozenStoreIsLostAndKeepsABoundedPayload) {
  SourceProcess store(SourceOptions());
  const auto answers = Answers::Of(stream_.get());
  stream_->Append(store.address(), AppendOf("r", 0));
  ASSERT_TRUE(answers->AwaitRows("r", 1));
  std::vector<TailAppend> appends;  // made first: all are under way long before the store is lost
  for (int i = 0; i < 12; ++i) appends.push_back(AppendOf("r", 256));
  store.Signal(SIGSTOP);
  for (TailAppend& append : appends) stream_->Append(store.address(), std::move(append));
  ASSERT_TRUE(answers->AwaitLost());
  EXPECT_EQ(answers->refused(), 8 * 256) << "of 12 times 4 MiB, 16 MiB may be unanswered";
  EXPECT_EQ(stream_->stats().append_posted_bytes, 16u << 20) << "it may still read them";
  store.Signal(SIGCONT);
  const TimeNs until_ns = RealClock().NowNs() + kPatience;
  while (stream_->stats().append_posted_bytes > 0 && RealClock().NowNs() < until_ns) {
    std::this_thread::yield();
  }
  EXPECT_EQ(stream_->stats().append_posted_bytes, 0u);
  stream_->Append(store.address(), AppendOf("s", 8));
  EXPECT_TRUE(answers->AwaitRows("s", 128)) << "over a new connection";
}

TEST_P(KvStreamProcessTest, ProbesMoveABlock) {
  SourceProcess peer(SourceOptions());
  struct Answer {
    Mutex mu;
    CondVar came;
    std::optional<Status> status GUARDED_BY(mu);
  };
  for (const PeerAddress& target : {peer.address(), stream_->address()}) {
    const auto answer = std::make_shared<Answer>();
    stream_->Probe(target, kPatience, [answer](const Status& status) {
      MutexLock lock(answer->mu);
      answer->status = status;
      answer->came.NotifyAll();
    });
    MutexLock lock(answer->mu);
    while (!answer->status.has_value()) answer->came.Wait(answer->mu);
    EXPECT_TRUE(answer->status->ok()) << *answer->status;
  }
  EXPECT_EQ(stream_->stats().bytes_received, 2 * TestFormat().block_bytes());
}

INSTANTIATE_TEST_SUITE_P(Transports, KvStreamProcessTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "SharedMemory" : "Tcp"; });

}  // namespace
}  // namespace reprise::kv
