#include "bench/dejavu_stage.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "bench/dejavu_pulls.h"
#include "bench/dejavu_replicas.h"
#include "bench/dejavu_rows.h"
#include "bench/dejavu_swap.h"
#include "bench/dejavu_wire.h"
#include "common/bounded_queue.h"
#include "common/flags.h"
#include "common/random.h"
#include "common/thread.h"
#include "kvstore/stream/kv_stream.h"

namespace reprise::bench {
namespace {

constexpr size_t kQueueMax = 65'536;

Status Parse(const std::vector<std::string>& args, StageOptions* o) {
  FlagSet flags("dejavu_bench stage", "A pipeline stage; started by dejavu_bench.");
  flags.Add("controller", &o->controller, "socket name");
  flags.AddRange("slot", &o->slot, 0, 1000, "which process this is");
  flags.AddRange("rows-max", &o->rows_max, 1, 1 << 20, "of a sequence");
  flags.AddRange("row-bytes", &o->row_bytes, 8, 1 << 26, "of one row, all of the stage's layers");
  flags.AddRange("swap-bytes-per-s", &o->swap_bytes_per_s, 0, INT64_MAX, "0: no swapping");
  flags.AddRange("swap-sequences", &o->swap_sequences, 0, 1000, "that take turns");
  flags.AddRange("swap-space", &o->swap_space, 0, 1000, "of the rows that swap");
  RETURN_IF_ERROR(flags.Parse(args).status());
  if (o->row_bytes % 8 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--row-bytes is ", o->row_bytes, ", not a multiple of 8"));
  }
  return absl::OkStatus();
}

class Stage {
 public:
  explicit Stage(const StageOptions& options)
      : options_(options),
        rows_(static_cast<uint32_t>(options.rows_max), static_cast<size_t>(options.row_bytes)),
        replicas_(&rows_, static_cast<size_t>(options.row_bytes),
                  [this](StageMessage order) {
                    order.verb = StageVerb::kReplicaLost;
                    Answer(order);
                  }),
        work_(kQueueMax),
        drops_(kQueueMax) {}

  Status Run() {
    ASSIGN_OR_RETURN(socket_, ConnectToController(options_.controller));
    RETURN_IF_ERROR(StartStream());
    if (options_.swap_bytes_per_s > 0) {
      swap_ = std::make_unique<DejavuSwap>(&rows_, static_cast<size_t>(options_.row_bytes),
                                           static_cast<uint32_t>(options_.swap_space),
                                           static_cast<uint32_t>(options_.swap_sequences),
                                           options_.swap_bytes_per_s);
    }
    StageMessage hello{.verb = StageVerb::kHello};
    hello.peer = {stream_->address().key.incarnation, options_.slot, stream_->address().port};
    RETURN_IF_ERROR(SendMessage(socket_, hello));
    Thread executor("stage", [this] { Execute(); });
    Thread dropper("drop", [this] {
      while (std::optional<StageMessage> drop = drops_.Pop()) Drop(*drop);
    });
    RunOnTime();
    Status status = Obey();
    work_.Close();
    drops_.Close();
    replicas_.Stop();
    return status;
  }

 private:
  Status StartStream() {
    kv::StreamOptions stream;
    stream.self = {absl::StrCat("stage-", options_.slot), RandomU64() | 1};
    stream.format = RowFormat(static_cast<size_t>(options_.row_bytes));
    ASSIGN_OR_RETURN(stream_, kv::KvStream::Create(stream, &rows_, &replicas_));
    replicas_.Start(stream_.get());
    pulls_ = std::make_unique<DejavuPulls>(
        stream_.get(), &rows_, [this](StageMessage order, bool all_here) {
          order.verb = all_here ? StageVerb::kPulled : StageVerb::kPullFailed;
          Answer(order);
        });
    return absl::OkStatus();
  }

  // A controller that is gone is seen by Obey.
  void Answer(const StageMessage& message) { SendMessage(socket_, message).IgnoreError(); }

