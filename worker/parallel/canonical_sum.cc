#include "worker/parallel/canonical_sum.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "kernels/cpu/denormals.h"

namespace reprise::parallel {
namespace {

// Where the sum of a subtree is; the tree joins into the left one.
using Terms = std::map<std::pair<int, int>, float*>;

// The sum of the subtree, in the memory of its first term. Every slice is in exactly one term.
float* Join(const Terms& terms, SliceRange tree, size_t n) {
  const auto found = terms.find({tree.first, tree.width});
  if (found != terms.end()) return found->second;
  const int half = tree.width / 2;
  float* left = Join(terms, {tree.first, half}, n);
  const float* right = Join(terms, {tree.first + half, half}, n);
  for (size_t i = 0; i < n; ++i) left[i] = left[i] + right[i];
  return left;
}

// Gathers all ranks' subtrees of the own chunk, joins them and hands the sum to everybody.
Status SumApart(Communicator& communicator, std::span<const float> partials, std::span<float> sum,
                TimeNs deadline_ns) {
  const int size = communicator.size();
  const size_t n = sum.size();
  const size_t own_trees = SubtreesOf(SlicesOf(communicator.rank(), size)).size();
  const Chunk own = ChunkOf(n, communicator.rank(), size);
  std::vector<float> send;
  std::vector<size_t> send_sizes, receive_sizes, chunk_sizes;
  size_t trees = 0;
  for (int r = 0; r < size; ++r) {
    const Chunk chunk = ChunkOf(n, r, size);
    for (size_t tree = 0; tree < own_trees; ++tree) {
      const auto part = partials.subspan(tree * n + chunk.begin, chunk.size());
      send.insert(send.end(), part.begin(), part.end());
    }
    const size_t their_trees = SubtreesOf(SlicesOf(r, size)).size();
    send_sizes.push_back(own_trees * chunk.size() * sizeof(float));
    receive_sizes.push_back(their_trees * own.size() * sizeof(float));
    chunk_sizes.push_back(chunk.size() * sizeof(float));
    trees += their_trees;
  }
  std::vector<float> received(trees * own.size());
  RETURN_IF_ERROR(communicator.AllToAll(FloatBytes(std::span<const float>(send)), send_sizes,
                                        FloatBytes(std::span<float>(received)), receive_sizes,
                                        deadline_ns));
  Terms terms;
  float* at = received.data();
  for (int r = 0; r < size; ++r) {
    for (const SliceRange& tree : SubtreesOf(SlicesOf(r, size))) {
      terms[{tree.first, tree.width}] = at;
      at += own.size();
    }
  }
  const float* joined = nullptr;
  {
    const kernels::DenormalsOff denormals_off;
    joined = Join(terms, {0, kSlices}, own.size());
  }
  return communicator.AllGather(FloatBytes(std::span<const float>(joined, own.size())), chunk_sizes,
                                FloatBytes(sum), deadline_ns);
}

Status Refuse(Communicator& communicator, const std::string& message) {
  communicator.Abort(absl::InvalidArgumentError(message));
  return communicator.Barrier(INT64_MAX);  // fails once all memory is quiet
}

}  // namespace

SliceRange SlicesOf(int rank, int size) {
  const int first = kSlices * rank / size;
  return {first, kSlices * (rank + 1) / size - first};
}

std::vector<SliceRange> SubtreesOf(SliceRange range) {
  std::vector<SliceRange> subtrees;
  const int end = range.first + range.width;
  for (int first = range.first; first < end;) {
    int width = 1;
    while (first % (2 * width) == 0 && first + 2 * width <= end) width *= 2;
    subtrees.push_back({first, width});
    first += width;
  }
  return subtrees;
}

Status CanonicalSum(Communicator& communicator, std::span<float> partials, std::span<float> sum,
                    TimeNs deadline_ns) {
  const int size = communicator.size();
  if (size > kSlices) {
    return Refuse(communicator, absl::StrCat("a canonical sum has ", kSlices, " slices, the group ",
                                             size, " ranks"));
  }
  const size_t trees = SubtreesOf(SlicesOf(communicator.rank(), size)).size();
  if (partials.size() != trees * sum.size()) {
    return Refuse(communicator,
                  absl::StrCat("a canonical sum of ", sum.size(), " elements has ", trees,
                               " subtrees here, the partial sums ", partials.size(), " elements"));
  }
  if ((size & (size - 1)) != 0) return SumApart(communicator, partials, sum, deadline_ns);
  std::copy(partials.begin(), partials.end(), sum.begin());
  return communicator.AllReduce(sum, deadline_ns);
}

}  // namespace reprise::parallel
