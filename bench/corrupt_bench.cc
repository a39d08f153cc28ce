// Ten thousand damages, one by one and in four places: on the wire (the sender gives other bytes
// than it summed), in rows appended to a store, in a store's memory (its process's pages are
// changed from outside) and in its disk file. Bits are flipped, ends cut off, segments swapped, and
// stale bytes put in place. Each must be refused where it is read. Then a cluster serves while rows
// in its stores are damaged and workers die: tokens must be right.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "bench/bench_main.h"
#include "bench/damaged_stores.h"
#include "bench/process_memory.h"
#include "bench/stream_node.h"
#include "common/bind_address.h"
#include "common/random.h"
#include "kvstore/stream/tail_pack.h"
#include "tests/cluster/poll.h"
#include "tests/cluster/setting.h"

namespace reprise::bench {
namespace {

using kv::KvFormat;
using kv::PeerAddress;

constexpr int kBatch = 250;
constexpr int kWireBatches = 8;  // over each of shared memory and TCP
constexpr int kMemoryBatches = 12;
constexpr int kDiskBatches = 4;
constexpr int kAppendBatches = 8;
constexpr int kDamages =
    kBatch * (2 * kWireBatches + kMemoryBatches + kDiskBatches + kAppendBatches);
constexpr TimeNs kPatienceNs = 60 * kSecond;
constexpr char kStore[] = "store-0";

enum class Kind { kFlip, kCut, kSwap, kStale };

// Damages the bytes of one block; always changes them. `other` is what swap and stale take from.
void Damage(const KvFormat& format, const std::vector<uint8_t>& other, SplitMix64& random,
            std::vector<uint8_t>& bytes) {
  const std::vector<uint8_t> before = bytes;
  const size_t segment = format.segment_bytes();
  const size_t layer = random.Below(format.layers);
  switch (static_cast<Kind>(random.Below(4))) {
    case Kind::kFlip:
      bytes[random.Below(bytes.size())] ^= static_cast<uint8_t>(1 << random.Below(8));
      break;
    case Kind::kCut: {
      const size_t from = layer * segment + random.Below(segment);
      std::fill(bytes.begin() + static_cast<ptrdiff_t>(from),
                bytes.begin() + static_cast<ptrdiff_t>((layer + 1) * segment), 0);
      break;
    }
    case Kind::kSwap:
      std::swap_ranges(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(segment),
                       bytes.begin() + static_cast<ptrdiff_t>(segment));
      break;
    case Kind::kStale:
      bytes = other;
      break;
  }
  if (bytes == before) bytes[0] ^= 1;
}

class Corrupt {
 public:
  Corrupt(const BenchFlags& flags, Report& report) : report_(report), random_(RandomU64()) {
    setting_.program = flags.reprise;
    setting_.decode_workers = 1;
    setting_.gateways = 0;
    setting_.stores = 1;
    setting_.store_disks = true;
    setting_.model = {.layers = 4, .row_bytes = 64, .block_tokens = 16};
    format_ = worker::TimedFormat(setting_.model);
  }

  Status Run() {
    RETURN_IF_ERROR(Wire(true));
    RETURN_IF_ERROR(Wire(false));
    ASSIGN_OR_RETURN(cluster_, harness::StartCluster(setting_));
    ASSIGN_OR_RETURN(node_, StreamNode::Create("corrupter", format_, true));
    RETURN_IF_ERROR(StoreMemory());
    RETURN_IF_ERROR(Appends());
    RETURN_IF_ERROR(Disk());
    node_ = nullptr;
    cluster_ = nullptr;
    for (const auto& [place, count] : injected_) {
      report_.Figure(absl::StrCat("injected_", place), static_cast<double>(count), "");
      report_.Figure(absl::StrCat("detected_", place), static_cast<double>(detected_[place]), "");
    }
    const int64_t injected = Total(injected_);
    report_.Bar("injected", static_cast<double>(injected), "==", kDamages, injected);
    report_.Bar("undetected", static_cast<double>(injected - Total(detected_)), "==", 0, injected);
    report_.Bar("undamaged_refused", static_cast<double>(refused_whole_), "==", 0, whole_);
    return absl::OkStatus();
  }

 private:
  using Blocks = std::vector<TestBlock>;

  static int64_t Total(const std::map<std::string, int64_t>& counts) {
    int64_t total = 0;
    for (const auto& [place, count] : counts) total += count;
    return total;
  }

  // Random blocks of one sequence whose tokens are their own.
  Blocks NewBlocks(int count, std::vector<int32_t>* tokens) {
    tokens->clear();
    for (uint32_t i = 0; i < static_cast<uint32_t>(count) * format_.block_tokens; ++i) {
      tokens->push_back(static_cast<int32_t>(random_.Below(1 << 30)));
    }
    const std::vector<kv::BlockId> ids = kv::ChainIds(
        {.format_digest = format_.Digest(), .block_tokens = static_cast<int>(format_.block_tokens)},
        *tokens);
    Blocks blocks;
    for (size_t i = 0; i < ids.size(); ++i) {
      blocks.push_back(RandomBlock(format_, ids[i], static_cast<int64_t>(i) * format_.block_tokens,
                                   random_.Next()));
    }
    return blocks;
  }

