// KV bytes of an attention layout: heads (MHA, GQA, MQA), layers that share rows (MLKV, CLA) and
// latents (MLA). Pure functions over values; any thread.
//
// Units: bytes are exact integers. GiB = 2^30 and GB = 10^9 bytes; the two are never mixed.
#ifndef REPRISE_COORDINATOR_PLANNER_KV_LAYOUT_H_
#define REPRISE_COORDINATOR_PLANNER_KV_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"

namespace reprise::planner {

inline constexpr double kGiB = 1024.0 * 1024 * 1024;
inline constexpr double kGB = 1e9;

// What one token of one sequence leaves behind in every layer that owns rows: a key and a value of
// head_dim elements for each of kv_heads, or, when latent > 0, one latent and one rotated key.
struct KvLayout {
  int64_t kv_layers = 0;  // that own rows; fewer than the model's when layers share them
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t latent = 0;  // elements (MLA's c_kv); 0: heads
  int64_t rope = 0;    // elements (MLA's k_rope)
  int64_t element_bytes = 2;
  bool operator==(const KvLayout&) const = default;
};

struct ModelShape {
  std::string name;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t weight_bytes = 0;
  KvLayout kv;
};

// INVALID_ARGUMENT names the field, the range and the value.
Status ValidateLayout(const KvLayout& layout);
Status ValidateShape(const ModelShape& shape);

int64_t RowBytes(const KvLayout& layout);  // one owning layer, one token
int64_t BytesPerToken(const KvLayout& layout);
// OUT_OF_RANGE when the product exceeds 63 bits.
StatusOr<int64_t> KvBytes(const KvLayout& layout, int64_t tokens);

struct NamedLayout {
  std::string name;
  std::string what;  // heads and layers, for people
  KvLayout layout;
};
// The model's own layout, then what it would be under MHA, GQA with `group` query heads a KV head,
// MQA, CLA (2 layers share rows), MLKV (one KV head, `group` layers share it) and MLA (512 + 64, as
// DeepSeek-V2 and V3 have it). Counts are rounded up. A model of latents has no head width to vary:
// its head_dim stands in.
std::vector<NamedLayout> CompareLayouts(const ModelShape& shape, int64_t group);

// The fewest machines of `machine_bytes` over which weights and KV spread evenly.
int64_t MachinesFor(int64_t weight_bytes, int64_t kv_bytes, int64_t machine_bytes);

// opt-30b, opt-66b, opt-175b, bloom-176b, llama-3-8b, llama-3-70b, deepseek-v3.
const std::vector<ModelShape>& PresetShapes();
// NOT_FOUND lists the names.
StatusOr<ModelShape> PresetShape(const std::string& name);

}  // namespace reprise::planner

#endif  // REPRISE_COORDINATOR_PLANNER_KV_LAYOUT_H_
