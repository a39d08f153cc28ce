// One rank of one side of `bench relayout`, a process of its own. In every cell that has a rank of
// its number it makes the parts its rank holds, or reads them from the other side over UCX and
// compares every byte. Processes meet through files in a folder: addresses, then what was read.
// Prints a line a cell: its number, blocks, blocks that are wrong, bytes sent, nanoseconds.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "bench/relayout_cells.h"
#include "common/flags.h"
#include "common/mutex.h"
#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/rank_blocks.h"
#include "kvstore/stream/stream_in.h"

namespace reprise::bench {
namespace {

constexpr TimeNs kPatienceNs = 60 * kSecond;

struct Options {
  std::string dir;
  bool reads = false;  // else it holds the blocks first
  int64_t rank = 0;
  bool shared_memory = true;
};

// Files that appear whole, under names of cell, side and rank.
class Meeting {
 public:
  explicit Meeting(std::string dir) : dir_(std::move(dir)) {}

  static std::string Name(size_t cell, const char* what, uint32_t rank) {
    return absl::StrCat(cell, ".", what, ".", rank);
  }
  void Tell(const std::string& name, const std::string& text) const {
    const std::string path = dir_ + "/" + name;
    std::ofstream(path + ".new") << text;
    std::filesystem::rename(path + ".new", path);
  }
  StatusOr<std::string> Hear(const std::string& name) const {
    const TimeNs until = RealClock().NowNs() + kPatienceNs;
    for (;;) {
      if (std::ifstream file(dir_ + "/" + name); file.good()) {
        std::stringstream text;
        text << file.rdbuf();
        return text.str();
      }
      if (RealClock().NowNs() > until) {
        return absl::DeadlineExceededError(absl::StrCat(name, " did not come"));
      }
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    }
  }
  StatusOr<kv::RankGroup> Addresses(size_t cell, const char* side,
                                    const kv::GroupSplit& split) const {
    kv::RankGroup group{.split = split, .ranks = {}};
    for (uint32_t rank = 0; rank < split.ranks(); ++rank) {
      ASSIGN_OR_RETURN(const std::string text, Hear(Name(cell, side, rank)));
      kv::PeerAddress address{{absl::StrCat(side, rank), 0}, "127.0.0.1", 0};
      std::istringstream(text) >> address.key.incarnation >> address.port;
      group.ranks.push_back(std::move(address));
    }
    return group;
  }

 private:
  const std::string dir_;
};

struct Outcome {
  size_t blocks = 0;
  size_t wrong = 0;
  uint64_t sent = 0;  // bytes
  TimeNs took_ns = 0;
};

class Rank {
 public:
  Rank(const Options& options, const Meeting& meeting, const RelayoutCell& cell)
      : options_(options),
        meeting_(meeting),
        cell_(cell),
        split_(options.reads ? cell.to : cell.from),
        rank_(static_cast<uint32_t>(options.rank)),
        side_(options.reads ? "to" : "from"),
        part_(kv::PartOfRank(cell.shape.format, split_, rank_)),
        tokens_(kv::VerifiableTokens(kRelayoutBlocks * cell.shape.format.block_tokens)),
        ids_(kv::ChainIds({.format_digest = cell.shape.format.Digest(),
                           .block_tokens = static_cast<int>(cell.shape.format.block_tokens),
                           .tenant_salt = {}},
                          tokens_)),
        blocks_(cell.shape.format, part_) {
    for (size_t block = 0; block < ids_.size(); ++block) {
      const int64_t position = PositionOf(block);
      if (kv::ContextOwner(split_, position) == kv::PlaceOf(split_, rank_).context) {
        own_.push_back(block);
      }
    }
  }

  StatusOr<Outcome> Run() {
    std::vector<kv::FetchItem> items;
    for (const size_t block : own_) {
      uint8_t* const data = options_.reads ? blocks_.AddArriving(ids_[block], PositionOf(block))
                                           : blocks_.AddMade(ids_[block], PositionOf(block));
      if (!options_.reads) WriteRelayoutBlock(cell_.shape, part_, tokens_, block, data);
      items.push_back({ids_[block], PositionOf(block), data});
    }
    ASSIGN_OR_RETURN(stream_,
                     kv::KvStream::Create({.self = {absl::StrCat(side_, rank_), Incarnation()},
                                           .format = cell_.shape.format,
                                           .part = part_,
                                           .shared_memory = options_.shared_memory},
                                          &blocks_));
    meeting_.Tell(Meeting::Name(cell_.number, side_, rank_),
                  absl::StrCat(Incarnation(), " ", stream_->address().port));
    Outcome outcome{.blocks = own_.size()};
    if (options_.reads) {
      ASSIGN_OR_RETURN(outcome.took_ns, Read(std::move(items)));
      outcome.wrong = Wrong();
      meeting_.Tell(Meeting::Name(cell_.number, "done", rank_), "");
    }
    // Whoever holds something serves until all have read.
    for (uint32_t rank = 0; rank < cell_.to.ranks(); ++rank) {
      RETURN_IF_ERROR(meeting_.Hear(Meeting::Name(cell_.number, "done", rank)).status());
    }
    // Whoever goes before a sender has heard that its bytes arrived makes it count them as lost.
    outcome.sent = BytesSent();
    meeting_.Tell(Meeting::Name(cell_.number, options_.reads ? "handed" : "sent", rank_), "");
    for (uint32_t rank = 0; rank < cell_.from.ranks(); ++rank) {
      RETURN_IF_ERROR(meeting_.Hear(Meeting::Name(cell_.number, "sent", rank)).status());
    }
    for (uint32_t rank = 0; rank < cell_.to.ranks(); ++rank) {
      RETURN_IF_ERROR(meeting_.Hear(Meeting::Name(cell_.number, "handed", rank)).status());
    }
    return outcome;
  }

