#include "bench/stream_node.h"

#include "common/random.h"
#include "kvstore/block/checksum.h"
#include "kvstore/stream/fetch_outcome.h"

namespace reprise::bench {
namespace {

constexpr TimeNs kTimeoutNs = 60 * kSecond;

}  // namespace

TestBlock RandomBlock(const kv::KvFormat& format, const kv::BlockId& id, int64_t first_position,
                      uint64_t seed) {
  TestBlock block{.id = id, .first_position = first_position, .bytes = {}, .checksums = {}};
  SplitMix64 random(seed);
  block.bytes.resize(format.block_bytes());
  for (uint8_t& byte : block.bytes) byte = static_cast<uint8_t>(random.Next());
  for (uint32_t layer = 0; layer < format.layers; ++layer) {
    block.checksums.push_back(kv::SegmentChecksum(
        id, layer, first_position, block.bytes.data() + layer * format.segment_bytes(),
        format.segment_bytes()));
  }
  return block;
}

StatusOr<std::unique_ptr<StreamNode>> StreamNode::Create(const std::string& name,
                                                         const kv::KvFormat& format,
                                                         bool shared_memory) {
  std::unique_ptr<StreamNode> node(new StreamNode(format));
  kv::StreamOptions options;
  options.self = {name, RandomU64() | 1};
  options.format = format;
  options.shared_memory = shared_memory;
  ASSIGN_OR_RETURN(node->stream_, kv::KvStream::Create(options, node.get()));
  node->stream_->OnHeld([n = node.get()](const NodeKey&, std::vector<kv::HeldRows> held) {
    MutexLock lock(n->mu_);
    for (const kv::HeldRows& rows : held) n->held_.emplace(rows.request.id, rows.status);
    n->changed_.NotifyAll();
  });
  node->stream_->OnReplicaLost([](const NodeKey&, const Status&) {});
  return node;
}

StreamNode::~StreamNode() { stream_ = nullptr; }

void StreamNode::Serve(std::vector<TestBlock> blocks) {
  MutexLock lock(mu_);
  blocks_.clear();
  for (TestBlock& block : blocks) {
    const kv::BlockId id = block.id;
    blocks_[id] = std::make_shared<const TestBlock>(std::move(block));
  }
}

kv::SegmentSource::Block StreamNode::Find(const kv::BlockId& id) {
  MutexLock lock(mu_);
  const auto found = blocks_.find(id);
  if (found == blocks_.end()) return {};
  Block block;
  block.state = State::kReady;
  block.layers_ready = format_.layers;
  block.first_position = found->second->first_position;
  block.data = found->second->bytes.data();
  block.summed = true;
  block.checksums = found->second->checksums;
  block.pin = kv::SegmentPin([held = found->second] {});
  return block;
}

StatusOr<std::vector<Status>> StreamNode::Fetch(const kv::PeerAddress& source,
                                                const std::vector<TestBlock>& blocks,
                                                std::vector<std::vector<uint8_t>>* bytes) {
  bytes->assign(blocks.size(), std::vector<uint8_t>(format_.block_bytes()));
  kv::FetchSpec spec;
  spec.source = source;
  spec.subscribe = true;
  spec.timeout_ns = kTimeoutNs;
  for (size_t i = 0; i < blocks.size(); ++i) {
    spec.items.push_back({blocks[i].id, blocks[i].first_position, (*bytes)[i].data()});
  }
  const auto outcome = std::make_shared<kv::FetchOutcome>();
  RETURN_IF_ERROR(stream_->Fetch(std::move(spec), outcome).status());
  return outcome->Wait();
}

void StreamNode::Offer(const kv::PeerAddress& store, const std::vector<int32_t>& tokens) {
  kv::BlockOffer offer;
  offer.source = address();
  {
    MutexLock lock(mu_);
    offer.fence.request = {absl::StrCat("offer-", ++offers_), {1, 1}};
  }
  offer.tokens = tokens;
  stream_->Offer(store, std::move(offer));
}

StatusOr<std::vector<Status>> StreamNode::Append(const kv::PeerAddress& store,
                                                 kv::TailAppend append) {
  std::vector<std::string> requests;
  for (const kv::TailEntry& entry : append.entries) requests.push_back(entry.request.id);
  stream_->Append(store, std::move(append));
  const TimeNs until = RealClock().NowNs() + kTimeoutNs;
  MutexLock lock(mu_);
  std::vector<Status> answers;
  for (const std::string& request : requests) {
    while (!held_.contains(request)) {
      if (RealClock().NowNs() > until) {
        return absl::DeadlineExceededError(absl::StrCat("the store did not answer for ", request));
      }
      changed_.WaitFor(mu_, std::chrono::nanoseconds(kSecond));
    }
    answers.push_back(held_.at(request));
  }
  return answers;
}

}  // namespace reprise::bench