  Status Obey() {
    for (;;) {
      ASSIGN_OR_RETURN(std::optional<StageMessage> message, ReceiveMessage(socket_));
      if (!message.has_value()) return absl::OkStatus();
      switch (message->verb) {
        case StageVerb::kRun:
          RETURN_IF_ERROR(Queue(work_, *message));
          break;
        case StageVerb::kPull:
          RETURN_IF_ERROR(pulls_->Pull(*message));
          break;
        case StageVerb::kReplicate:
          replicas_.Replicate(*message);
          break;
        case StageVerb::kQuery:
          message->verb = StageVerb::kHave;
          message->count = rows_.Prefix({message->space, message->sequence});
          Answer(*message);
          break;
        case StageVerb::kDrop:
          RETURN_IF_ERROR(Queue(drops_, *message));
          break;
        default:
          return absl::InvalidArgumentError(
              absl::StrCat("a stage got verb ", static_cast<uint32_t>(message->verb)));
      }
    }
  }

  static Status Queue(BoundedQueue<StageMessage>& queue, const StageMessage& message) {
    if (queue.TryPush(StageMessage(message)) == PushResult::kPushed) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat("more than ", kQueueMax, " orders wait"));
  }

  // Reads all rows that came from peers, so not on a thread that others wait for.
  void Drop(StageMessage message) {
    pulls_->Forget(message.sequence);
    replicas_.Forget(message.sequence);
    const DejavuRows::Dropped dropped = rows_.Drop(message.sequence);
    message.verb = StageVerb::kDropped;
    message.count = dropped.pulled;
    message.wrong = dropped.wrong + (swap_ == nullptr ? 0 : swap_->wrong());
    Answer(message);
  }

  void Execute() {
    RunOnTime();
    prctl(PR_SET_TIMERSLACK, 1000);  // this thread's timers, ns
    while (std::optional<StageMessage> work = work_.Pop()) Do(*work);
  }

  // Work starts at the nominal end of what came before it, here or at the stage before, so that the
  // way of a message costs no time while it is shorter than a piece of work; what is later than
  // that counts.
  void Do(StageMessage work) {
    TimeNs start_ns = std::max(work.at_ns, free_at_ns_);
    const bool token = work.first > 0;
    if (swap_ != nullptr && token) {
      if (swap_->Await(work.sequence)) start_ns = std::max(start_ns, RealClock().NowNs());
      swap_->BeginStep(work.sequence);
    }
    const TimeNs end_ns = start_ns + work.work_ns;
    SleepUntil(end_ns);
    const TimeNs now_ns = RealClock().NowNs();
    free_at_ns_ = now_ns > end_ns + work.work_ns ? now_ns : end_ns;
    const RowKey key{work.space, work.sequence};
    for (const uint32_t row : rows_.Write(key, work.first, work.count)) {
      stream_->Publish(RowId(key, row), 1, {});
    }
    replicas_.Written(key);
    work.verb = StageVerb::kDone;
    work.at_ns = free_at_ns_;
    Answer(work);
  }

  const StageOptions options_;
  int socket_ = -1;  // open until the process ends
  DejavuRows rows_;
  DejavuReplicas replicas_;  // outlives the stream, which calls it
  BoundedQueue<StageMessage> work_;
  BoundedQueue<StageMessage> drops_;
  TimeNs free_at_ns_ = 0;  // the executor's
  std::unique_ptr<DejavuSwap> swap_;
  std::unique_ptr<DejavuPulls> pulls_;  // outlives the stream, which calls it
  std::unique_ptr<kv::KvStream> stream_;
};

}  // namespace

std::vector<std::string> StageOptions::Flags() const {
  return {absl::StrCat("--controller=", controller),
          absl::StrCat("--slot=", slot),
          absl::StrCat("--rows-max=", rows_max),
          absl::StrCat("--row-bytes=", row_bytes),
          absl::StrCat("--swap-bytes-per-s=", swap_bytes_per_s),
          absl::StrCat("--swap-sequences=", swap_sequences),
          absl::StrCat("--swap-space=", swap_space)};
}

int StageMain(const std::vector<std::string>& args) {
  StageOptions options;
  Status status = Parse(args, &options);
  if (status.ok()) status = Stage(options).Run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "stage %d: %s\n", options.slot, status.ToString().c_str());
  return 1;
}

}  // namespace reprise::bench
