#include "bench/determinism_requests.h"

#include <bit>

#include "bench/placed_cluster.h"
#include "worker/engine/sampling_ops.h"

namespace reprise::bench {
namespace {

// Own words in the manner of the demo model's training text, so that answers are no noise.
constexpr absl::string_view kStory =
    "Once upon a time a small fox lived at the edge of a quiet wood. Every morning it went down to "
    "the river to see who had come to drink. One day an old heron stood in the shallow water and "
    "did not move at all. The fox asked what it was waiting for. The heron said that it was "
    "waiting for the wind to tell a story, because the wind had been everywhere and forgot "
    "nothing. So the fox sat down in the grass and waited too. A mouse came by with a bag of seeds "
    "and wanted to know why everyone was so still. Nobody answered, and the mouse put down the bag "
    "and listened. Then the wind came over the hill, slowly at first, and in the reeds there was a "
    "sound like many people whispering. It told them of a ship that had lost its way in the fog, "
    "and of a girl who lit a lamp in her window every night until the sailors came home. When the "
    "story was over, the sun was high and the heron had caught a fish without noticing. The mouse "
    "gave the fox three seeds to plant. In spring there were three trees by the river, and under "
    "them the animals met whenever the wind was in the mood to talk.";

std::vector<int32_t> PromptFrom(const std::vector<int32_t>& story, size_t offset, size_t tokens) {
  std::vector<int32_t> prompt = {0};
  for (size_t i = 1; i < tokens; ++i) prompt.push_back(story[(offset + i) % story.size()]);
  return prompt;
}

worker::SamplingParams ParamsOf(const v1::ResolvedSampling& sampling) {
  worker::SamplingParams params;
  params.temperature = sampling.temperature();
  params.top_p = sampling.top_p();
  params.repetition_penalty = sampling.repetition_penalty();
  params.presence_penalty = sampling.presence_penalty();
  params.frequency_penalty = sampling.frequency_penalty();
  params.seed = sampling.seed();
  params.max_tokens = sampling.max_tokens();
  params.n = sampling.n();
  return params;
}

v1::ResolvedSampling Greedy(int32_t max_tokens) {
  return GreedySubmit("", {}, max_tokens).sampling();
}

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

}  // namespace

StatusOr<std::vector<Request>> MakeRequests(const Tokenizer& tokenizer, const RequestSizes& sizes) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> story,
                   tokenizer.Encode(kStory, {.add_special_tokens = false}));
  std::vector<Request> requests;
  for (int i = 0; i < sizes.requests; ++i) {
    // Some end with a block, most inside one.
    const int tokens =
        sizes.first_prompt_tokens +
        i * (sizes.last_prompt_tokens - sizes.first_prompt_tokens) / (sizes.requests - 1);
    Request request;
    request.prompt = PromptFrom(story, static_cast<size_t>(i) * 13, static_cast<size_t>(tokens));
    request.sampling = Greedy(sizes.new_tokens);
    request.block_tokens = sizes.block_tokens;
    if (i % 2 == 1) {
      request.sampling.set_temperature(1);
      request.sampling.set_top_p(0.95F);
      request.sampling.set_repetition_penalty(1.1F);
      request.sampling.set_presence_penalty(0.2F);
      request.sampling.set_frequency_penalty(0.1F);
      request.sampling.set_seed(1000 + static_cast<uint64_t>(i));
      request.sampling.set_n(2);
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

Request MakePressure(const Tokenizer& tokenizer, int32_t context_tokens) {
  Request request;
  request.prompt = {0};
  const auto begin = tokenizer.Encode("The river was wide and", {.add_special_tokens = false});
  if (begin.ok()) request.prompt.insert(request.prompt.end(), begin->begin(), begin->end());
  request.sampling = Greedy(context_tokens - static_cast<int32_t>(request.prompt.size()));
  return request;
}

v1::Submit MakeSubmit(const Request& request, const std::string& id, const std::string& tenant) {
  v1::Submit submit;
  submit.set_request_id(id);
  submit.set_tenant(tenant);
  submit.mutable_prompt()->Add(request.prompt.begin(), request.prompt.end());
  *submit.mutable_sampling() = request.sampling;
  return submit;
}

Mismatches& Mismatches::operator+=(const Mismatches& other) {
  tokens += other.tokens;
  logprob_bits += other.logprob_bits;
  compared += other.compared;
  return *this;
}

Mismatches Compare(const harness::WorkerResult& want, const harness::WorkerResult& got) {
  Mismatches m;
  for (size_t b = 0; b < want.branches.size(); ++b) {
    const harness::WorkerBranch& w = want.branches[b];
    const harness::WorkerBranch& g = got.branches[b];
    for (size_t t = 0; t < std::max(w.ids.size(), g.ids.size()); ++t, ++m.compared) {
      const bool both = t < w.ids.size() && t < g.ids.size();
      m.tokens += !both || w.ids[t] != g.ids[t];
      m.logprob_bits += !both || !SameBits(w.logprobs[t], g.logprobs[t]);
    }
  }
  return m;
}

StatusOr<Mismatches> CompareTranscript(const Request& request, const harness::WorkerResult& answer,
                                       const kernels::CpuOps& ops, int64_t chunk_tokens,
                                       worker::OfflineModel& model) {
  const worker::SamplingParams params = ParamsOf(request.sampling);
  const auto vocab = static_cast<size_t>(model.vocab());
  Mismatches m;
  for (size_t b = 0; b < answer.branches.size(); ++b) {
    const harness::WorkerBranch& branch = answer.branches[b];
    std::vector<int32_t> transcript = request.prompt;
    transcript.insert(transcript.end(), branch.ids.begin(), branch.ids.end());
    transcript.pop_back();  // nothing was generated after the last token
    ASSIGN_OR_RETURN(std::vector<float> logits, model.ForwardAll(transcript, chunk_tokens));
    for (size_t t = 0; t < branch.ids.size(); ++t, ++m.compared) {
      const worker::SampleInput input{.params = &params,
                                      .branch = static_cast<uint32_t>(b),
                                      .index = static_cast<uint32_t>(t),
                                      .prompt = request.prompt,
                                      .generated = std::span(branch.ids).first(t)};
      const worker::SampledToken token = worker::SampleWith(
          ops, std::span(logits).subspan((request.prompt.size() - 1 + t) * vocab, vocab), input);
      m.tokens += token.id != branch.ids[t];
      m.logprob_bits += !SameBits(token.logprob, branch.logprobs[t]);
    }
  }
  return m;
}

}  // namespace reprise::bench
