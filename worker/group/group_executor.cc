#include "worker/group/group_executor.h"

#include <algorithm>
#include <optional>
#include <stop_token>
#include <utility>

#include "common/clock.h"
#include "common/log.h"
#include "common/random.h"
#include "worker/engine/sampling_ops.h"

namespace reprise::worker {
namespace {

constexpr TimeNs kWatchPeriod = 250 * kMillisecond;
constexpr TimeNs kWatchPeriodIdle = kSecond;  // while no step is made
constexpr TimeNs kWatchTimeout = 500 * kMillisecond;
constexpr int kWatchPatience = 2;
// Of one step. More deaths than that in a row are no accident.
constexpr int kAttemptsMax = 8;

Status Stops() { return absl::UnavailableError("the group's driver stops"); }

StatusOr<std::vector<RankShare>> SharesOf(const ModelConfig& config, const kv::KvFormat& format,
                                          const kv::GroupSplit& split) {
  std::vector<RankShare> shares;
  for (uint32_t rank = 0; rank < split.ranks(); ++rank) {
    ASSIGN_OR_RETURN(const ModelShare share, ShareOf(config, split, rank));
    shares.push_back({.place = kv::PlaceOf(split, rank),
                      .rows = PartRows(format, kv::PartOfRank(format, split, rank)),
                      .sends_rows = SendsRows(format, split, rank),
                      .last_stage = share.last_stage,
                      .vocab = share.vocab});
  }
  return shares;
}

}  // namespace

StatusOr<std::unique_ptr<GroupExecutor>> GroupExecutor::Create(const GroupOptions& options,
                                                               MetricsRegistry* metrics) {
  if (options.ranks.size() + 1 < options.split.ranks()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a group of ", options.split.ranks(), " ranks needs ", options.split.ranks() - 1,
        " besides the worker, ", options.ranks.size(), " are named"));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<RankModel> own,
                   RankModel::Load(options.model, options.on, options.split, 0));
  ASSIGN_OR_RETURN(std::vector<RankShare> shares,
                   SharesOf(own->config(), own->setup().info.kv_format, options.split));
  ASSIGN_OR_RETURN(auto host, parallel::MakeUcxGroupHost(options.transport));
  std::unique_ptr<GroupExecutor> executor(
      new GroupExecutor(options, std::move(host), std::move(own), std::move(shares)));
  if (metrics != nullptr) executor->AddMetrics(metrics);
  return executor;
}

GroupExecutor::GroupExecutor(const GroupOptions& options, std::unique_ptr<parallel::GroupHost> host,
                             std::unique_ptr<RankModel> own, std::vector<RankShare> shares)
    : options_(options),
      info_(own->setup().info),
      host_(std::move(host)),
      own_(std::move(own)),
      shares_(std::move(shares)),
      members_({.owner = options.owner,
                .generation = WallClockMicroseconds(),
                .group = RandomU64(),
                .split = options.split,
                .host = options.transport.host,
                .ranks = options.ranks,
                .look_ns = options.look_ns,
                .connect_ns = options.connect_ns,
                .link_maker = own_->link_maker()},
               host_.get(), &stop_) {
  // Each context rank computes its part of a chunk.
  if (options_.model.chunk_tokens == 0) {
    info_.chunk_tokens_max *= static_cast<int32_t>(options_.split.context);
    info_.chunk_cost.max *= options_.split.context;
  }
  sample_scratch_.resize(static_cast<size_t>(info_.vocab_size));
}

GroupExecutor::~GroupExecutor() {
  Stop();
  watch_.Join();
  DropLinks(Stops());
}

void GroupExecutor::Stop() {
  stop_.Stop();
  MutexLock lock(mu_);
  if (links_ != nullptr) links_->Abort(Stops());
}

void GroupExecutor::AddMetrics(MetricsRegistry* metrics) {
  formations_ = &metrics->AddCounter("reprise_group_formations_total",
                                     "Epochs of the group of ranks that were formed.");
  pages_given_ = &metrics->AddCounter("reprise_group_pages_given_total",
                                      "Pages whose parts ranks were given before a step.");
  rows_given_ = &metrics->AddCounter("reprise_group_rows_given_total",
                                     "KV rows that ranks were given before a step.");
  metrics->RegisterCallbackGauge("reprise_group_epoch", "Epoch of the group of ranks.",
                                 [this] { return static_cast<double>(members_.epoch()); });
  metrics->RegisterCallbackCounter("reprise_group_places_replaced_total",
                                   "Places of ranks that another process took over.",
                                   [this] { return static_cast<double>(members_.replaced()); });
  const auto phase = [metrics](const char* name) {
    return &metrics->AddHistogram("reprise_group_formation_seconds",
                                  "Phases of forming an epoch of the group.", {{"phase", name}},
                                  LatencyBuckets());
  };
  find_seconds_ = phase("find");
  join_seconds_ = phase("join");
}

void GroupExecutor::AttachPool(uint8_t* base, int32_t pages) {
  pages_ = {base, info_.kv_format.block_bytes()};
  page_count_ = pages;
  given_.assign(static_cast<size_t>(pages), 0);
}

void GroupExecutor::SetTick(Tick tick) {
  tick_ = tick;
  own_->SetTick(std::move(tick));
}

void GroupExecutor::OnPagesReplaced(std::span<const int32_t> pages) {
  for (const int32_t page : pages) given_[static_cast<size_t>(page)] = 0;
}

