// Sampling on the device against the CPU's sampler: token, log-probability and alternatives, bit
// for bit, for rows of mixed parameters.
#include "kernels/cuda/sample.h"

#include <map>

#include "kernels/cuda/rows_test_util.h"
#include "worker/engine/sampling_ops.h"

namespace reprise::cuda {
namespace {

using kernels::UniformAt;
using testing::Array;

using worker::SamplingParams;

constexpr int kTopMax = 20;

// A row of a batch as a request has it.
struct Request {
  std::vector<float> logits;
  SamplingParams params;
  uint32_t branch = 0;
  uint32_t index = 0;
  std::vector<int32_t> prompt;
  std::vector<int32_t> generated;
  bool on_host = false;
};

// What becomes of a request's lists of tokens, as SampleRow wants them.
std::vector<TokenEdit> EditsOf(const Request& r) {
  std::map<int32_t, TokenEdit> edits;
  const SamplingParams& p = r.params;
  const auto edit = [&](int32_t id) -> TokenEdit& {
    edits[id].id = id;
    return edits[id];
  };
  if (p.repetition_penalty != 1) {
    for (const int32_t id : r.prompt) ++edit(id).prompt;
  }
  if (p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0) {
    for (const int32_t id : r.generated) ++edit(id).output;
  }
  for (const auto& [id, bias] : p.logit_bias) edit(id).bias = bias;
  if (static_cast<int32_t>(r.index) < p.min_tokens) {
    for (const int32_t id : p.stop_ids) edit(id).barred = 1;
    for (const int32_t id : p.eos_ids) edit(id).barred = 1;
  }
  std::vector<TokenEdit> list;
  for (const auto& [id, e] : edits) list.push_back(e);
  return list;
}

class CudaSample : public testing::OnDevice {
 protected:
  // Samples all on the device, each on the CPU.
  void Compare(const std::vector<Request>& requests, int vocab, int gap = 0) {
    std::vector<float> logits;
    std::vector<SampleRow> rows;
    std::vector<TokenEdit> edits;
    for (const Request& r : requests) {
      logits.insert(logits.end(), r.logits.begin(), r.logits.end());
      logits.resize(logits.size() + static_cast<size_t>(gap), kernels::testing::kInf);
      const std::vector<TokenEdit> own = EditsOf(r);
      rows.push_back({.seed = r.params.seed,
                      .index = r.index,
                      .branch = r.branch,
                      .temperature = r.params.temperature,
                      .top_k = r.params.top_k,
                      .top_p = r.params.top_p,
                      .min_p = r.params.min_p,
                      .repetition = r.params.repetition_penalty,
                      .presence = r.params.presence_penalty,
                      .frequency = r.params.frequency_penalty,
                      .first_edit = static_cast<int64_t>(edits.size()),
                      .edits = static_cast<int32_t>(own.size()),
                      .top = r.params.top_logprobs,
                      .on_host = r.on_host ? 1U : 0U});
      edits.insert(edits.end(), own.begin(), own.end());
    }
    const Array<float> device_logits(logits);
    const Array<SampleRow> device_rows(rows);
    const Array<TokenEdit> device_edits(edits);
    const Array<SampledToken> tokens(requests.size());
    const Array<SampledTop> top(requests.size() * kTopMax);
    ASSERT_EQ(Sample({.logits = device_logits.data(),
                      .stride = vocab + gap,
                      .rows = static_cast<int64_t>(requests.size()),
                      .vocab = vocab,
                      .params = device_rows.data(),
                      .edits = device_edits.data(),
                      .tokens = tokens.data(),
                      .top = top.data(),
                      .top_stride = kTopMax},
                     nullptr),
              0);
    const std::vector<SampledToken> got = tokens.Read();
    const std::vector<SampledTop> got_top = top.Read();
    for (size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "row " << i << " of " << vocab);
      CompareRow(requests[i], got[i], got_top.data() + i * kTopMax);
    }
  }

 private:
  static uint32_t Bits(float x) { return std::bit_cast<uint32_t>(x); }

