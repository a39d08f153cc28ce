// A rank of ring_bench, in a process of its own: computes its part of one prompt with the others,
// or the whole prompt alone, and prints what it made as checksums.
//
// Output, a line each: "leaf INDEX LOGITS KV" for every leaf of positions it owns (checksums of
// their logits and of their KV in all layers), then "NAME VALUE" for what it counted.
#include <sys/resource.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "bench/slow_link.h"
#include "common/crc32c.h"
#include "common/flags.h"
#include "common/random.h"
#include "worker/model/host_context_parallel.h"
#include "worker/model/model_folder.h"
#include "worker/model/transformer.h"
#include "worker/parallel/ucx_group.h"

namespace reprise::bench {
namespace {

constexpr int64_t kBlockTokens = 64;
constexpr TimeNs kJoinPatience = 60 * kSecond;
constexpr TimeNs kStepPatience = 1200 * kSecond;

struct Options {
  std::string model;
  std::string ports;  // by rank; one: alone
  int64_t rank = 0;
  int64_t tokens = 0;
  int64_t leaves = 1;
  int64_t threads = 1;
  double link_bytes_per_s = 0;  // 0: as fast as it is
};

// Keys travel as in a call, and nobody computes.
class NoAttender final : public parallel::Attender {
  void Attend(const kernels::PagedKv&, std::span<const kernels::AttentionItem>) override {}
};

class Rank {
 public:
  Rank(const Options& options, const worker::ModelFolder& folder, worker::ModelWeights weights)
      : options_(options),
        model_(folder.config(), std::move(weights),
               {.isa = kernels::BestIsa(),
                .threads = static_cast<int>(options.threads),
                .block_tokens = kBlockTokens}),
        kv_(worker::KvShape(folder.config())) {
    kv_.block_tokens = kBlockTokens;
    layers_ = folder.config().layers;
    kv_.page_stride_bytes = SegmentBytes(kv_) * layers_;
  }

  Status Run() {
    const std::vector<std::string> ports = absl::StrSplit(options_.ports, ',');
    ASSIGN_OR_RETURN(const parallel::Stripes stripes,
                     parallel::Stripes::Make(static_cast<int>(ports.size()), options_.leaves));
    if (ports.size() > 1) RETURN_IF_ERROR(Join(ports, stripes));
    std::printf("joined 1\n");
    std::fflush(stdout);
    MakePool(stripes);
    const TimeNs start = RealClock().NowNs();
    RETURN_IF_ERROR(Forward());
    std::printf("prefill_ns %" PRId64 "\n", RealClock().NowNs() - start);
    PrintLeaves(stripes);
    return PrintCounts(stripes);
  }

 private:
  Status Join(const std::vector<std::string>& ports, const parallel::Stripes& stripes) {
    parallel::GroupSpec spec{
        .group = 1, .epoch = 1, .rank = static_cast<int>(options_.rank), .addresses = {}};
    for (const std::string& port : ports) {
      spec.addresses.push_back({"127.0.0.1", 0});
      if (!absl::SimpleAtoi(port, &spec.addresses.back().port)) {
        return absl::InvalidArgumentError(absl::StrCat("--ports has \"", port, "\""));
      }
    }
    ASSIGN_OR_RETURN(host_, parallel::MakeUcxGroupHost(
                                {.port = spec.addresses[static_cast<size_t>(options_.rank)].port}));
    ASSIGN_OR_RETURN(joined_, host_->Join(spec, RealClock().NowNs() + kJoinPatience));
    communicator_ = joined_.get();
    if (options_.link_bytes_per_s > 0) {
      slow_ = std::make_unique<SlowLink>(*joined_, options_.link_bytes_per_s);
      communicator_ = slow_.get();
    }
    parallel::ContextRules rules;
    rules.way = parallel::Way::kRing;
    context_ =
        std::make_unique<worker::HostContextParallel>(*communicator_, model_.ops(), stripes, rules);
    model_.SetRanks({.context = context_.get()});
    return absl::OkStatus();
  }

  void MakePool(const parallel::Stripes& stripes) {
    const int64_t rows = stripes.RowsKept(static_cast<int>(options_.rank), options_.tokens);
    const int64_t pages = (rows + kBlockTokens - 1) / kBlockTokens;
    for (int64_t i = 0; i < pages; ++i) pages_.push_back(static_cast<int32_t>(i));
    pool_.resize(static_cast<size_t>(pages * kv_.page_stride_bytes));
    model_.AttachPool(pool_.data());
  }

  Status Forward() {
    SplitMix64 random(17);
    std::vector<int32_t> tokens(static_cast<size_t>(options_.tokens));
    for (int32_t& token : tokens) {
      token = static_cast<int32_t>(random.Below(static_cast<uint64_t>(model_.config().vocab)));
    }
    const worker::StepItem item{.tokens = tokens, .first_position = 0, .pages = pages_};
    return model_.Forward({&item, 1}, worker::Transformer::Outputs::kAll, nullptr,
                          RealClock().NowNs() + kStepPatience);
  }

