#include "worker/parallel/nccl/call_post.h"

#include "common/bytes.h"

namespace reprise::parallel {
namespace {

constexpr size_t kFixedBytes = 38;

void Check(ByteReader& in, uint8_t kind, uint8_t op, uint32_t peer, int size) {
  const bool collective = kind == static_cast<uint8_t>(PostKind::kCollective);
  if (kind > static_cast<uint8_t>(PostKind::kBye) || op >= kOps ||
      peer >= static_cast<uint32_t>(size) ||
      collective == (op == static_cast<uint8_t>(Op::kPointToPoint))) {
    in.Fail(absl::StrCat("a post of kind ", kind, ", operation ", op, ", with rank ", peer, " of ",
                         size));
  }
}

}  // namespace

size_t PostBytes(int size) {
  return kFixedBytes + 2 * sizeof(uint64_t) * static_cast<size_t>(size);
}

std::vector<uint8_t> EncodePost(const CallPost& post, int size) {
  std::vector<uint8_t> bytes;
  ByteWriter out(bytes);
  out.U64(post.number).U8(static_cast<uint8_t>(post.kind)).U8(static_cast<uint8_t>(post.tag.op));
  out.U32(post.tag.call).U32(post.tag.step).U64(post.tag.call_bytes);
  out.U32(static_cast<uint32_t>(post.peer)).U64(post.bytes);
  for (const auto* list : {&post.sends, &post.receives}) {
    for (size_t r = 0; r < static_cast<size_t>(size); ++r) {
      out.U64(r < list->size() ? (*list)[r] : 0);
    }
  }
  return bytes;
}

StatusOr<CallPost> DecodePost(std::span<const uint8_t> bytes, int size) {
  ByteReader in(bytes);
  CallPost post;
  post.number = in.U64("number");
  const uint8_t kind = in.U8("kind");
  const uint8_t op = in.U8("operation");
  post.tag.call = in.U32("call");
  post.tag.step = in.U32("step");
  post.tag.call_bytes = in.U64("bytes of the call");
  const uint32_t peer = in.U32("peer");
  post.bytes = in.U64("bytes");
  for (auto* list : {&post.sends, &post.receives}) {
    for (int r = 0; r < size; ++r) list->push_back(in.U64("bytes of a rank"));
  }
  Check(in, kind, op, peer, size);
  RETURN_IF_ERROR(in.Finish());
  post.kind = static_cast<PostKind>(kind);
  post.tag.op = static_cast<Op>(op);
  post.peer = static_cast<int>(peer);
  return post;
}

}  // namespace reprise::parallel