  void Count(const std::string& place, const std::vector<Status>& statuses) {
    injected_[place] += static_cast<int64_t>(statuses.size());
    detected_[place] +=
        std::count_if(statuses.begin(), statuses.end(), [](const Status& s) { return !s.ok(); });
  }

  // Undamaged blocks must come, with their bytes.
  Status CheckWhole(StreamNode& reader, const PeerAddress& source, const Blocks& blocks) {
    std::vector<std::vector<uint8_t>> bytes;
    ASSIGN_OR_RETURN(const std::vector<Status> statuses, reader.Fetch(source, blocks, &bytes));
    for (size_t i = 0; i < blocks.size(); ++i) {
      ++whole_;
      refused_whole_ += !statuses[i].ok() || bytes[i] != blocks[i].bytes;
    }
    return absl::OkStatus();
  }

  Status Wire(bool shared_memory) {
    ASSIGN_OR_RETURN(const auto sender, StreamNode::Create("sender", format_, shared_memory));
    ASSIGN_OR_RETURN(const auto reader, StreamNode::Create("reader", format_, shared_memory));
    for (int batch = 0; batch < kWireBatches; ++batch) {
      std::vector<int32_t> tokens;
      const Blocks blocks = NewBlocks(kBatch, &tokens);
      sender->Serve(blocks);
      RETURN_IF_ERROR(CheckWhole(*reader, sender->address(), blocks));
      Blocks damaged = blocks;
      for (int i = 0; i < kBatch; ++i) {
        const auto other = static_cast<size_t>((i + 1) % kBatch);
        Damage(format_, blocks[other].bytes, random_, damaged[static_cast<size_t>(i)].bytes);
      }
      sender->Serve(damaged);
      std::vector<std::vector<uint8_t>> bytes;
      ASSIGN_OR_RETURN(const auto statuses, reader->Fetch(sender->address(), blocks, &bytes));
      Count(shared_memory ? "wire_shared_memory" : "wire_tcp", statuses);
    }
    return absl::OkStatus();
  }

  StatusOr<PeerAddress> Store() const {
    ASSIGN_OR_RETURN(const v1::NodeRef ref, cluster_->Ref(kStore));
    ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(cluster_->addresses(kStore).kv));
    return PeerAddress{{ref.name(), ref.incarnation()}, at.host, at.port};
  }

  // New blocks, held by the store.
  StatusOr<Blocks> Fill(const PeerAddress& store) {
    std::vector<int32_t> tokens;
    Blocks blocks = NewBlocks(kBatch, &tokens);
    node_->Serve(blocks);
    ASSIGN_OR_RETURN(const double before,
                     cluster_->Metric(kStore, "reprise_store_blocks_stored_total"));
    node_->Offer(store, tokens);
    RETURN_IF_ERROR(WaitMetric("reprise_store_blocks_stored_total", before + kBatch));
    RETURN_IF_ERROR(CheckWhole(*node_, store, blocks));
    return blocks;
  }

  Status WaitMetric(const char* family, double least) const {
    return harness::PollUntil(absl::StrCat(family, " of ", least), kPatienceNs, [&] {
      return cluster_->Metric(kStore, family).value_or(0) >= least;
    });
  }

  static uint64_t FirstWord(const TestBlock& block) {
    uint64_t word;
    std::memcpy(&word, block.bytes.data(), sizeof word);
    return word;
  }

  Status StoreMemory() {
    ASSIGN_OR_RETURN(const PeerAddress store, Store());
    ASSIGN_OR_RETURN(const Blocks blocks, Fill(store));
    ASSIGN_OR_RETURN(ProcessMemory memory, ProcessMemory::Open(cluster_->pid(kStore)));
    absl::flat_hash_map<uint64_t, size_t> by_word;
    for (size_t i = 0; i < blocks.size(); ++i) by_word[FirstWord(blocks[i])] = i;
    std::vector<std::vector<uint64_t>> places(blocks.size());
    RETURN_IF_ERROR(memory.Scan(
        [&](uint64_t word) { return by_word.contains(word); },
        [&](uint64_t word, uint64_t address) { places[by_word.at(word)].push_back(address); }));
    for (int batch = 0; batch < kMemoryBatches; ++batch) {
      for (size_t i = 0; i < blocks.size(); ++i) {
        std::vector<uint8_t> bytes = blocks[i].bytes;
        Damage(format_, blocks[(i + 1) % blocks.size()].bytes, random_, bytes);
        RETURN_IF_ERROR(WriteAll(memory, places[i], blocks[i].bytes, bytes));
      }
      std::vector<std::vector<uint8_t>> ignored;
      ASSIGN_OR_RETURN(const auto statuses, node_->Fetch(store, blocks, &ignored));
      Count("store_memory", statuses);
      for (size_t i = 0; i < blocks.size(); ++i) {
        RETURN_IF_ERROR(WriteAll(memory, places[i], {}, blocks[i].bytes));
      }
    }
    return absl::OkStatus();
  }

