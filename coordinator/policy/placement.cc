#include "coordinator/policy/placement.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/policy/prefix_cover.h"
#include "kvstore/block/replica_choice.h"

namespace reprise::coordinator {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What the request asks of any node, in blocks and tokens.
struct Need {
  int64_t block_tokens = 0;
  int64_t held_tokens = 0;  // prompt and what was emitted
  int64_t prompt_tokens = 0;
  int64_t blocks_now = 0;     // for these and one more block a branch
  int64_t blocks_at_end = 0;  // if every branch reaches max_tokens
};

Need NeedOf(const PlaceQuery& query, int64_t block_tokens) {
  Need need;
  need.block_tokens = block_tokens;
  need.prompt_tokens = query.prompt_tokens;
  need.held_tokens = int64_t{query.prompt_tokens} + query.emitted_tokens;
  const int64_t prompt_blocks = CeilDiv(need.prompt_tokens, block_tokens);
  const int64_t branches = query.branches;
  const auto with_growth = [&](int64_t tokens) {
    return prompt_blocks + branches * CeilDiv(tokens, block_tokens);
  };
  need.blocks_now = with_growth(query.emitted_tokens) + branches;
  need.blocks_at_end = std::max(need.blocks_now, with_growth(query.max_tokens));
  return need;
}

bool IsAvoided(const PlaceQuery& query, const NodeView& node) {
  return std::find(query.avoid.begin(), query.avoid.end(), node.info->ref.key) != query.avoid.end();
}

class Chooser {
 public:
  Chooser(const PlacementOptions& options, const ClusterView& view, const PlaceQuery& query)
      : options_(options),
        view_(view),
        query_(query),
        need_(NeedOf(query, view.model->block_tokens)),
        cover_(view.holders, MarkSources(view, query)) {}

  std::variant<Choice, Refusal> Choose() {
    if (std::optional<Refusal> refusal = CheckSize()) return *std::move(refusal);
    const std::vector<const NodeView*> usable = UsableDecoders();
    if (usable.empty()) {
      return Refusal{RefusalCode::kNoWorkers, "no live worker decodes this model",
                     options_.retry_no_workers_ms};
    }
    RankPrefillers();
    Ranked best;
    for (const NodeView* node : usable) {
      if (!query_.accepted_before() && !Admits(*node)) continue;
      const Ranked ranked{node, DecodeCost(*node)};
      if (ranked.Beats(best)) best = ranked;
    }
    if (best.node == nullptr) return NoRoom(usable);
    return Compose(*best.node);
  }

 private:
  struct Ranked {
    const NodeView* node = nullptr;
    int64_t cost = 0;

    // Between equals it is the earlier one's, whose name is lower.
    bool Beats(const Ranked& other) const {
      if (other.node == nullptr) return true;
      return std::pair(cost, RanksTaken(*node)) < std::pair(other.cost, RanksTaken(*other.node));
    }
  };

  // From long prompts: only with context ranks is a group left to them.
  static uint32_t RanksTaken(const NodeView& node) {
    return node.info->group.context > 1 ? node.info->group.ranks() : 1;
  }

  // Live nodes the caller did not lose the request on; they may serve KV.
  static std::vector<bool> MarkSources(const ClusterView& view, const PlaceQuery& query) {
    std::vector<bool> usable;
    for (const NodeView& node : view.nodes) {
      if (node.slot >= usable.size()) usable.resize(size_t{node.slot} + 1);
      const bool serves = node.state == NodeState::kLive || node.state == NodeState::kLeaving;
      usable[node.slot] = serves && !IsAvoided(query, node);
    }
    return usable;
  }

  std::optional<Refusal> CheckSize() const {
    if (static_cast<int64_t>(query_.block_ids.size()) > need_.held_tokens / need_.block_tokens) {
      return Refusal{RefusalCode::kMalformed,
                     absl::StrCat(query_.block_ids.size(), " block ids for ", need_.held_tokens,
                                  " tokens in blocks of ", need_.block_tokens)};
    }
    const int64_t end_tokens = int64_t{query_.prompt_tokens} + query_.max_tokens;
    if (end_tokens > view_.model->context_tokens) {
      return Refusal{RefusalCode::kTooLong,
                     absl::StrCat("prompt and max_tokens make ", end_tokens,
                                  " tokens, the model's context is ", view_.model->context_tokens)};
    }
    int64_t largest = 0;
    for (const NodeView& node : view_.nodes) {
      if (Decodes(node)) largest = std::max(largest, node.load->blocks_total);
    }
    if (largest > 0 && need_.blocks_at_end > largest) {
      return Refusal{RefusalCode::kTooLong,
                     absl::StrCat("the request needs ", need_.blocks_at_end,
                                  " blocks, the largest worker has ", largest)};
    }
    return std::nullopt;
  }

  static bool Decodes(const NodeView& node) {
    return node.info->role == Role::kWorker && node.info->can_decode && node.allowed.decode;
  }
  static bool Prefills(const NodeView& node) {
    return node.info->role == Role::kWorker && node.info->can_prefill && node.allowed.prefill;
  }

