// What the bytes of a KV block mean: model, numerics class, row layout, block size, element codec
// and selection policy. Two nodes exchange blocks only when their formats' digests are equal.
// Values; any thread.
//
// Invariants:
// 1. A block is `layers` segments of segment_bytes() each, contiguous in layer order.
// 2. The digest is SHA-256 of CanonicalText(), which names every field below.
#ifndef REPRISE_KVSTORE_BLOCK_KV_FORMAT_H_
#define REPRISE_KVSTORE_BLOCK_KV_FORMAT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/sha256.h"
#include "common/status.h"

namespace reprise::kv {

// kOpaque8: one byte an element. kFp8Mla: latents as e4m3 codes with scales beside rotated values
// in bf16, whole rows of kernels/fp8_row.h; its format has the one field Fp8MlaField(), an element
// of which is a byte.
enum class ElementCodec : uint8_t { kF32, kBF16, kF16, kOpaque8, kFp8Mla };

size_t ElementBytes(ElementCodec codec);
absl::string_view CodecName(ElementCodec codec);
StatusOr<ElementCodec> ParseCodec(absl::string_view name);

// One field of a row: "k" and "v" for heads, "c_kv" and "k_rope" for latents, "row" for the timed
// engine. A segment holds its fields one after the other, each [heads][block_tokens][elements].
struct RowField {
  std::string name;
  uint32_t heads = 1;
  uint32_t elements = 0;          // per head
  bool position_bearing = false;  // rotated keys
};

// A latent of 512 and 64 rotated values in 656 bytes.
RowField Fp8MlaField();

struct KvFormat {
  Digest256 model_fingerprint{};
  Digest256 numerics_class{};
  std::vector<RowField> fields;
  // Layers that own rows. A layer reading another's rows (CLA, MLKV, YOCO) owns none.
  uint32_t layers = 0;
  std::vector<uint32_t> layer_source;  // empty: layer l owns l; else the owning index per layer
  uint32_t block_tokens = 64;
  ElementCodec codec = ElementCodec::kBF16;
  std::string selection;  // empty: every row kept

  size_t row_elements() const;   // per layer and token
  size_t segment_bytes() const;  // one layer of one block
  size_t block_bytes() const { return segment_bytes() * layers; }
  size_t row_bytes() const { return row_elements() * ElementBytes(codec); }  // one layer

  std::string CanonicalText() const;
  Digest256 Digest() const;
};

// Reads what CanonicalText wrote, e.g. in a node's report; validated. INVALID_ARGUMENT names the
// word that is not understood.
StatusOr<KvFormat> ParseFormat(absl::string_view canonical_text);

// Refuses zero or oversized dimensions, and a row that is not the codec's, by name.
Status ValidateFormat(const KvFormat& format);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_BLOCK_KV_FORMAT_H_
