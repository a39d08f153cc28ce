// What the driver of a group tells its ranks: the rows of a step, in parts that follow each other
// through the pipeline, and which pages they must be given first. Encoded and decoded with every
// length checked. Values; any thread.
//
// Invariants:
// 1. Decoding accepts exactly what encoding produces.
// 2. A decoded order is within every limit: pages and tokens are not negative, parts are not empty
//    and hold all items; that pages exist and tables cover the positions is the rank's to check.
#ifndef REPRISE_WORKER_GROUP_STEP_ORDER_H_
#define REPRISE_WORKER_GROUP_STEP_ORDER_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "worker/engine/executor.h"

namespace reprise::worker {

// A page whose bytes follow the order, to those ranks that hold a part of the block.
struct PageLoad {
  int32_t page = 0;
  int64_t block = 0;  // where it stands in its sequence
  bool operator==(const PageLoad&) const = default;
};

struct StepOrder {
  struct Item {
    std::vector<int32_t> tokens;
    int64_t first_position = 0;
    int64_t prompt_end = INT64_MAX;
    bool wants_output = false;
    std::vector<int32_t> pages;
    bool operator==(const Item&) const = default;
  };
  std::vector<PageLoad> loads;
  std::vector<Item> items;
  std::vector<uint32_t> parts;  // how many items each has
  bool operator==(const StepOrder&) const = default;
};

// The first message of an order: how long the second, the order itself, is, and how much time the
// driver gives the step, as clocks differ.
struct OrderHeader {
  uint64_t bytes = 0;
  uint64_t step_ms = 0;
  bool operator==(const OrderHeader&) const = default;
};
inline constexpr size_t kOrderHeaderBytes = 16;

std::string EncodeHeader(const OrderHeader& header);
// INVALID_ARGUMENT names the field and the limit.
StatusOr<OrderHeader> DecodeHeader(std::span<const uint8_t> bytes);

std::string EncodeStep(const StepOrder& order);
// INVALID_ARGUMENT names the field.
StatusOr<StepOrder> DecodeStep(std::span<const uint8_t> bytes);

StepItem ViewOf(const StepOrder::Item& item);
StepOrder::Item CopyOf(const StepItem& item);

// The items of a step cut into at most `parts` parts of about as many rows each.
std::vector<uint32_t> PartsOf(std::span<const StepItem> items, uint32_t parts);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_GROUP_STEP_ORDER_H_
