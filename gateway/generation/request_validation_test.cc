#include "gateway/generation/request_validation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "common/limits.h"

namespace reprise::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ServedModel TestModel() {
  ServedModel model;
  model.name = "demo";
  model.vocab_size = 512;
  model.context_tokens = 256;
  model.defaults.eos_ids = {2};
  return model;
}

v1::GenerateRequest Ids(std::vector<int32_t> ids = {1, 5, 6}) {
  v1::GenerateRequest request;
  request.mutable_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  return request;
}

TEST(RequestValidation, FillsInTheDocumentedDefaults) {
  const auto request = ValidateGenerateRequest(Ids(), TestModel());
  ASSERT_TRUE(request.ok()) << request.status();
  const v1::ResolvedSampling& s = request->sampling;
  EXPECT_EQ(s.temperature(), 1);
  EXPECT_EQ(s.top_k(), 0);
  EXPECT_EQ(s.top_p(), 1);
  EXPECT_EQ(s.min_p(), 0);
  EXPECT_EQ(s.repetition_penalty(), 1);
  EXPECT_EQ(s.presence_penalty(), 0);
  EXPECT_EQ(s.frequency_penalty(), 0);
  EXPECT_EQ(s.max_tokens(), limits::kMaxTokensDefault);
  EXPECT_EQ(s.min_tokens(), 0);
  EXPECT_EQ(s.n(), 1);
  EXPECT_THAT(s.eos_ids(), ElementsAre(2));
  EXPECT_FALSE(request->has_seed);
  EXPECT_EQ(request->deadline_ms, limits::kDeadlineMsDefault);
  EXPECT_THAT(request->prompt, ElementsAre(1, 5, 6));
}

TEST(RequestValidation, TheModelsProposalsStandBetweenTheRequestAndTheDefaults) {
  ServedModel model = TestModel();
  model.defaults.temperature = 0.6f;
  model.defaults.top_k = 40;
  model.defaults.top_p = 0.9f;
  model.defaults.min_p = 0.05f;
  model.defaults.repetition_penalty = 1.1f;
  model.defaults.max_new_tokens = 77;
  v1::GenerateRequest request = Ids();
  const auto proposed = ValidateGenerateRequest(request, model);
  ASSERT_TRUE(proposed.ok());
  EXPECT_EQ(proposed->sampling.temperature(), 0.6f);
  EXPECT_EQ(proposed->sampling.top_k(), 40);
  EXPECT_EQ(proposed->sampling.top_p(), 0.9f);
  EXPECT_EQ(proposed->sampling.min_p(), 0.05f);
  EXPECT_EQ(proposed->sampling.repetition_penalty(), 1.1f);
  EXPECT_EQ(proposed->sampling.max_tokens(), 77);
  // Zero is a value, not an absence.
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_top_k(0);
  request.mutable_sampling()->set_max_tokens(5);
  request.mutable_sampling()->set_seed(0);
  const auto chosen = ValidateGenerateRequest(request, model);
  ASSERT_TRUE(chosen.ok());
  EXPECT_EQ(chosen->sampling.temperature(), 0);
  EXPECT_EQ(chosen->sampling.top_k(), 0);
  EXPECT_EQ(chosen->sampling.max_tokens(), 5);
  EXPECT_TRUE(chosen->has_seed);
}

struct Case {
  const char* name;
  std::function<void(v1::GenerateRequest&)> change;
  const char* message;
};

