// The trained 260K-parameter story model against goldens that an independent implementation
// computed in float64. Texts, likelihoods and the twenty best logprobs of every generated token
// come through real worker processes: colocated, and with the prompt computed in another process
// and its KV moved. Raw logits leave no worker, so those are compared in this process, by the same
// executor.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "bench/bench_main.h"
#include "bench/placed_cluster.h"
#include "common/json.h"
#include "worker/model/offline.h"

namespace reprise::bench {
namespace {

constexpr double kLogitErrorMax = 2e-4;
constexpr double kNllErrorMax = 1e-6;
constexpr TimeNs kTimeoutNs = 120 * kSecond;
constexpr int kInFlight = 8;

struct Text {
  std::vector<int32_t> prompt;
  std::vector<int32_t> greedy;
  int32_t last_position = 0;  // with golden logits; the first is 0
  int64_t logit_offset_bytes = 0;
};

struct Document {
  std::vector<int32_t> ids;
  double nll_nats = 0;
};

struct Goldens {
  std::vector<Text> texts;
  std::vector<Document> documents;
  std::vector<float> logits;
  size_t vocab = 0;
  // Of the position after which token `index` of the text is generated; empty when not recorded.
  std::span<const float> LogitsAt(const Text& text, size_t position) const {
    if (position > static_cast<size_t>(text.last_position)) return {};
    return std::span(logits).subspan(
        static_cast<size_t>(text.logit_offset_bytes) / sizeof(float) + position * vocab, vocab);
  }
};

std::vector<int32_t> Ids(const JsonValue& object, absl::string_view key) {
  std::vector<int32_t> ids;
  const JsonValue* array = FindMember(object, key);
  if (array == nullptr || !array->IsArray()) return ids;
  for (const JsonValue& id : array->GetArray()) ids.push_back(id.GetInt());
  return ids;
}

StatusOr<std::vector<JsonDocument>> Lines(const std::string& path) {
  std::vector<JsonDocument> lines;
  std::ifstream in(path);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot be read (see --data)"));
  for (std::string line; std::getline(in, line);) {
    ASSIGN_OR_RETURN(lines.emplace_back(), ParseJson(line));
  }
  return lines;
}

StatusOr<Goldens> ReadGoldens(const std::string& dir, int64_t vocab) {
  Goldens goldens;
  goldens.vocab = static_cast<size_t>(vocab);
  ASSIGN_OR_RETURN(const auto greedy, Lines(dir + "/greedy.jsonl"));
  for (const JsonDocument& line : greedy) {
    Text text;
    text.prompt = Ids(line, "prompt_ids");
    text.greedy = Ids(line, "greedy_ids");
    text.last_position = Ids(line, "logit_positions").at(1);
    ASSIGN_OR_RETURN(text.logit_offset_bytes, GetInt(line, "logit_offset_bytes", 0));
    goldens.texts.push_back(std::move(text));
  }
  ASSIGN_OR_RETURN(const auto nll, Lines(dir + "/nll.jsonl"));
  for (const JsonDocument& line : nll) {
    Document document{.ids = Ids(line, "ids")};
    ASSIGN_OR_RETURN(document.nll_nats, GetNumber(line, "nll_nats", 0));
    goldens.documents.push_back(std::move(document));
  }
  std::ifstream in(dir + "/logits.f32", std::ios::binary | std::ios::ate);
  goldens.logits.resize(static_cast<size_t>(in.tellg()) / sizeof(float));
  in.seekg(0);
  in.read(reinterpret_cast<char*>(goldens.logits.data()),
          static_cast<std::streamsize>(goldens.logits.size() * sizeof(float)));
  if (!in) return absl::DataLossError(dir + "/logits.f32 is too short");
  return goldens;
}

// In this process.
Status Offline(const Goldens& goldens, worker::OfflineModel& model, Report& report) {
  double logit_error = 0;
  int64_t compared = 0;
  for (const Text& text : goldens.texts) {
    std::vector<int32_t> tokens = text.prompt;
    tokens.insert(tokens.end(), text.greedy.begin(), text.greedy.end());
    tokens.resize(static_cast<size_t>(text.last_position) + 1);
    ASSIGN_OR_RETURN(const std::vector<float> got, model.ForwardAll(tokens));
    for (size_t position = 0; position < tokens.size(); ++position) {
      const auto want = goldens.LogitsAt(text, position);
      for (size_t i = 0; i < want.size(); ++i, ++compared) {
        const double error = std::abs(double{got[position * goldens.vocab + i]} - want[i]);
        logit_error = std::max(logit_error, error);
      }
    }
  }
  report.Bar("logit_error_max", logit_error, "<=", kLogitErrorMax, compared);
  double nll_error = 0;
  for (const Document& document : goldens.documents) {
    ASSIGN_OR_RETURN(const double nll, model.NegativeLogLikelihood(document.ids));
    nll_error = std::max(nll_error, std::abs(nll - document.nll_nats) / document.nll_nats);
  }
  report.Bar("nll_relative_error_max", nll_error, "<=", kNllErrorMax,
             static_cast<int64_t>(goldens.documents.size()));
  return absl::OkStatus();
}

// One way to run a request: `mode` names it, `place` adds the prefill leg or nothing.
struct Way {
  std::string mode;
  std::function<void(v1::Submit&)> place;
};

struct TextErrors {
  int equal = 0;
  double logprob_error = 0;
  int64_t logprobs = 0;
};

void CompareText(const Goldens& goldens, const Text& text, const harness::WorkerBranch& got,
                 TextErrors& errors) {
  errors.equal += got.ids == text.greedy;
  for (size_t index = 0; index < got.ids.size(); ++index) {
    const auto want = goldens.LogitsAt(text, text.prompt.size() - 1 + index);
    if (want.empty() || got.ids[index] != text.greedy[index]) break;
    for (const auto& [id, logprob] : got.top[index]) {
      const double error = std::abs(logprob - worker::LogSoftmax(want, id));
      errors.logprob_error = std::max(errors.logprob_error, error);
      ++errors.logprobs;
    }
  }
}

Status Texts(const Goldens& goldens, const Way& way, PlacedCluster& cluster, Report& report) {
  std::vector<v1::Submit> submits;
  for (const Text& text : goldens.texts) {
    submits.push_back(GreedySubmit(absl::StrCat(way.mode, "-text-", submits.size()), text.prompt,
                                   static_cast<int32_t>(text.greedy.size())));
    submits.back().mutable_sampling()->set_top_logprobs(20);
    submits.back().set_tenant(submits.back().request_id());
    way.place(submits.back());
  }
  ASSIGN_OR_RETURN(const auto results,
                   cluster.worker("decode").RunAll(submits, kInFlight, kTimeoutNs));
  TextErrors errors;
  for (size_t i = 0; i < results.size(); ++i) {
    CompareText(goldens, goldens.texts[i], results[i].branches[0], errors);
  }
  report.Bar("texts_equal_" + way.mode, errors.equal, "==", 12,
             static_cast<int64_t>(results.size()));
  report.Bar("top20_logprob_error_max_" + way.mode, errors.logprob_error, "<=", kLogitErrorMax,
             errors.logprobs);
  return absl::OkStatus();
}

// Two tokens that the sampler is made to take: the next two of the document. Logprobs are of the
// logits before bias and penalties, and the second is computed by the decode worker over the KV of
// the whole prompt.
v1::Submit ForcedSubmit(const std::string& id, const std::vector<int32_t>& ids, size_t prompt) {
  v1::Submit submit = GreedySubmit(
      id, std::vector<int32_t>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(prompt)), 2);
  submit.set_tenant(id);
  v1::ResolvedSampling& sampling = *submit.mutable_sampling();
  const auto bias = [&](int32_t token, float by) {
    v1::LogitBias& b = *sampling.add_logit_bias();
    b.set_token(token);
    b.set_bias(by);
  };
  bias(ids[prompt], 100);
  if (ids[prompt + 1] != ids[prompt]) {
    // Once taken, the first is penalized away, so that the second wins.
    sampling.set_presence_penalty(100);
    bias(ids[prompt + 1], 50);
  }
  return submit;
}

StatusOr<double> ClusterNll(const Document& document, const std::string& name, const Way& way,
                            PlacedCluster& cluster) {
  std::vector<v1::Submit> submits;
  for (size_t prompt = 1; prompt + 1 < document.ids.size(); ++prompt) {
    submits.push_back(ForcedSubmit(absl::StrCat(name, "-", prompt), document.ids, prompt));
    way.place(submits.back());
  }
  ASSIGN_OR_RETURN(const auto results,
                   cluster.worker("decode").RunAll(submits, kInFlight, kTimeoutNs));
  double nll = -double{results.front().branches[0].logprobs.at(0)};
  for (size_t i = 0; i < results.size(); ++i) {
    const harness::WorkerBranch& branch = results[i].branches[0];
    if (branch.ids.at(0) != document.ids[i + 1] || branch.ids.at(1) != document.ids[i + 2]) {
      return absl::InternalError(absl::StrCat(submits[i].request_id(), ": not the forced tokens"));
    }
    nll -= double{branch.logprobs[1]};
  }
  return nll;
}

Status Likelihoods(const Goldens& goldens, const Way& way, PlacedCluster& cluster, Report& report) {
  double worst = 0;
  for (size_t d = 0; d < goldens.documents.size(); ++d) {
    const Document& document = goldens.documents[d];
    ASSIGN_OR_RETURN(const double nll,
                     ClusterNll(document, absl::StrCat(way.mode, "-nll-", d), way, cluster));
    worst = std::max(worst, std::abs(nll - document.nll_nats) / document.nll_nats);
  }
  report.Bar("nll_relative_error_max_" + way.mode, worst, "<=", kNllErrorMax,
             static_cast<int64_t>(goldens.documents.size()));
  return absl::OkStatus();
}

Status Run(const BenchFlags& flags, Report& report) {
  const std::string model = flags.data + "/stories260k/hf";
  ASSIGN_OR_RETURN(const auto offline,
                   worker::OfflineModel::Open({.model_dir = model, .kv_dtype = "f32"}));
  ASSIGN_OR_RETURN(const Goldens goldens,
                   ReadGoldens(flags.data + "/stories260k/golden", offline->vocab()));
  const harness::Cluster::Flags worker = {"--model=" + model, "--kv-dtype=f32", "--block-tokens=16",
                                          "--pool-bytes=64MiB"};
  ASSIGN_OR_RETURN(const auto cluster,
                   PlacedCluster::Start({.reprise = flags.reprise,
                                         .workers = {{"prefill", worker}, {"decode", worker}}}));
  const std::vector<Way> ways = {{"colocated", [](v1::Submit&) {}},
                                 {"disaggregated", [&](v1::Submit& submit) {
                                    *submit.mutable_prefill() = cluster->ref("prefill");
                                  }}};
  report.Note("texts, top logprobs and one set of likelihoods through worker processes;");
  report.Note("logit_error_max and nll_relative_error_max by the same executor in this process");
  for (const Way& way : ways) {
    RETURN_IF_ERROR(Texts(goldens, way, *cluster, report));
    RETURN_IF_ERROR(Likelihoods(goldens, way, *cluster, report));
  }
  RETURN_IF_ERROR(Offline(goldens, *offline, report));
  report.Bar("kv_bytes_moved", cluster->Metric("decode", "reprise_kv_bytes_received_total"), ">", 0,
             1);
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::bench

int main(int argc, char** argv) {
  return reprise::bench::BenchMain("golden", argc, argv, reprise::bench::Run);
}
