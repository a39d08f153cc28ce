#include "kernels/cuda/decode_share.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/cuda/kv_pool.h"
#include "kernels/cuda/numerics.h"

namespace reprise::cuda {
namespace {

constexpr int64_t kPagesPerLeaf = kStepLeaf / kPageRows;

// A row whose leaves are in two units needs the second kernel, 32 small blocks of it a key head: as
// long as a worker takes for a leaf (131 KB at dims of 128, some 8 us), by estimate.
constexpr int64_t kRowCost = 1;

// Rows that share `leaves`, and what is made of them.
struct Prefix {
  int32_t leaves = 0;
  std::vector<DecodeGroup> groups;
  std::vector<int32_t> free;  // rows in none
  int64_t saved = 0;          // leaves a key head, by the groups
};

class Finder {
 public:
  Finder(const DecodeTables& tables, const DecodeSharing& with) : tables_(tables), with_(with) {}

  // The tree of prefixes, from rows in the order of their tables: those with a prefix in common
  // stand side by side. A stack holds the path to the last row.
  Prefix Find() {
    const std::vector<int32_t> order = Sorted();
    std::vector<Prefix> path(1);
    for (size_t i = 0; i < order.size(); ++i) {
      const int32_t before = i == 0 ? 0 : Common(order[i - 1], order[i]);
      const int32_t after = i + 1 == order.size() ? 0 : Common(order[i], order[i + 1]);
      while (path.back().leaves > before) Close(before, &path);
      if (after > path.back().leaves) path.push_back({after, {}, {}, 0});
      path.back().free.push_back(order[i]);
    }
    while (path.back().leaves > 0) Close(0, &path);
    return std::move(path.front());
  }

 private:
  const int32_t* Table(int32_t row) const { return tables_.pages.data() + row * tables_.stride; }
  int32_t Whole(int32_t row) const { return tables_.keys[static_cast<size_t>(row)] / kStepLeaf; }
  // Leaves that are the same memory, from the first on.
  int32_t Common(int32_t a, int32_t b) const {
    const int64_t pages = std::min(Whole(a), Whole(b)) * kPagesPerLeaf;
    const int32_t* const first = Table(a);
    return static_cast<int32_t>((std::mismatch(first, first + pages, Table(b)).first - first) /
                                kPagesPerLeaf);
  }
  // Rows with a whole leaf. Most batches share nothing: their rows are told apart by the first
  // page.
  std::vector<int32_t> Sorted() const {
    std::vector<int32_t> rows;
    for (int32_t row = 0; row < static_cast<int32_t>(tables_.keys.size()); ++row) {
      if (Whole(row) > 0) rows.push_back(row);
    }
    std::sort(rows.begin(), rows.end(), [this](int32_t a, int32_t b) {
      const int32_t* const first = Table(a);
      const int32_t* const second = Table(b);
      const int64_t pages = std::min(Whole(a), Whole(b)) * kPagesPerLeaf;
      const auto [x, y] = std::mismatch(first, first + pages, second);
      if (x != first + pages) return *x < *y;
      if (Whole(a) != Whole(b)) return Whole(a) < Whole(b);
      return a < b;
    });
    return rows;
  }
  // A prefix is complete: it is made one group, or its parts' groups stand and the rows left over
  // are one, whichever saves more. Then it is a part of the prefix it lies in.
  void Close(int32_t outer, std::vector<Prefix>* path) {
    Prefix prefix = std::move(path->back());
    path->pop_back();
    std::vector<int32_t> all = prefix.free;
    for (const DecodeGroup& group : prefix.groups) {
      all.insert(all.end(), group.rows.begin(), group.rows.end());
    }
    const int64_t rest = Saved(static_cast<int64_t>(prefix.free.size()), prefix.leaves);
    const int64_t together = Saved(static_cast<int64_t>(all.size()), prefix.leaves);
    if (together > 0 && together >= prefix.saved + std::max<int64_t>(rest, 0)) {
      prefix.groups.clear();
      prefix.saved = 0;
      prefix.free = std::move(all);
    }
    if (Saved(static_cast<int64_t>(prefix.free.size()), prefix.leaves) > 0) Group(&prefix);
    if (path->back().leaves < outer) path->push_back({outer, {}, {}, 0});
    Prefix& parent = path->back();
    std::move(prefix.groups.begin(), prefix.groups.end(), std::back_inserter(parent.groups));
    parent.free.insert(parent.free.end(), prefix.free.begin(), prefix.free.end());
    parent.saved += prefix.saved;
  }
  // The free rows become a group, but for one that would have a shared unit to itself.
  void Group(Prefix* prefix) const {
    std::vector<int32_t> rows = std::move(prefix->free);
    std::sort(rows.begin(), rows.end());
    prefix->free.clear();
    prefix->saved += Saved(static_cast<int64_t>(rows.size()), prefix->leaves);
    if (static_cast<int>(rows.size()) % with_.rows == 1) {
      prefix->free.push_back(rows.back());
      rows.pop_back();
    }
    prefix->groups.push_back({std::move(rows), prefix->leaves});
  }
  int64_t Saved(int64_t rows, int64_t leaves) const {
    if (rows % with_.rows == 1) --rows;
    const int64_t units = (rows + with_.rows - 1) / with_.rows;
    return (rows - units) * leaves - units * kDecodeUnitCost - rows * kRowCost;
  }

  const DecodeTables& tables_;
  const DecodeSharing with_;
};

}  // namespace

std::vector<DecodeGroup> FindShared(const DecodeTables& tables, int kv_heads, int workers,
                                    const DecodeSharing& with) {
  if (with.rows < 2) return {};
  Prefix found = Finder(tables, with).Find();
  // Workers who have little to do wait for the longest run, not for memory.
  if (found.saved * kv_heads < workers) return {};
  std::sort(found.groups.begin(), found.groups.end(),
            [](const DecodeGroup& a, const DecodeGroup& b) { return a.rows[0] < b.rows[0]; });
  return std::move(found.groups);
}

}  // namespace reprise::cuda