TEST(RequestValidation, RefusesByNameLimitAndValue) {
  const float nan = std::nanf("");
  const float inf = std::numeric_limits<float>::infinity();
  using R = v1::GenerateRequest;
  const std::vector<Case> cases = {
      {"temperature", [=](R& r) { r.mutable_sampling()->set_temperature(nan); },
       "temperature is nan, allowed are 0 to 100"},
      {"temperature", [=](R& r) { r.mutable_sampling()->set_temperature(inf); }, "is inf"},
      {"temperature", [](R& r) { r.mutable_sampling()->set_temperature(-0.5f); }, "is -0.5"},
      {"top_k", [](R& r) { r.mutable_sampling()->set_top_k(-1); }, "top_k is -1"},
      {"top_p", [](R& r) { r.mutable_sampling()->set_top_p(0); },
       "top_p is 0, allowed are above 0"},
      {"top_p", [](R& r) { r.mutable_sampling()->set_top_p(1.5f); }, "top_p is 1.5"},
      {"min_p", [=](R& r) { r.mutable_sampling()->set_min_p(nan); }, "min_p is nan"},
      {"repetition", [](R& r) { r.mutable_sampling()->set_repetition_penalty(0); },
       "repetition_penalty is 0"},
      {"presence", [=](R& r) { r.mutable_sampling()->set_presence_penalty(-inf); },
       "presence_penalty is -inf"},
      {"frequency", [](R& r) { r.mutable_sampling()->set_frequency_penalty(101); },
       "frequency_penalty is 101"},
      {"max_tokens", [](R& r) { r.mutable_sampling()->set_max_tokens(0); }, "max_tokens is 0"},
      {"min_tokens", [](R& r) { r.mutable_sampling()->set_min_tokens(-3); }, "min_tokens is -3"},
      {"min > max",
       [](R& r) {
         r.mutable_sampling()->set_max_tokens(4);
         r.mutable_sampling()->set_min_tokens(5);
       },
       "min_tokens is 5, allowed are 0 to 4"},
      {"n", [](R& r) { r.mutable_sampling()->set_n(9); }, "n is 9, allowed are 1 to 8"},
      {"n", [](R& r) { r.mutable_sampling()->set_n(0); }, "n is 0"},
      {"top_logprobs", [](R& r) { r.mutable_sampling()->set_top_logprobs(21); },
       "top_logprobs is 21, allowed are 0 to 20"},
      {"stop ids", [](R& r) { r.mutable_sampling()->add_stop_ids(512); },
       "stop_ids has token id 512, the vocabulary has ids 0 to 511"},
      {"many stop ids", [](R& r) { r.mutable_sampling()->mutable_stop_ids()->Resize(65, 1); },
       "stop_ids has 65 entries, the limit is 64"},
      {"bias token", [](R& r) { r.mutable_sampling()->add_logit_bias()->set_token(-1); },
       "logit_bias.token is -1"},
      {"bias", [](R& r) { r.mutable_sampling()->add_logit_bias()->set_bias(100.5f); },
       "logit_bias.bias is 100.5, allowed are -100 to 100"},
      {"bias twice",
       [](R& r) {
         r.mutable_sampling()->add_logit_bias()->set_token(4);
         r.mutable_sampling()->add_logit_bias()->set_token(4);
       },
       "logit_bias names token 4 twice"},
      {"many biases",
       [](R& r) {
         for (int i = 0; i < 1025; ++i) r.mutable_sampling()->add_logit_bias();
       },
       "logit_bias has 1025 entries, the limit is 1024"},
      {"deadline", [](R& r) { r.set_deadline_ms(-1); }, "deadline_ms is -1"},
      {"deadline", [](R& r) { r.set_deadline_ms(3'600'001); }, "allowed are 0 to 3600000"},
      {"id bytes", [](R& r) { r.set_request_id(std::string(65, 'a')); },
       "request_id has 65 bytes, the limit is 64"},
      {"id charset", [](R& r) { r.set_request_id("a/b"); }, "request_id has byte 47 at position 1"},
      {"prompt id",
       [](R& r) {
         r = Ids({1, 512});
       },
       "the prompt has token id 512"},
      {"negative prompt id", [](R& r) { r = Ids({-7}); }, "the prompt has token id -7"},
      {"empty prompt", [](R& r) { r = Ids({}); }, "the prompt has no tokens"},
      {"no input", [](R& r) { r.clear_input(); }, "neither text nor ids"},
      {"long prompt", [](R& r) { r = Ids(std::vector<int32_t>(256, 3)); },
       "the prompt has 256 tokens, the limit is 255"},
      {"long text", [](R& r) { r.set_text(std::string(limits::kTextBytesMax + 1, 'x')); },
       "text has 4194305 bytes, the limit is 4194304"},
  };
  for (const Case& c : cases) {
    v1::GenerateRequest request = Ids();
    c.change(request);
    const auto result = ValidateGenerateRequest(request, TestModel());
    ASSERT_FALSE(result.ok()) << c.name;
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << c.name;
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(c.message)) << c.name;
  }
}

TEST(RequestValidation, AForeignModelIsNotFound) {
  v1::GenerateRequest request = Ids();
  request.set_model("demo");
  EXPECT_TRUE(ValidateGenerateRequest(request, TestModel()).ok());
  request.set_model("other");
  const auto result = ValidateGenerateRequest(request, TestModel());
  EXPECT_EQ(result.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("\"demo\" is"));
}

TEST(RequestValidation, CutsMaxTokensToTheContext) {
  v1::GenerateRequest request = Ids(std::vector<int32_t>(250, 3));
  request.mutable_sampling()->set_max_tokens(100);
  request.mutable_sampling()->set_min_tokens(50);
  const auto result = ValidateGenerateRequest(request, TestModel());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->sampling.max_tokens(), 6);
  EXPECT_EQ(result->sampling.min_tokens(), 6);
}

