// Sequences with random keys and queries, whole on one rank and in stripes over the ranks of a
// group of threads, so that tests can compare what both make of them. Owner: tests.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_TEST_SEQUENCE_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_TEST_SEQUENCE_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "worker/parallel/context/context_attention.h"
#include "worker/parallel/in_process.h"

namespace reprise::parallel {

struct TestShape {
  std::string name;
  kernels::KvLayout layout = kernels::KvLayout::kHeads;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t key_dim = 16;
  int64_t value_dim = 16;
  kernels::DType dtype = kernels::DType::kF32;
  int64_t block_tokens = 64;

  CostShape cost() const;
};
// gtest prints parameters.
inline void PrintTo(const TestShape& shape, std::ostream* out) { *out << shape.name; }
// GQA, MHA, MQA and latents, f32 and bf16, pages of several sizes.
std::vector<TestShape> TestShapes();

// A pool of pages; what nobody wrote is NaN. Layer 1 of two is the one in use.
class TestPool {
 public:
  TestPool(const TestShape& shape, int64_t pages);
  const kernels::PagedKv& kv() const { return kv_; }
  std::vector<std::byte>& memory() { return memory_; }

 private:
  kernels::PagedKv kv_;
  std::vector<std::byte> memory_;
};

class TestSequence {
 public:
  TestSequence(const TestShape& shape, int64_t positions, uint32_t seed);

  const TestShape& shape() const { return shape_; }
  int64_t positions() const { return positions_; }
  kernels::ConstF32 q(int64_t position, int64_t rows) const;
  // Writes positions [begin, end) to row `row` on.
  void Write(const TestPool& pool, const int32_t* pages, PositionRange range, int64_t row) const;
  // Rows [first, first + rows) of what one rank makes of all positions, by one call of the kernel.
  std::span<const float> Whole(int64_t first, int64_t rows) const;

 private:
  std::vector<float> AttendWhole() const;

  const TestShape shape_;
  const int64_t positions_;
  std::vector<float> q_, first_, second_;
  std::vector<float> whole_;
};

// Queries [first, first + rows) of a sequence.
struct TestQuery {
  const TestSequence* sequence = nullptr;
  int64_t first = 0;
  int64_t rows = 0;
};

struct TestRun {
  std::vector<Status> statuses;              // by rank
  std::vector<std::vector<float>> out;       // by query: what its rows' owners made
  std::vector<ContextStats> stats;           // by rank
  std::vector<CommunicatorStats> transport;  // by rank
  std::vector<int64_t> cache_rows;           // by rank
  int64_t bytes_sent(int rank) const;
};

struct TestGroup {
  int ranks = 1;
  int64_t leaves = 1;  // of a stripe
  ContextRules rules;
  TimeNs patience_ns = 60 * kSecond;
  // Called on a rank's thread before its call.
  std::function<void(int rank, InProcessGroup& group)> before = nullptr;
  // Stands between a rank and its communicator.
  std::function<std::unique_ptr<Communicator>(Communicator&)> between = nullptr;
  // Called on a rank's thread before it computes anything.
  std::function<void(int rank)> before_compute = nullptr;

  // All ranks attend to all queries in one call.
  TestRun Attend(const std::vector<TestQuery>& queries) const;
  // Expects every row to have the bits of one rank's.
  void ExpectWhole(const std::vector<TestQuery>& queries, TestRun* run = nullptr) const;
};

std::string Describe(const TestGroup& group, const TestQuery& query);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_TEST_SEQUENCE_H_