std::vector<PageLoad> GroupExecutor::PlanLoads(std::span<const StepItem> items) {
  const auto block_tokens = static_cast<int64_t>(info_.kv_format.block_tokens);
  std::vector<PageLoad> loads;
  int64_t rows = 0;
  for (const StepItem& item : items) {
    const int64_t end = item.first_position + static_cast<int64_t>(item.tokens.size());
    for (int64_t block = 0; block * block_tokens < end; ++block) {
      uint8_t& given = given_[static_cast<size_t>(item.pages[static_cast<size_t>(block)])];
      const int64_t before = std::min(block_tokens, item.first_position - block * block_tokens);
      if (given == 0 && before > 0) {
        loads.push_back({item.pages[static_cast<size_t>(block)], block});
        rows += before;
      }
      given = 1;
    }
  }
  if (pages_given_ != nullptr) {
    pages_given_->Increment(static_cast<double>(loads.size()));
    rows_given_->Increment(static_cast<double>(rows));
  }
  return loads;
}

void GroupExecutor::DropLinks(const Status& reason) {
  std::unique_ptr<GroupLinks> links;
  {
    MutexLock lock(mu_);
    links = std::move(links_);
  }
  if (links == nullptr) return;
  links->Abort(reason);
  links = nullptr;  // first: it makes the driver's memory quiet
  driver_ = nullptr;
}

Status GroupExecutor::Reform(TimeNs deadline_ns) {
  if (own_->pages() == 0) RETURN_IF_ERROR(own_->AttachPool(page_count_));
  std::optional<std::stop_callback<std::function<void()>>> first;
  if (members_.epoch() == 0 && options_.stop != nullptr) {
    first.emplace(options_.stop->token(), [this] { Stop(); });
  }
  FormTimes times;
  const GroupTerms terms = own_->TermsOf(page_count_);
  ASSIGN_OR_RETURN(GroupLinks formed, members_.Form(terms, deadline_ns, &times));
  auto links = std::make_unique<GroupLinks>(std::move(formed));
  RETURN_IF_ERROR(own_->SetLinks(*links));
  std::fill(given_.begin(), given_.end(), 0);
  driver_ = std::make_unique<StepDriver>(*own_, shares_, *links, pages_);
  {
    MutexLock lock(mu_);
    links_ = std::move(links);
    if (stop_.stopped()) links_->Abort(Stops());
  }
  if (formations_ != nullptr) {
    formations_->Increment();
    find_seconds_->Observe(SecondsFromNs(times.find_ns));
    join_seconds_->Observe(SecondsFromNs(times.join_ns));
  }
  LogInfo("group_formed", {{"epoch", members_.epoch()},
                           {"replaced", members_.replaced()},
                           {"find_ms", MsFromNs(times.find_ns)},
                           {"join_ms", MsFromNs(times.join_ns)},
                           {"load_ms", MsFromNs(times.load_ns)}});
  if (!watch_.joinable()) watch_ = Thread("group_watch", [this] { Watch(); });
  return absl::OkStatus();
}

Status GroupExecutor::Run(std::span<const StepItem> items, const LayerDone& layer_done) {
  running_.store(true, std::memory_order_relaxed);
  Status status = Drive(items, layer_done);
  running_.store(false, std::memory_order_relaxed);
  return status;
}

Status GroupExecutor::Drive(std::span<const StepItem> items, const LayerDone& layer_done) {
  if (pages_.base == nullptr) return absl::FailedPreconditionError("no KV pool is attached");
  RETURN_IF_ERROR(CheckStep(info_, page_count_, items));
  output_of_item_.clear();
  int64_t outputs = 0;
  StepOrder order{.parts = PartsOf(items, options_.split.pipeline)};
  for (const StepItem& item : items) {
    output_of_item_.push_back(item.wants_output ? outputs++ : -1);
    order.items.push_back(CopyOf(item));
  }
  // What an attempt had done is not said again.
  int64_t layers_done = 0;
  const LayerDone done = [&](uint32_t layer) {
    if (layer >= layers_done) {
      layers_done = int64_t{layer} + 1;
      if (layer_done) layer_done(layer);
    } else if (tick_) {
      tick_();
    }
  };
  TimeNs give_up_ns =
      RealClock().NowNs() + (members_.epoch() == 0 ? options_.form_ns : options_.recover_ns);
  for (int attempt = 0;;) {
    if (driver_ != nullptr) {
      order.loads = PlanLoads(items);
      const Status status = driver_->Run(order, items, done, tick_, &logits_);
      if (status.ok()) return absl::OkStatus();
      if (stop_.stopped()) return Stops();
      if (++attempt == kAttemptsMax) {
        return absl::UnavailableError(
            absl::StrCat("a step failed ", attempt, " times: ", status.message()));
      }
      LogWarning("group_broken", {{"epoch", members_.epoch()}, {"status", status}});
      DropLinks(status);
      give_up_ns = RealClock().NowNs() + options_.recover_ns;
    }
    RETURN_IF_ERROR(Reform(give_up_ns));
  }
}

// A rank that stands still is missed by nobody else: its memory can still be read, and its
// connections stay open.
void GroupExecutor::Watch() {
  while (
      !stop_.WaitFor(running_.load(std::memory_order_relaxed) ? kWatchPeriod : kWatchPeriodIdle)) {
    const Status status = members_.Check(kWatchTimeout, kWatchPatience);
    if (status.ok()) continue;
    MutexLock lock(mu_);
    if (links_ != nullptr) links_->Abort(status);
  }
}

SampledToken GroupExecutor::Sample(size_t item, const SampleInput& input) {
  if (item >= output_of_item_.size() || output_of_item_[item] < 0) return {};
  const auto vocab = static_cast<size_t>(info_.vocab_size);
  const float* const row = logits_.data() + static_cast<size_t>(output_of_item_[item]) * vocab;
  std::copy(row, row + vocab, sample_scratch_.begin());
  return SampleWith(own_->ops(), sample_scratch_, input);
}

}  // namespace reprise::worker
