// A model with random weights, requests with what one worker by itself answers, and a load of them
// whose answers must be the same. Owner: a test's fixture. One thread.
#ifndef REPRISE_TESTS_FAILOVER_EXACT_LOAD_H_
#define REPRISE_TESTS_FAILOVER_EXACT_LOAD_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "common/subprocess.h"
#include "tests/cluster/scratch_dir.h"
#include "tests/cluster/setting.h"

namespace reprise::harness {

inline constexpr TimeNs kLoadPatienceNs = 120 * kSecond;  // liveness only
inline constexpr char kLoadProgram[] = "cli/reprise";

// `prompt` ids below `vocab` that depend on `number`; every second one is sampled, the others
// greedy.
inline v1::GenerateRequest NumberedRequest(int number, int prompt, int vocab, int tokens) {
  v1::GenerateRequest request;
  for (int i = 0; i < prompt; ++i) {
    request.mutable_ids()->add_ids(1 + (number * 131 + i * i * 7 + i) % (vocab - 12));
  }
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(number % 2 == 0 ? 0.0F : 1.0F);
  sampling.set_seed(static_cast<uint64_t>(number));
  sampling.set_max_tokens(tokens);
  sampling.set_ignore_eos(true);
  return request;
}

class ExactLoad {
 public:
  // Writes a model of the preset to a folder of its own.
  static StatusOr<std::unique_ptr<ExactLoad>> Make(const std::string& preset) {
    auto load = std::unique_ptr<ExactLoad>(new ExactLoad);
    ASSIGN_OR_RETURN(load->folder_, ScratchDir::Create());
    ASSIGN_OR_RETURN(const auto made,
                     Subprocess::Spawn({.argv = {kLoadProgram, "make-model", "--preset=" + preset,
                                                 "--seed=5", load->model_dir()}}));
    const auto exit = made->Wait(kLoadPatienceNs);
    if (!exit.has_value() || !exit->ok()) return absl::InternalError("make-model failed");
    return load;
  }
  std::string model_dir() const { return folder_->path() + "/model"; }

  // Of a cluster that serves the model by so many; a prompt is computed elsewhere from 16 tokens
  // on.
  Setting Roles(int prefills, int decodes, int stores) const {
    Setting setting = OneWorker(kLoadProgram, model_dir());
    setting.prefill_workers = prefills;
    setting.decode_workers = decodes;
    setting.stores = stores;
    setting.replica_stores = std::min(stores, 1);
    setting.remote_prefill_min_tokens = 16;
    return setting;
  }

  // What a cluster of this setting, one worker, answers each of them, all in flight at once.
  Status Expect(const Setting& alone, const std::vector<v1::GenerateRequest>& requests) {
    ASSIGN_OR_RETURN(const auto cluster, StartCluster(alone));
    ASSIGN_OR_RETURN(requests_, RunForTranscripts(cluster->gateways().front(), requests));
    return absl::OkStatus();
  }

  // All in flight at once, again and again.
  CheckedLoad Start(const Cluster& cluster) const {
    return CheckedLoad(InTurn(cluster.gateways(), static_cast<int>(requests_.size()), requests_));
  }
  static void ExpectExact(const CheckedLoad& load, int64_t streams) {
    const LoadTotals totals = Sum(load.results());
    EXPECT_EQ(totals.errors, 0) << totals.first_error;
    EXPECT_EQ(totals.lost + totals.duplicated + totals.different, 0);
    EXPECT_GE(totals.streams, streams);
  }

 private:
  ExactLoad() = default;
  std::unique_ptr<ScratchDir> folder_;
  std::vector<CheckedRequest> requests_;
};

}  // namespace reprise::harness

#endif  // REPRISE_TESTS_FAILOVER_EXACT_LOAD_H_
