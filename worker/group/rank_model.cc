#include "worker/group/rank_model.h"

#include <algorithm>
#include <utility>

#include "worker/device/loaded_device.h"
#include "worker/group/device_compute.h"
#include "worker/group/host_compute.h"
#include "worker/model/transformer.h"
#include "worker/model/weights.h"
#include "worker/parallel/group_shape.h"

namespace reprise::worker {

StatusOr<kv::GroupSplit> SplitOn(const ComputeOn& on, absl::string_view shape) {
  ASSIGN_OR_RETURN(kv::GroupSplit split, parallel::ParseGroupShape(shape));
  if (on.device != "cpu" && split.context > 1) split.stripe_leaves = kDeviceStripeLeaves;
  return split;
}

StatusOr<std::unique_ptr<RankModel>> RankModel::Load(const ModelExecutorOptions& options,
                                                     const ComputeOn& on,
                                                     const kv::GroupSplit& split, uint32_t rank) {
  return on.device == "cpu" ? LoadOnHost(options, split, rank)
                            : LoadOnCard(options, on, split, rank);
}

StatusOr<std::unique_ptr<RankModel>> RankModel::LoadOnHost(const ModelExecutorOptions& options,
                                                           const kv::GroupSplit& split,
                                                           uint32_t rank) {
  RETURN_IF_ERROR(CheckModelOptions(options));
  ASSIGN_OR_RETURN(const ModelFolder folder, ModelFolder::Open(options.model_dir));
  ASSIGN_OR_RETURN(const ModelShare share, ShareOf(folder.config(), split, rank));
  ASSIGN_OR_RETURN(ModelWeights weights,
                   LoadModelWeights(folder, share, rank == 0 ? Sums::kOfAll : Sums::kOfShare));
  ASSIGN_OR_RETURN(ModelSetup setup, SetUpModel(folder, weights, options));
  RETURN_IF_ERROR(kv::CheckSplit(setup.info.kv_format, split));
  const TransformerOptions model_options{.isa = setup.isa,
                                         .threads = options.threads,
                                         .kv_dtype = setup.kv_dtype,
                                         .block_tokens = options.block_tokens,
                                         .piece_macs = options.piece_macs,
                                         .first_stage = share.first_stage,
                                         .last_stage = share.last_stage};
  ModelFingerprint fingerprint = std::move(weights.fingerprint);
  auto model = std::make_unique<Transformer>(ConfigOfShare(folder.config(), share),
                                             std::move(weights), model_options);
  return std::unique_ptr<RankModel>(new RankModel(std::move(setup), std::move(fingerprint),
                                                  folder.config(), share, split, rank,
                                                  std::make_unique<HostCompute>(std::move(model))));
}

StatusOr<std::unique_ptr<RankModel>> RankModel::LoadOnCard(const ModelExecutorOptions& options,
                                                           const ComputeOn& on,
                                                           const kv::GroupSplit& split,
                                                           uint32_t rank) {
  ASSIGN_OR_RETURN(LoadedDevice loaded, LoadOnDevice({.model_dir = options.model_dir,
                                                      .kv_dtype = options.kv_dtype,
                                                      .block_tokens = options.block_tokens,
                                                      .chunk_tokens = options.chunk_tokens,
                                                      .pool_bytes = on.pool_bytes,
                                                      .emulated = on.device == "emulated",
                                                      .unproven_kernels = on.unproven_kernels},
                                                     split, rank));
  ASSIGN_OR_RETURN(auto links, OpenDeviceLinks());
  ModelSetup setup{
      .info = std::move(loaded.info), .isa = kernels::BestIsa(), .kv_dtype = kernels::DType::kBF16};
  const kv::KvFormat& whole = setup.info.kv_format;
  auto compute = std::make_unique<DeviceCompute>(
      std::move(loaded.model), kv::FormatOfPart(whole, kv::PartOfRank(whole, split, rank)),
      std::move(links));
  return std::unique_ptr<RankModel>(new RankModel(std::move(setup), std::move(loaded.fingerprint),
                                                  loaded.config, loaded.share, split, rank,
                                                  std::move(compute)));
}

RankModel::RankModel(ModelSetup setup, ModelFingerprint fingerprint, const ModelConfig& config,
                     const ModelShare& share, const kv::GroupSplit& split, uint32_t rank,
                     std::unique_ptr<ShareCompute> compute)
    : setup_(std::move(setup)),
      fingerprint_(std::move(fingerprint)),
      config_(config),
      share_(share),
      split_(split),
      rows_(setup_.info.kv_format, kv::PartOfRank(setup_.info.kv_format, split, rank)),
      sends_rows_(SendsRows(setup_.info.kv_format, split, rank)),
      compute_(std::move(compute)) {}

GroupTerms RankModel::TermsOf(int32_t pages) const {
  return {.format_text = setup_.info.kv_format.CanonicalText(),
          .tensor_sums = fingerprint_.Sums(),
          .pages = pages};
}

Status RankModel::CheckTerms(const GroupTerms& terms) const {
  kv::KvFormat format = setup_.info.kv_format;
  ASSIGN_OR_RETURN(format.model_fingerprint, fingerprint_.DigestWith(terms.tensor_sums));
  const std::string own = format.CanonicalText();
  if (own == terms.format_text) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the group keeps \"", terms.format_text, "\", this rank \"", own, "\""));
}

Status RankModel::AttachPool(int32_t pages) {
  if (pages == pages_) return absl::OkStatus();
  ASSIGN_OR_RETURN(pool_, MappedMemory::Map(static_cast<size_t>(pages) * rows_.page_bytes(),
                                            "a rank's part of the KV pool"));
  pages_ = pages;
  return compute_->AttachPool(pool_.data(), pages);
}

Status RankModel::SetLinks(const GroupLinks& links) {
  context_ = links.place.context;
  return compute_->SetLinks(links);
}

Status RankModel::Forward(std::span<const StepItem> items, const Executor::LayerDone& layer_done,
                          TimeNs deadline_ns) {
  if (split_.context > 1) {
    own_items_.assign(items.begin(), items.end());
    own_pages_.resize(items.size());
    for (size_t i = 0; i < items.size(); ++i) {
      own_pages_[i] =
          OwnPages(items[i].pages, setup_.info.kv_format.block_tokens, split_, context_);
      own_items_[i].pages = own_pages_[i];
    }
    items = own_items_;
  }
  const Executor::LayerDone done = [&](uint32_t layer) {
    layer_done(static_cast<uint32_t>(share_.layers.begin) + layer);
  };
  return compute_->Forward(items, done, deadline_ns);
}

bool SendsRows(const kv::KvFormat& format, const kv::GroupSplit& split, uint32_t rank) {
  return kv::PlaceOf(split, rank).tensor % kv::HeadReplicas(format, split) == 0;
}

std::vector<size_t> OutputsOf(std::span<const StepItem> items, const kv::GroupSplit& split,
                              uint32_t context) {
  std::vector<size_t> outputs;
  size_t output = 0;
  for (const StepItem& item : items) {
    if (!item.wants_output) continue;
    const int64_t last = item.first_position + static_cast<int64_t>(item.tokens.size()) - 1;
    if (kv::ContextOwner(split, last) == context) outputs.push_back(output);
    ++output;
  }
  return outputs;
}

}  // namespace reprise::worker