 private:
  // What left this rank, once no transfer is under way any more.
  uint64_t BytesSent() const {
    while (stream_->stats().posted_bytes > 0) std::this_thread::yield();
    return stream_->stats().bytes_sent;
  }
  int64_t PositionOf(size_t block) const {
    return static_cast<int64_t>(block * cell_.shape.format.block_tokens);
  }
  uint64_t Incarnation() const { return static_cast<uint64_t>(getpid()) << 20 | cell_.number; }

  StatusOr<TimeNs> Read(std::vector<kv::FetchItem> items) {
    ASSIGN_OR_RETURN(const kv::RankGroup source,
                     meeting_.Addresses(cell_.number, "from", cell_.from));
    ASSIGN_OR_RETURN(const kv::RankGroup own, meeting_.Addresses(cell_.number, "to", cell_.to));
    std::vector<kv::BlockId> ids;
    ids.reserve(items.size());
    for (const kv::FetchItem& item : items) ids.push_back(item.id);
    struct State {
      Mutex mu;
      CondVar changed;
      std::optional<Status> done GUARDED_BY(mu);
    };
    const auto state = std::make_shared<State>();
    const auto listener =
        blocks_.Arrivals(stream_.get(), std::move(ids), [state](const std::vector<Status>& all) {
          Status status;
          for (const Status& one : all) status.Update(one);
          MutexLock lock(state->mu);
          state->done = status;
          state->changed.NotifyAll();
        });
    const TimeNs start_ns = RealClock().NowNs();
    RETURN_IF_ERROR(kv::StreamIn::Start(stream_.get(), cell_.shape.format,
                                        {.source = source,
                                         .own = own,
                                         .rank = rank_,
                                         .fence = {},
                                         .items = std::move(items),
                                         .timeout_ns = kPatienceNs},
                                        listener)
                        .status());
    MutexLock lock(state->mu);
    while (!state->done.has_value()) state->changed.Wait(state->mu);
    if (!state->done->ok()) std::fprintf(stderr, "%s\n", state->done->ToString().c_str());
    return RealClock().NowNs() - start_ns;
  }

  size_t Wrong() const {
    const size_t bytes = kv::FormatOfPart(cell_.shape.format, part_).block_bytes();
    std::vector<uint8_t> expected(bytes);
    size_t wrong = 0;
    for (const size_t block : own_) {
      WriteRelayoutBlock(cell_.shape, part_, tokens_, block, expected.data());
      wrong += std::memcmp(blocks_.Data(ids_[block]), expected.data(), bytes) != 0;
    }
    return wrong;
  }

  const Options& options_;
  const Meeting& meeting_;
  const RelayoutCell& cell_;
  const kv::GroupSplit split_;
  const uint32_t rank_;
  const char* const side_;
  const kv::KvPart part_;
  const std::vector<int32_t> tokens_;
  const std::vector<kv::BlockId> ids_;
  std::vector<size_t> own_;
  kv::RankBlocks blocks_;
  std::unique_ptr<kv::KvStream> stream_;  // last: it calls the rest
};

Status RunAll(const Options& options) {
  const Meeting meeting(options.dir);
  for (const RelayoutCell& cell : RelayoutCells()) {
    const kv::GroupSplit& split = options.reads ? cell.to : cell.from;
    if (options.rank >= split.ranks()) continue;
    Rank rank(options, meeting, cell);
    ASSIGN_OR_RETURN(const Outcome outcome, rank.Run());
    std::printf("%zu %zu %zu %lu %ld\n", cell.number, outcome.blocks, outcome.wrong, outcome.sent,
                outcome.took_ns);
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

Status Run(int argc, char** argv) {
  Options options;
  FlagSet flags("relayout_peer", "One rank of a group that holds or reads KV blocks.");
  flags.Add("dir", &options.dir, "Where the processes meet.");
  flags.Add("reads", &options.reads, "A rank of the reading side.");
  flags.AddRange("rank", &options.rank, 0, kRelayoutRanks - 1, "Its number.");
  flags.Add("shared-memory", &options.shared_memory, "CMA beside TCP.");
  RETURN_IF_ERROR(flags.Parse({argv + 1, argv + argc}).status());
  return RunAll(options);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  const absl::Status status = reprise::bench::Run(argc, argv);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
