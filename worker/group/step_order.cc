#include "worker/group/step_order.h"

#include <algorithm>
#include <numeric>

#include "common/bytes.h"
#include "common/limits.h"

namespace reprise::worker {
namespace {

void WriteIds(ByteWriter<std::string>& out, const std::vector<int32_t>& ids) {
  out.U32(static_cast<uint32_t>(ids.size()));
  for (const int32_t id : ids) out.I32(id);
}

std::vector<int32_t> ReadIds(ByteReader& in, const char* field, uint32_t count_max) {
  std::vector<int32_t> ids(in.Count(field, count_max, sizeof(int32_t)));
  for (int32_t& id : ids) {
    id = in.I32(field);
    if (id < 0) in.Fail(absl::StrCat(field, " holds ", id));
  }
  return ids;
}

int64_t ReadPosition(ByteReader& in, const char* field) {
  const int64_t position = in.I64(field);
  if (position < 0) in.Fail(absl::StrCat(field, " is ", position));
  return position;
}

constexpr size_t kItemBytesMin = 4 + 8 + 8 + 1 + 4;
constexpr size_t kLoadBytes = 4 + 8;

}  // namespace

std::string EncodeHeader(const OrderHeader& header) {
  std::string bytes;
  ByteWriter(bytes).U64(header.bytes).U64(header.step_ms);
  return bytes;
}

StatusOr<OrderHeader> DecodeHeader(std::span<const uint8_t> bytes) {
  ByteReader in(bytes);
  OrderHeader header;
  header.bytes = in.U64("order bytes");
  header.step_ms = in.U64("step ms");
  RETURN_IF_ERROR(in.Finish());
  if (header.bytes > limits::kGroupOrderBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "an order has ", header.bytes, " bytes, the limit is ", limits::kGroupOrderBytesMax));
  }
  if (header.step_ms < 1 || header.step_ms > limits::kGroupStepMsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a step may take ", header.step_ms, " ms, allowed are 1 to ", limits::kGroupStepMsMax));
  }
  return header;
}

std::string EncodeStep(const StepOrder& order) {
  std::string bytes;
  ByteWriter out(bytes);
  out.U32(static_cast<uint32_t>(order.loads.size()));
  for (const PageLoad& load : order.loads) out.I32(load.page).I64(load.block);
  out.U32(static_cast<uint32_t>(order.items.size()));
  for (const StepOrder::Item& item : order.items) {
    WriteIds(out, item.tokens);
    out.I64(item.first_position).I64(item.prompt_end).U8(item.wants_output ? 1 : 0);
    WriteIds(out, item.pages);
  }
  out.U32(static_cast<uint32_t>(order.parts.size()));
  for (const uint32_t part : order.parts) out.U32(part);
  return bytes;
}

StatusOr<StepOrder> DecodeStep(std::span<const uint8_t> bytes) {
  ByteReader in(bytes);
  StepOrder order;
  order.loads.resize(in.Count("loads", limits::kGroupLoadsMax, kLoadBytes));
  for (PageLoad& load : order.loads) {
    load.page = in.I32("load page");
    if (load.page < 0) in.Fail(absl::StrCat("load page is ", load.page));
    load.block = ReadPosition(in, "load block");
  }
  order.items.resize(
      in.Count("items", static_cast<uint32_t>(limits::kWorkerRunningMax), kItemBytesMin));
  for (StepOrder::Item& item : order.items) {
    item.tokens = ReadIds(in, "tokens", static_cast<uint32_t>(limits::kPromptTokensMax));
    item.first_position = ReadPosition(in, "first position");
    item.prompt_end = ReadPosition(in, "prompt end");
    const uint8_t wants = in.U8("wants output");
    if (wants > 1) in.Fail(absl::StrCat("wants output is ", wants));
    item.wants_output = wants == 1;
    item.pages = ReadIds(in, "pages", static_cast<uint32_t>(limits::kContextTokensMax));
    if (!in.ok()) return in.status();
  }
  order.parts.resize(in.Count("parts", static_cast<uint32_t>(limits::kWorkerRunningMax), 4));
  uint64_t held = 0;
  for (uint32_t& part : order.parts) {
    part = in.U32("part");
    if (part == 0) in.Fail("a part is empty");
    held += part;
  }
  RETURN_IF_ERROR(in.Finish());
  if (held != order.items.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("parts hold ", held, " items of ", order.items.size()));
  }
  return order;
}

StepItem ViewOf(const StepOrder::Item& item) {
  return {.tokens = item.tokens,
          .first_position = item.first_position,
          .pages = item.pages,
          .wants_output = item.wants_output,
          .prompt_end = item.prompt_end};
}

StepOrder::Item CopyOf(const StepItem& item) {
  return {.tokens = {item.tokens.begin(), item.tokens.end()},
          .first_position = item.first_position,
          .prompt_end = item.prompt_end,
          .wants_output = item.wants_output,
          .pages = {item.pages.begin(), item.pages.end()}};
}

std::vector<uint32_t> PartsOf(std::span<const StepItem> items, uint32_t parts) {
  const size_t rows =
      std::accumulate(items.begin(), items.end(), size_t{0},
                      [](size_t sum, const StepItem& item) { return sum + item.tokens.size(); });
  std::vector<uint32_t> sizes;
  size_t taken = 0;
  for (const StepItem& item : items) {
    // A part begins where its share of the rows does.
    if (sizes.empty() || (sizes.size() < parts && taken * parts >= sizes.size() * rows)) {
      sizes.push_back(0);
    }
    ++sizes.back();
    taken += item.tokens.size();
  }
  return sizes;
}

}  // namespace reprise::worker
