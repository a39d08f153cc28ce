#include "bench/fault_plan.h"

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace reprise::bench {
namespace {

// "decode-2" is of the role "decode".
std::string RoleOf(const std::string& name) { return name.substr(0, name.rfind('-')); }

std::string EndOfLog(const std::string& path) {
  std::ifstream in(path);
  std::string last;
  for (std::string line; std::getline(in, line);) last = line;
  return last;
}

}  // namespace

FaultPlan::FaultPlan(harness::Cluster& cluster, const Options& options)
    : cluster_(cluster),
      options_(options),
      start_ns_(RealClock().NowNs()),
      random_(options.seed),
      next_fault_ns_(start_ns_ + options.every_ns) {}

void FaultPlan::Tell(const std::string& what) {
  story_.push_back(
      absl::StrFormat("%6.1f s: %s", SecondsFromNs(RealClock().NowNs() - start_ns_), what));
  std::fprintf(stderr, "%s\n", story_.back().c_str());
}

TimeNs FaultPlan::NextNs() const {
  TimeNs next = next_fault_ns_;
  for (const auto& [name, repair] : due_) next = std::min(next, repair.at_ns);
  return next;
}

std::map<std::string, std::vector<std::string>> FaultPlan::Candidates() const {
  std::map<std::string, std::vector<std::string>> whole;
  for (const std::string& name : cluster_.names()) {
    if (!due_.contains(name)) whole[RoleOf(name)].push_back(name);
  }
  std::erase_if(whole, [](const auto& role) { return role.second.size() < 2; });
  return whole;
}

std::optional<FaultPlan::Card> FaultPlan::Draw(
    const std::map<std::string, std::vector<std::string>>& candidates) {
  std::vector<size_t> fitting;
  for (size_t i = 0; i < deck_.size(); ++i) {
    if (candidates.contains(deck_[i].role)) fitting.push_back(i);
  }
  if (fitting.empty()) return std::nullopt;
  const size_t at = fitting[random_.Below(fitting.size())];
  Card card = std::move(deck_[at]);
  deck_.erase(deck_.begin() + static_cast<std::ptrdiff_t>(at));
  return card;
}

Status FaultPlan::Strike(const std::function<void(const std::string&)>& before_kill) {
  const auto candidates = Candidates();
  const TimeNs now = RealClock().NowNs();
  std::optional<Card> card = Draw(candidates);
  if (!card) {
    for (const auto& [role, names] : candidates) {
      deck_.push_back({role, false});
      if (!options_.kills_only) deck_.push_back({role, true});
    }
    card = Draw(candidates);
    if (!card) return absl::OkStatus();
  }
  const std::vector<std::string>& names = candidates.at(card->role);
  const std::string name = names[random_.Below(names.size())];
  ++faults_;
  if (!card->freeze) {
    before_kill(name);
    Tell(name + " is killed");
    due_[name] = {now + options_.restart_after_ns, true};
    return cluster_.Kill(name);
  }
  const auto span = static_cast<uint64_t>(options_.thaw_max_ns - options_.thaw_min_ns);
  due_[name] = {now + options_.thaw_min_ns + static_cast<TimeNs>(random_.Below(span)), false};
  before_kill(name);
  Tell(name + " is frozen");
  return cluster_.Freeze(name);
}

Status FaultPlan::RepairDue(TimeNs now) {
  for (auto entry = due_.begin(); entry != due_.end();) {
    const auto& [name, repair] = *entry;
    if (repair.at_ns > now) {
      ++entry;
      continue;
    }
    Tell(name + (repair.restart ? " is restarted" : " thaws"));
    RETURN_IF_ERROR(repair.restart ? cluster_.Restart(name) : cluster_.Thaw(name));
    entry = due_.erase(entry);
  }
  return absl::OkStatus();
}

Status FaultPlan::Step(bool more, const std::function<void(const std::string&)>& before_kill) {
  const TimeNs now = RealClock().NowNs();
  for (const std::string& name : cluster_.names()) {
    if (due_.contains(name) || cluster_.running(name)) continue;
    ++unordered_deaths_;
    Tell(absl::StrCat(name, " has ended by itself: ", EndOfLog(cluster_.log_path(name))));
    due_[name] = {now, true};
  }
  RETURN_IF_ERROR(RepairDue(now));
  if (now < next_fault_ns_) return absl::OkStatus();
  next_fault_ns_ += options_.every_ns;
  return more ? Strike(before_kill) : absl::OkStatus();
}

}  // namespace reprise::bench