  // The best class of decode workers that has any: live; suspect; live though avoided. An avoided
  // incarnation that still reports did not crash, and to wait for it beats refusing for ever.
  std::vector<const NodeView*> UsableDecoders() const {
    std::vector<const NodeView*> classes[3];
    for (const NodeView& node : view_.nodes) {
      if (!Decodes(node) || node.load->blocks_total < need_.blocks_at_end) continue;
      const bool avoided = IsAvoided(query_, node);
      if (node.state == NodeState::kLive) classes[avoided ? 2 : 0].push_back(&node);
      if (node.state == NodeState::kSuspect && !avoided) classes[1].push_back(&node);
    }
    for (auto& nodes : classes) {
      if (!nodes.empty()) return std::move(nodes);
    }
    return {};
  }

  int64_t LeadingBlocks(const NodeView& node) const { return cover_.Leading(node.slot); }

  // Blocks of the node that would be free for what it does not hold yet.
  int64_t Room(const NodeView& node) const {
    return node.load->blocks_free + node.load->blocks_cached - node.reserved.blocks;
  }
  bool HasRoom(const NodeView& node) const {
    return Room(node) >= need_.blocks_now - LeadingBlocks(node);
  }
  bool Admits(const NodeView& node) const {
    const int64_t waiting = int64_t{node.load->waiting} + node.reserved.requests;
    return waiting < (HasRoom(node) ? options_.waiting_max : options_.waiting_without_room_max);
  }

  Refusal NoRoom(const std::vector<const NodeView*>& usable) const {
    int64_t most = 0;
    for (const NodeView* node : usable) most = std::max(most, Room(*node));
    return {
        RefusalCode::kNoRoom,
        absl::StrCat("the request needs ", need_.blocks_now, " blocks, no worker has more than ",
                     most, " free, and their queues are full"),
        options_.retry_no_room_ms};
  }

  // Tokens whose KV is nowhere, of all and of the prompt's.
  int64_t UncachedTokens() const { return need_.held_tokens - CoveredTokens(need_.held_tokens); }
  int64_t UncachedPrompt() const {
    return need_.prompt_tokens - CoveredTokens(need_.prompt_tokens);
  }
  int64_t CoveredTokens(int64_t bound) const {
    return std::min(bound, cover_.covered() * need_.block_tokens);
  }

  int64_t MoveCost(int64_t tokens) const { return tokens / options_.move_discount; }
  int64_t MissingPrefixCost(const NodeView& node) const {
    return MoveCost((cover_.covered() - LeadingBlocks(node)) * need_.block_tokens);
  }
  int64_t BatchCost(const NodeView& node) const {
    return options_.running_tokens * node.load->running +
           options_.waiting_tokens * (node.load->waiting + node.reserved.requests);
  }
  // What `tokens` of prompts cost the node's context ranks, which share them.
  static int64_t ComputeCost(const NodeView& node, int64_t tokens) {
    return tokens / BusyContextRanks(node.info->group, tokens);
  }
  // The queue as if it were one prompt: which ones it is made of is not reported.
  static int64_t QueueCost(const NodeView& node) {
    return ComputeCost(node, node.load->queued_prefill_tokens + node.reserved.prefill_tokens);
  }

  // The cost of having the uncached prompt computed at `node`, without moving the result.
  int64_t PrefillCost(const NodeView& node) const {
    const int64_t compute = ComputeCost(node, UncachedPrompt());
    const int64_t delays = Decodes(node) ? options_.mixed_prefill_tokens + compute : 0;
    return MissingPrefixCost(node) + QueueCost(node) + compute + delays +
           options_.running_tokens * node.load->running;
  }

  // Keeps the two cheapest prefill workers: the second serves when the first decodes.
  void RankPrefillers() {
    if (UncachedPrompt() < std::max(1, options_.remote_prefill_min_tokens)) return;
    for (const NodeView& node : view_.nodes) {
      const bool able =
          Prefills(node) && node.state == NodeState::kLive && !IsAvoided(query_, node);
      if (!able || !HasRoom(node)) continue;
      const Ranked ranked{&node, PrefillCost(node)};
      if (ranked.Beats(first_)) {
        second_ = first_;
        first_ = ranked;
      } else if (ranked.Beats(second_)) {
        second_ = ranked;
      }
    }
  }

  // The worker that prefills for `decode`; null when it does so itself.
  const NodeView* PrefillerFor(const NodeView& decode) const {
    const Ranked& other = first_.node == &decode ? second_ : first_;
    if (other.node == nullptr) return nullptr;
    const bool self_cheaper =
        Prefills(decode) && PrefillCost(decode) <= other.cost + MoveCost(UncachedPrompt());
    return self_cheaper ? nullptr : other.node;
  }

  int64_t DecodeCost(const NodeView& node) const {
    const int64_t lacking =
        std::max<int64_t>(0, need_.blocks_at_end - LeadingBlocks(node) - Room(node));
    int64_t cost = MissingPrefixCost(node) + BatchCost(node) + lacking * need_.block_tokens;
    if (const NodeView* prefiller = PrefillerFor(node)) {
      cost += PrefillCost(*prefiller) + MoveCost(UncachedPrompt());
    } else {
      // Context ranks share the prompt; what was emitted is replayed step by step.
      cost += QueueCost(node) + ComputeCost(node, UncachedPrompt()) +
              (UncachedTokens() - UncachedPrompt());
    }
    return cost;
  }