  // At every place that holds `expected` (empty: at all), so that the slot is among them.
  static Status WriteAll(ProcessMemory& memory, std::vector<uint64_t>& places,
                         const std::vector<uint8_t>& expected, const std::vector<uint8_t>& bytes) {
    if (!expected.empty()) {
      std::erase_if(places, [&](uint64_t address) {
        std::vector<uint8_t> there(expected.size());
        return !memory.Read(address, there).ok() || there != expected;
      });
    }
    if (places.empty()) return absl::NotFoundError("a block is not in the store's memory");
    for (const uint64_t address : places) RETURN_IF_ERROR(memory.Write(address, bytes));
    return absl::OkStatus();
  }

  Status Disk() {
    const std::string path = absl::StrCat(cluster_->dir(), "/", kStore, ".blocks");
    for (int batch = 0; batch < kDiskBatches; ++batch) {
      ASSIGN_OR_RETURN(const PeerAddress store, Store());
      ASSIGN_OR_RETURN(const Blocks blocks, Fill(store));
      ASSIGN_OR_RETURN(const double stored,
                       cluster_->Metric(kStore, "reprise_store_blocks_stored_total"));
      RETURN_IF_ERROR(WaitMetric("reprise_store_disk_writes_total", stored));
      RETURN_IF_ERROR(cluster_->Kill(kStore));
      RETURN_IF_ERROR(DamageFile(path, blocks));
      RETURN_IF_ERROR(cluster_->Restart(kStore));
      RETURN_IF_ERROR(cluster_->WaitLive());
      ASSIGN_OR_RETURN(const PeerAddress again, Store());
      node_->Serve({});
      std::vector<std::vector<uint8_t>> ignored;
      ASSIGN_OR_RETURN(const auto statuses, node_->Fetch(again, blocks, &ignored));
      Count("store_disk", statuses);
    }
    return absl::OkStatus();
  }

  Status DamageFile(const std::string& path, const Blocks& blocks) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    file.clear();
    for (size_t i = 0; i < blocks.size(); ++i) {
      const std::string whole(blocks[i].bytes.begin(), blocks[i].bytes.end());
      const size_t at = text.find(whole);
      if (at == std::string::npos) return absl::NotFoundError("a block is not in the disk file");
      std::vector<uint8_t> bytes = blocks[i].bytes;
      Damage(format_, blocks[(i + 1) % blocks.size()].bytes, random_, bytes);
      file.seekp(static_cast<std::streamoff>(at));
      file.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
    }
    file.flush();
    return file ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", path));
  }

  // Rows of new sequences, damaged after their checksums were taken; the first of each batch whole.
  Status Appends() {
    ASSIGN_OR_RETURN(const PeerAddress store, Store());
    const size_t bytes = kv::PackedBytes(format_, kAppendRows);
    for (int batch = 0; batch < kAppendBatches; ++batch) {
      kv::TailAppend append;
      const auto rows = std::make_shared<kv::PackedRows>(bytes * (kBatch + 1));
      append.rows = rows;
      for (size_t i = 0; i <= kBatch; ++i) {
        kv::TailEntry& entry = append.entries.emplace_back();
        entry.request = {absl::StrCat("append-", batch, "-", i), {1, 1}};
        std::vector<int32_t> tokens;
        const TestBlock block = NewBlocks(1, &tokens)[0];
        entry.tokens.assign(tokens.begin(), tokens.begin() + kAppendRows);
        const auto packed = rows->writable().subspan(i * bytes, bytes);
        ASSIGN_OR_RETURN(entry.checksum, kv::PackTail(format_, block.bytes, {0, kAppendRows},
                                                      kv::TailSeed(entry), packed));
        if (i > 0) packed[random_.Below(bytes)] ^= static_cast<uint8_t>(1 << random_.Below(8));
      }
      ASSIGN_OR_RETURN(std::vector<Status> held, node_->Append(store, std::move(append)));
      ++whole_;
      refused_whole_ += !held.front().ok();
      held.erase(held.begin());
      Count("appended_rows", held);
    }
    return absl::OkStatus();
  }

  static constexpr uint32_t kAppendRows = 5;

  Report& report_;
  harness::Setting setting_;
  KvFormat format_;
  SplitMix64 random_;
  std::unique_ptr<harness::Cluster> cluster_;
  std::unique_ptr<StreamNode> node_;
  std::map<std::string, int64_t> injected_;  // by place
  std::map<std::string, int64_t> detected_;
  int64_t whole_ = 0;
  int64_t refused_whole_ = 0;
};

Status Run(const BenchFlags& flags, Report& report) {
  RETURN_IF_ERROR(Corrupt(flags, report).Run());
  return ServeFromDamagedStores(flags, report);
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("corrupt", argc, argv, reprise::bench::Run);
}