  void CompareRow(const Request& r, const SampledToken& got, const SampledTop* top) {
    if (r.on_host) {
      EXPECT_EQ(got.id, -1);  // poison: untouched
      return;
    }
    std::vector<float> scratch = r.logits;
    const worker::SampledToken want =
        worker::SampleWith(kernels::Select(kernels::BestIsa()), scratch,
                           {.params = &r.params,
                            .branch = r.branch,
                            .index = r.index,
                            .prompt = r.prompt,
                            .generated = r.generated});
    EXPECT_EQ(got.id, want.id);
    EXPECT_EQ(Bits(got.logprob), Bits(want.logprob)) << got.logprob << " and " << want.logprob;
    for (size_t i = 0; i < static_cast<size_t>(r.params.top_logprobs); ++i) {
      const bool there = i < want.top.size();
      EXPECT_EQ(top[i].id, there ? want.top[i].first : -1) << i;
      if (there) EXPECT_EQ(Bits(top[i].logprob), Bits(want.top[i].second)) << i;
    }
  }
};

// What a draw of logits looks like: peaked or flat, with ties or numbers that are none.
enum Kind : int { kPeaked, kFlat, kTies, kAllKinds, kMostlyGone, kKinds };

std::vector<float> LogitsOf(int kind, int vocab, uint32_t stream) {
  std::vector<float> v = kernels::testing::Uniform(vocab, stream, 1);
  switch (kind) {
    case kPeaked:
      for (float& x : v) x = x * x * x * 18;
      break;
    case kTies:
      for (float& x : v) x = std::round(x * 3);
      break;
    case kAllKinds:
      return testing::AllKinds(vocab, stream, 10);
    case kMostlyGone:
      for (size_t i = 0; i < v.size(); ++i) {
        if (i % 97 != 5) v[i] = i % 2 == 0 ? -kernels::testing::kInf : kernels::testing::kNaN;
      }
      break;
    default:
      break;
  }
  return v;
}

// Parameters drawn from what requests have, with every cut off and on.
Request RandomRequest(int kind, int vocab, uint32_t stream) {
  const auto draw = [&](uint64_t i) { return UniformAt(99, stream, i); };
  const auto pick = [&](uint64_t i, std::vector<float> of) {
    return of[static_cast<size_t>(draw(i) * static_cast<double>(of.size()))];
  };
  Request r;
  r.logits = LogitsOf(kind, vocab, stream);
  SamplingParams& p = r.params;
  p.temperature = pick(0, {0, 0.3F, 0.7F, 1, 1, 1.7F, 30, 1e-6F, 2e-5F});
  p.top_k = static_cast<int32_t>(pick(1, {0, 0, 0, 1, 5, 50, 300, 1200, 100000}));
  p.top_p = pick(2, {1, 1, 0.9F, 0.5F, 0.99F, 0, 0.05F});
  p.min_p = pick(3, {0, 0, 0, 0.02F, 0.3F, 1e-6F});
  p.repetition_penalty = pick(4, {1, 1, 1.3F, 0.8F});
  p.presence_penalty = pick(5, {0, 0, 0.7F});
  p.frequency_penalty = pick(6, {0, 0, -0.4F});
  p.seed = static_cast<uint64_t>(draw(7) * 0x1p60);
  p.top_logprobs = static_cast<int32_t>(pick(8, {0, 0, 1, 5, 20}));
  p.min_tokens = draw(9) < 0.3 ? 9 : 0;
  r.index = static_cast<uint32_t>(draw(10) * 12);
  r.branch = static_cast<uint32_t>(draw(11) * 3);
  const auto any_id = [&](uint64_t i) { return static_cast<int32_t>(draw(i) * vocab); };
  for (uint64_t i = 0; i < 12; ++i) r.prompt.push_back(any_id(100 + i));
  for (uint64_t i = 0; i < 6; ++i) r.generated.push_back(any_id(200 + i / 2));
  // The best one among them, so that bars and penalties decide.
  r.generated.push_back(
      static_cast<int32_t>(std::max_element(r.logits.begin(), r.logits.end()) - r.logits.begin()));
  p.eos_ids = {r.generated.back()};
  p.stop_ids = {any_id(300), vocab - 1};
  if (draw(12) < 0.4) {
    std::map<int32_t, float> bias;
    for (uint64_t i = 0; i < 5; ++i)
      bias[any_id(400 + i)] = static_cast<float>(draw(500 + i) * 8 - 4);
    p.logit_bias.assign(bias.begin(), bias.end());
  }
  return r;
}

TEST_F(CudaSample, MixedRowsDrawWhatTheCpuDraws) {
  uint32_t stream = 0;
  for (const int vocab : {1, 5, 511, 513, 1000, 2051}) {
    std::vector<Request> requests;
    for (int i = 0; i < 18; ++i) {
      requests.push_back(RandomRequest(i % kKinds, vocab, ++stream));
      requests.back().on_host = i % 12 == 7;
    }
    UseSeed(stream);
    Compare(requests, vocab, vocab % 4);
  }
}

// Several tiles of the canonical sum, and blocks of mass.
TEST_F(CudaSample, AWiderVocabularyToo) {
  constexpr int kVocab = 4500;
  std::vector<Request> requests;
  for (int i = 0; i < kKinds; ++i) requests.push_back(RandomRequest(i, kVocab, 1000 + i));
  Compare(requests, kVocab);
}

// A nucleus of thousands, and a top-k of more than a chunk.
TEST_F(CudaSample, WalksOverManyChunks) {
  constexpr int kVocab = 2500;
  std::vector<Request> requests(2, RandomRequest(kFlat, kVocab, 2000));
  for (Request& r : requests) {
    r.params.temperature = 1;
    r.params.top_k = 0;
    r.params.top_p = 0.93F;
    r.params.min_p = 0;
  }
  requests[1].params.top_k = 900;
  requests[1].params.seed = 8;
  Compare(requests, kVocab);
}

// All ids of a thread's share best: the bound from the threads' bests is far off.
TEST_F(CudaSample, CandidatesInOnePlaceOverflowNothing) {
  constexpr int kVocab = 12'000;
  Request r;
  r.logits.assign(kVocab, -5);
  for (int i = 0; i < kVocab; ++i) {
    if (i / 4 % 512 < 130) r.logits[static_cast<size_t>(i)] = 1 + 1e-4F * static_cast<float>(i % 7);
  }
  r.params.top_k = 200;
  r.params.seed = 3;
  Compare({r}, kVocab);
}

TEST_F(CudaSample, NothingToChooseFromIsAnAnswer) {
  std::vector<Request> requests(4);
  constexpr float kInf = kernels::testing::kInf;
  requests[0].logits.assign(40, kernels::testing::kNaN);
  requests[1].logits.assign(40, -kInf);
  requests[2].logits.assign(40, kInf);
  requests[3].logits.assign(40, -2);
  requests[3].params.logit_bias = {{7, kInf}};
  for (Request& r : requests) r.params.top_logprobs = 3;
  Compare(requests, 40);
}

TEST_F(CudaSample, LimitsAreRefused) {
  EXPECT_EQ(Sample({.rows = 1, .vocab = 0}, nullptr), kErrorInvalidValue);
  EXPECT_EQ(Sample({.rows = 1, .vocab = kSampleVocabMax + 1}, nullptr), kErrorInvalidValue);
  EXPECT_EQ(Sample({.rows = 0, .vocab = 10}, nullptr), 0);
}

}  // namespace
}  // namespace reprise::cuda