  Choice Compose(const NodeView& decode) const {
    Choice choice;
    choice.decode = decode.slot;
    choice.placement.decode = decode.info->ref;
    choice.at_decode.requests = 1;
    choice.at_decode.blocks = std::max<int64_t>(0, need_.blocks_now - LeadingBlocks(decode));
    if (const NodeView* prefiller = PrefillerFor(decode)) {
      choice.prefill = prefiller->slot;
      choice.placement.prefill = prefiller->info->ref;
      choice.at_prefill.requests = 1;
      choice.at_prefill.blocks = std::max<int64_t>(0, need_.blocks_now - LeadingBlocks(*prefiller));
      choice.at_prefill.prefill_tokens = UncachedPrompt();
    } else {
      choice.at_decode.prefill_tokens = UncachedTokens();
    }
    for (const PrefixCover::Range& range :
         cover_.Ranges(decode.slot, SlotOrder(), limits::kPlaceSourcesMax)) {
      choice.placement.sources.push_back({NodeOf(range.slot)->info->ref,
                                          static_cast<int32_t>(range.first),
                                          static_cast<int32_t>(range.blocks)});
    }
    choice.placement.stores = Stores(decode);
    choice.placement.replica_stores = StoresWanted();
    return choice;
  }

  // Workers before stores, then by name: lower is preferred among equally long runs.
  std::vector<size_t> SlotOrder() const {
    std::vector<size_t> order;
    for (size_t i = 0; i < view_.nodes.size(); ++i) {
      const NodeView& node = view_.nodes[i];
      if (node.slot >= order.size()) order.resize(size_t{node.slot} + 1);
      order[node.slot] = i + (node.info->role == Role::kStore ? view_.nodes.size() : 0);
    }
    return order;
  }
  const NodeView* NodeOf(Slot slot) const {
    return &*std::find_if(view_.nodes.begin(), view_.nodes.end(),
                          [slot](const NodeView& node) { return node.slot == slot; });
  }

  int32_t StoresWanted() const {
    if (query_.replica_stores == 0) return options_.replica_stores;
    return std::max(0, query_.replica_stores);
  }

  // Stores of earlier attempts that live stay, since they hold the rows; the rest is chosen anew.
  std::vector<NodeRef> Stores(const NodeView& decode) const {
    const size_t wanted = static_cast<size_t>(StoresWanted());
    std::set<std::string> domains = {decode.info->failure_domain};
    std::vector<const NodeInfo*> others;
    std::vector<const NodeInfo*> chosen;
    for (const NodeView& node : view_.nodes) {
      const bool able = node.info->role == Role::kStore && node.state == NodeState::kLive;
      if (!able || IsAvoided(query_, node)) continue;
      const bool held = std::find(query_.replicas.begin(), query_.replicas.end(),
                                  node.info->ref.key) != query_.replicas.end();
      (held && chosen.size() < wanted ? chosen : others).push_back(node.info);
    }
    for (const NodeInfo* store : chosen) domains.insert(store->failure_domain);
    std::vector<kv::ReplicaCandidate> candidates;
    for (const NodeInfo* store : others) {
      candidates.push_back({store->ref.key.name, store->failure_domain});
    }
    const int missing = static_cast<int>(wanted - chosen.size());
    for (const size_t i : kv::PickReplicas(query_.request_id, domains, candidates, missing)) {
      chosen.push_back(others[i]);
    }
    std::vector<NodeRef> stores;
    for (const NodeInfo* store : chosen) stores.push_back(store->ref);
    return stores;
  }

  const PlacementOptions& options_;
  const ClusterView& view_;
  const PlaceQuery& query_;
  const Need need_;
  const PrefixCover cover_;
  Ranked first_;
  Ranked second_;
};

}  // namespace

int64_t BusyContextRanks(const kv::GroupSplit& group, int64_t tokens) {
  const int64_t stripes = CeilDiv(tokens, kv::kLeafPositions * int64_t{group.stripe_leaves});
  return std::clamp<int64_t>(stripes, 1, group.context);
}

Reserved& Reserved::operator+=(const Reserved& other) {
  requests += other.requests;
  blocks += other.blocks;
  prefill_tokens += other.prefill_tokens;
  return *this;
}

std::variant<Choice, Refusal> ChoosePlacement(const PlacementOptions& options,
                                              const ClusterView& view, const PlaceQuery& query) {
  if (view.model == nullptr) {
    return Refusal{RefusalCode::kNoWorkers, "no worker has reported", options.retry_no_workers_ms};
  }
  if (query.format_digest != view.model->format_digest) {
    return Refusal{RefusalCode::kWrongFormat,
                   absl::StrCat("the request's format is ", HexEncode(query.format_digest),
                                ", the cluster's is ", HexEncode(view.model->format_digest))};
  }
  return Chooser(options, view, query).Choose();
}

}  // namespace reprise::coordinator