  void PrintLeaves(const parallel::Stripes& stripes) const {
    int64_t output = 0;
    const auto rank = static_cast<int>(options_.rank);
    for (int64_t at = 0; at < options_.tokens; at += kernels::kLeafTokens) {
      if (stripes.OwnerOfPosition(at) != rank) continue;
      const int64_t end = std::min(at + kernels::kLeafTokens, options_.tokens);
      uint32_t logits = 0;
      for (int64_t i = at; i < end; ++i, ++output) {
        const std::span<const float> row = model_.logits(output);
        logits = Crc32c(row.data(), row.size_bytes(), logits);
      }
      const int64_t page = stripes.LocalRow(at) / kBlockTokens;
      const int64_t pages = (end - at + kBlockTokens - 1) / kBlockTokens;
      const uint32_t kv = Crc32c(pool_.data() + page * kv_.page_stride_bytes,
                                 static_cast<size_t>(pages * kv_.page_stride_bytes));
      std::printf("leaf %" PRId64 " %u %u\n", at / kernels::kLeafTokens, logits, kv);
    }
  }

  Status PrintCounts(const parallel::Stripes& stripes) {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::printf("resident_bytes %ld\n", usage.ru_maxrss * 1024);
    std::printf("cache_bytes %zu\n", pool_.size());
    if (context_ == nullptr) return absl::OkStatus();
    const parallel::ContextStats& stats = context_->stats();
    std::printf("attention_ns %" PRId64 "\nwait_ns %" PRId64 "\n", stats.total_ns, stats.wait_ns);
    std::printf("shard_bytes %" PRId64 "\npartial_bytes %" PRId64 "\n", stats.buffer_bytes_peak,
                stats.partial_bytes_peak);
    uint64_t sent = 0;
    for (const parallel::OpStats& op : communicator_->stats()) sent += op.bytes_sent;
    std::printf("sent_bytes %" PRIu64 "\n", sent);
    return TransferAlone(stripes);
  }

  // The same transfers with nothing to hide behind.
  Status TransferAlone(const parallel::Stripes& stripes) {
    const int64_t rows = stripes.RowsKept(communicator_->rank(), options_.tokens);
    std::vector<float> column(static_cast<size_t>(rows));
    const kernels::F32 narrow{column.data(), rows, 1, 1};
    parallel::ContextPlan plan;
    plan.ring.push_back({0, options_.tokens, pages_.data(), 0});
    NoAttender attender;
    kernels::PagedKv kv = kv_;
    kv.base = pool_.data();
    parallel::HostContextCompute compute(model_.ops());
    compute.SetCall(kv, 1, 1, &attender);
    parallel::ContextAttention attention(*communicator_, compute, stripes, RealClock());
    const TimeNs deadline = RealClock().NowNs() + kStepPatience;
    RETURN_IF_ERROR(communicator_->Barrier(deadline));
    for (int64_t layer = 0; layer < layers_; ++layer) {
      RETURN_IF_ERROR(attention.Attend({.pages = parallel::PagesOf(kv),
                                        .block_tokens = kv.block_tokens,
                                        .page_bytes = kernels::SegmentBytes(kv),
                                        .heads = 1,
                                        .query_dim = 1,
                                        .value_dim = 1,
                                        .q = parallel::BytesOf(narrow),
                                        .out = parallel::BytesOf(narrow),
                                        .plan = &plan},
                                       deadline));
    }
    std::printf("transfer_alone_ns %" PRId64 "\n", attention.stats().total_ns);
    return communicator_->Barrier(deadline);
  }

  const Options options_;
  std::unique_ptr<parallel::GroupHost> host_;
  std::unique_ptr<parallel::Communicator> joined_;
  std::unique_ptr<SlowLink> slow_;
  parallel::Communicator* communicator_ = nullptr;  // one of the two
  std::unique_ptr<worker::HostContextParallel> context_;
  worker::Transformer model_;
  kernels::PagedKv kv_;
  int64_t layers_ = 0;
  std::vector<int32_t> pages_;
  std::vector<std::byte> pool_;
};

Status Main(const Options& options) {
  ASSIGN_OR_RETURN(const worker::ModelFolder folder, worker::ModelFolder::Open(options.model));
  ASSIGN_OR_RETURN(worker::ModelWeights weights, worker::LoadModelWeights(folder));
  return Rank(options, folder, std::move(weights)).Run();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  reprise::bench::Options o;
  reprise::FlagSet flags("ring_rank", "A rank of ring_bench.");
  flags.Add("model", &o.model, "the model's folder");
  flags.Add("ports", &o.ports, "of all ranks, by rank");
  flags.Add("rank", &o.rank, "this one's number");
  flags.Add("tokens", &o.tokens, "of the prompt");
  flags.Add("leaves", &o.leaves, "of a stripe");
  flags.Add("threads", &o.threads, "to compute with");
  flags.Add("link-bytes-per-s", &o.link_bytes_per_s, "keys of others come so fast; 0: as they do");
  const auto parsed = flags.Parse(std::vector<std::string>(argv + 1, argv + argc));
  const auto status = parsed.ok() ? reprise::bench::Main(o) : parsed.status();
  if (!status.ok()) std::fprintf(stderr, "ring_rank: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