TEST(RequestValidation, IgnoringTheEndOfSequenceEmptiesItsIds) {
  v1::GenerateRequest request = Ids();
  request.mutable_sampling()->set_ignore_eos(true);
  const auto result = ValidateGenerateRequest(request, TestModel());
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->sampling.eos_ids_size(), 0);
}

TEST(RequestValidation, TextWaitsForItsTokens) {
  v1::GenerateRequest request;
  request.set_text("hello");
  request.set_raw_text(true);
  auto result = ValidateGenerateRequest(request, TestModel());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->has_text);
  EXPECT_TRUE(result->raw_text);
  EXPECT_EQ(SetPrompt({}, TestModel(), *result).code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(SetPrompt({4, 5}, TestModel(), *result).ok());
  EXPECT_THAT(result->prompt, ElementsAre(4, 5));
}

v1::GenerateRequest Resuming() {
  v1::GenerateRequest request = Ids();
  request.set_request_id("r");
  request.mutable_sampling()->set_seed(7);
  request.mutable_sampling()->set_n(2);
  request.mutable_sampling()->set_max_tokens(3);
  request.mutable_resume()->set_handle(std::string(limits::kResumeHandleBytes, 'h'));
  request.mutable_resume()->add_received()->add_ids(4);
  return request;
}

TEST(RequestValidation, AResumeKeepsWhatTheClientHas) {
  const auto request = ValidateGenerateRequest(Resuming(), TestModel());
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(request->resume && request->has_input);
  EXPECT_EQ(request->resume_handle, std::string(16, 'h'));
  ASSERT_EQ(request->received.size(), 1u);
  EXPECT_THAT(request->received[0], ElementsAre(4));
  v1::GenerateRequest bare = Resuming();
  bare.clear_input();
  bare.clear_sampling();
  const auto attach = ValidateGenerateRequest(bare, TestModel());
  ASSERT_TRUE(attach.ok()) << attach.status();
  EXPECT_FALSE(attach->has_input);
}

TEST(RequestValidation, AResumeThatCannotBeIsRefusedByName) {
  const struct {
    std::function<void(v1::GenerateRequest&)> spoil;
    const char* message;
  } cases[] = {
      {[](auto& r) { r.clear_request_id(); }, "request_id is empty"},
      {[](auto& r) { r.mutable_resume()->set_handle("short"); },
       "resume.handle has 5 bytes, it must have 16"},
      {[](auto& r) { r.mutable_sampling()->clear_seed(); }, "no sampling.seed"},
      {[](auto& r) {
         r.mutable_resume()->add_received();
         r.mutable_resume()->add_received();
       },
       "resume.received has 3 entries, the limit is 2"},
      {[](auto& r) { r.mutable_resume()->mutable_received(0)->add_ids(512); }, "token id 512"},
      {[](auto& r) {
         for (int i = 0; i < 3; ++i) r.mutable_resume()->mutable_received(0)->add_ids(1);
       },
       "resume.received.ids has 4 entries, the limit is 3"},
  };
  for (const auto& c : cases) {
    v1::GenerateRequest message = Resuming();
    c.spoil(message);
    const auto request = ValidateGenerateRequest(message, TestModel());
    EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(request.status().message()), HasSubstr(c.message));
  }
  v1::GenerateRequest fresh = Resuming();
  fresh.clear_resume();
  fresh.clear_input();
  EXPECT_FALSE(ValidateGenerateRequest(fresh, TestModel()).ok()) << "only a resume has no input";
}

TEST(RequestValidation, WindowAndReplicasHaveDefaultsAndLimits) {
  const auto plain = ValidateGenerateRequest(Ids(), TestModel());
  EXPECT_EQ(plain->resume_window_ms, limits::kResumeWindowMsDefault);
  EXPECT_EQ(plain->replica_stores, 0) << "the cluster's default";
  v1::GenerateRequest none = Ids();
  none.set_resume_window_ms(0);
  none.set_replicas(0);
  const auto bare = ValidateGenerateRequest(none, TestModel());
  EXPECT_EQ(bare->resume_window_ms, 0);
  EXPECT_EQ(bare->replica_stores, -1);
  none.set_resume_window_ms(limits::kResumeWindowMsMax + 1);
  EXPECT_THAT(std::string(ValidateGenerateRequest(none, TestModel()).status().message()),
              HasSubstr("resume_window_ms is 600001, allowed are 0 to 600000"));
  none.set_resume_window_ms(1);
  none.set_replicas(limits::kReplicaStoresMax + 1);
  EXPECT_THAT(std::string(ValidateGenerateRequest(none, TestModel()).status().message()),
              HasSubstr("replicas is 9, allowed are 0 to 8"));
}

}  // namespace
}  // namespace reprise::gateway
