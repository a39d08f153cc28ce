// As much of Abseil as the CPU's sampler uses, for machines that have only a compiler.
#ifndef REPRISE_BENCH_GPU_ABSL_CONTAINER_FLAT_HASH_MAP_H_
#define REPRISE_BENCH_GPU_ABSL_CONTAINER_FLAT_HASH_MAP_H_

#include <unordered_map>

namespace absl {

template <class K, class V>
using flat_hash_map = std::unordered_map<K, V>;

}  // namespace absl

#endif  // REPRISE_BENCH_GPU_ABSL_CONTAINER_FLAT_HASH_MAP_H_
