// A replica store for tests of the worker core: keeps offered blocks and appended tails, with real
// bytes, and seals a tail's block when it is full. One thread.
#ifndef REPRISE_WORKER_ENGINE_CORE_FAKE_STORE_H_
#define REPRISE_WORKER_ENGINE_CORE_FAKE_STORE_H_

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "worker/engine/core/types.h"

namespace reprise::worker {

class FakeStore {
 public:
  // `row_bytes`: of one row in one of `layers` layers; a block's segments follow one another.
  FakeStore(kv::ChainContext chain, uint32_t layers, size_t row_bytes)
      : chain_(std::move(chain)), layers_(layers), row_bytes_(row_bytes) {}

  // False for an attempt below the highest seen of the request, and for one that has let go: what
  // another node offered for it may come later still.
  bool Admit(const RequestKey& key);
  // The blocks it lacks.
  std::vector<kv::BlockId> Offer(const OfferBlocks& offer);
  // The same, of blocks that belong to no sequence.
  std::vector<kv::BlockId> OfferForCache(const OfferBlocks& offer);
  void Put(const kv::BlockId& id, std::vector<uint8_t> bytes) { blocks_[id] = std::move(bytes); }
  // `bytes`: the page the rows lie in.
  Status Append(const AppendRows::Entry& entry, const std::vector<uint8_t>& page);
  // Contiguous rows from 0; nothing when the sequence is not known.
  std::optional<int64_t> Held(const std::string& request, uint32_t branch) const;
  std::vector<TailState> States(const std::string& request) const;
  const std::vector<uint8_t>* Find(const kv::BlockId& id) const;
  void Release(const RequestKey& key);

  std::string Describe() const;
  int64_t sequences() const { return static_cast<int64_t>(sequences_.size()); }
  std::vector<uint32_t> BranchesOf(const std::string& request) const;

 private:
  struct Sequence {
    std::string tenant;
    int64_t prompt_end = kv::kOneForm;
    std::vector<int32_t> tokens;     // of the chain, then of the tail
    std::vector<kv::BlockId> chain;  // whole blocks, complete or on their way
    std::vector<uint8_t> tail;       // one block
  };
  int64_t block() const { return chain_.block_tokens; }
  size_t BlockBytes() const { return layers_ * static_cast<size_t>(block()) * row_bytes_; }
  int64_t ChainRows(const Sequence& sequence) const {
    return static_cast<int64_t>(sequence.chain.size()) * block();
  }
  std::vector<kv::BlockId> Missing(const std::vector<kv::BlockId>& chain) const;
  void Cut(Sequence& sequence, int64_t rows);
  void CopyRow(const std::vector<uint8_t>& from, std::vector<uint8_t>& to, int64_t row) const;

  kv::ChainContext chain_;
  uint32_t layers_;
  size_t row_bytes_;
  std::map<std::string, Attempt> fences_;
  std::map<std::string, Attempt> released_;
  std::map<std::pair<std::string, uint32_t>, Sequence> sequences_;
  std::map<kv::BlockId, std::vector<uint8_t>> blocks_;
};

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_ENGINE_CORE_FAKE_STORE_H_
