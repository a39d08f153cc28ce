// A source process for kv_stream_process_test: serves deterministic blocks, takes appended rows,
// and obeys one-letter commands on a socket (its descriptor 0 is /dev/null, so the path comes as an
// argument).
//
// Commands: "p N" publishes N layers of the pending blocks; "w" withdraws them. Blocks with an id
// whose first byte is 'r' are ready, 'p' pending; others are missing.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "common/mutex.h"
#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/stream_test_blocks.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::kv {
namespace {

class TestSource : public SegmentSource {
 public:
  Block Find(const BlockId& id) override {
    MutexLock lock(mu_);
    if (id.bytes[0] != 'r' && id.bytes[0] != 'p') return {};
    const KvFormat format = TestFormat();
    std::vector<uint8_t>& data = blocks_[id];
    if (data.empty()) data = TestBlock(id);
    const bool ready = id.bytes[0] == 'r';
    return {.state = ready ? State::kReady : State::kPending,
            .layers_ready = ready ? format.layers : published_,
            .first_position = 0,
            .data = data.data(),
            .checksums = {},
            .pin = SegmentPin()};
  }
  void SetPublished(uint32_t layers) {
    MutexLock lock(mu_);
    published_ = layers;
  }
  std::vector<BlockId> Pending() {
    MutexLock lock(mu_);
    std::vector<BlockId> ids;
    for (const auto& [id, data] : blocks_) {
      if (id.bytes[0] == 'p') ids.push_back(id);
    }
    return ids;
  }

 private:
  Mutex mu_;
  std::map<BlockId, std::vector<uint8_t>> blocks_ GUARDED_BY(mu_);
  uint32_t published_ GUARDED_BY(mu_) = 0;
};

// Verifies every entry and answers with the rows taken of its request.
class TestSink : public TailSink {
 public:
  std::vector<HeldRows> OnAppend(const NodeKey&, std::span<const TailEntry> entries,
                                 std::span<const uint8_t> rows) override {
    const KvFormat format = TestFormat();
    std::vector<HeldRows> held;
    for (const TailEntry& entry : entries) {
      const size_t bytes = PackedBytes(format, entry.tokens.size());
      std::vector<uint32_t> parts;
      const Status status =
          TailUnpacker(format).Unpack({.packed = rows.first(bytes),
                                       .checksum = entry.checksum,
                                       .seed = TailSeed(entry),
                                       .rows = static_cast<uint32_t>(entry.tokens.size())},
                                      0, slot_, &parts);
      rows = rows.subspan(bytes);
      int64_t& taken = taken_[entry.request.id];
      if (status.ok()) taken += static_cast<int64_t>(entry.tokens.size());
      held.push_back({entry.request, entry.branch, taken, status});
    }
    return held;
  }
  void OnRelease(const NodeKey&, const RequestKey&) override {}
  StatusOr<std::vector<TailState>> OnQuery(const NodeKey&, const RequestKey& request) override {
    return std::vector<TailState>{{.blocks_held = taken_[request.id], .parent = {}, .tokens = {}}};
  }
  void OnFence(const RequestKey&) override {}
  void OnPeerLost(const NodeKey&) override {}

 private:
  std::vector<uint8_t> slot_ = std::vector<uint8_t>(TestFormat().block_bytes());
  std::map<std::string, int64_t> taken_;
};

void Obey(KvStream* stream, TestSource* source, int commands) {
  FILE* in = fdopen(commands, "r");
  char command = 0;
  unsigned layers = 0;
  while (in != nullptr && fscanf(in, " %c %u", &command, &layers) == 2) {
    if (command == 'p') source->SetPublished(layers);
    for (const BlockId& id : source->Pending()) {
      if (command == 'p') stream->Publish(id, layers, {});
      if (command == 'w') stream->Withdraw(id);
    }
  }
}

int Run(char** argv) {
  StreamOptions options;
  options.self = {"source", std::strtoull(argv[1], nullptr, 10)};
  options.listen_port = std::atoi(argv[2]);
  options.shared_memory = std::string(argv[3]) == "shm";
  options.throttle_bytes_per_s = std::atoll(argv[4]);
  options.format = TestFormat();
  TestSource source;
  TestSink sink;
  auto stream = KvStream::Create(options, &source, &sink);
  if (!stream.ok()) {
    std::fprintf(stderr, "%s\n", stream.status().ToString().c_str());
    return 1;
  }
  const int commands = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "%s", argv[5]);  // abstract
  if (connect(commands, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return 1;
  dprintf(commands, "%d\n", (*stream)->address().port);
  Obey(stream->get(), &source, commands);
  return 0;
}

}  // namespace
}  // namespace reprise::kv

int main(int argc, char** argv) { return argc == 6 ? reprise::kv::Run(argv) : 2; }
