#include "tests/cluster/counters.h"

namespace reprise::harness {

void Counters::Ask(const std::string& name) {
  if (cluster_.frozen(name)) return;
  const auto page = ScrapeMetrics(cluster_.addresses(name).metrics);
  if (!page.ok()) return;
  for (const std::string& family : families_) {
    const auto value = SumOfFamily(*page, family);
    if (value.ok()) last_[family][{name, cluster_.pid(name)}] = *value;
  }
}

void Counters::AskAll() {
  for (const std::string& name : cluster_.names()) Ask(name);
}

double Counters::Total(const std::string& family) const {
  double total = 0;
  if (const auto found = last_.find(family); found != last_.end()) {
    for (const auto& [process, value] : found->second) total += value;
  }
  return total;
}

}  // namespace reprise::harness
