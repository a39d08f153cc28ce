#include "bench/llama_cpp.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace reprise::bench {
namespace {

// What llama-bench prints, the fields that are not read left out but for a few.
constexpr char kPrinted[] = R"([
  {
    "build_commit": "0c1e570",
    "build_number": 1,
    "backends": "CPU",
    "flash_attn": 1,
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 3584,
    "avg_ts": 100.5,
    "samples_ns": [ 5000000000, 5200000000 ],
    "samples_ts": [ 102.4, 98.5 ]
  },
  {
    "build_commit": "0c1e570",
    "n_prompt": 0,
    "n_gen": 16,
    "n_depth": 4088,
    "samples_ns": [ 250000000 ]
  }
])";

TEST(LlamaBench, TimesAreReadOfEachRun) {
  const auto runs = ParseLlamaBench(kPrinted);
  ASSERT_TRUE(runs.ok()) << runs.status();
  ASSERT_EQ(runs->size(), 2u);
  EXPECT_EQ((*runs)[0].test, (LlamaCppTest{512, 0, 3584}));
  EXPECT_EQ((*runs)[0].build, "0c1e570");
  EXPECT_EQ((*runs)[0].seconds, (std::vector<double>{5.0, 5.2}));
  EXPECT_EQ((*runs)[1].test, (LlamaCppTest{0, 16, 4088}));
  EXPECT_EQ((*runs)[1].seconds, (std::vector<double>{0.25}));
}

TEST(LlamaBench, WhatItCannotHavePrintedIsRefusedByName) {
  struct Bad {
    const char* from;
    const char* to;
    const char* named;
  };
  for (const Bad& bad : std::initializer_list<Bad>{
           {"\"n_depth\": 3584,", "", "run 0: n_depth -1"},
           {"\"n_gen\": 16", "\"n_gen\": 16000000", "run 1: n_gen 16000000"},
           {"\"n_prompt\": 512", "\"n_prompt\": \"512\"", "run 0: "},
           {"[ 250000000 ]", "[]", "run 1: samples_ns"},
           {"[ 250000000 ]", "250000000", "run 1: samples_ns"},
           {"[ 250000000 ]", "[ 0 ]", "run 1: samples_ns"},
           {"[ 250000000 ]", "[ -5 ]", "run 1: samples_ns"},
           {"5200000000", "1e300", "run 0: samples_ns"},
           {"5200000000", "\"fast\"", "run 0: samples_ns"},
           {"\"0c1e570\",\n    \"n_prompt\"", "7,\n    \"n_prompt\"", "run 1: "},
           {"\"samples_ns\": [ 250000000 ]\n  }", "\"samples_ns\": [ 250000000 ]\n  }, 3",
            "run 2: not an object"}}) {
    const std::string text = absl::StrReplaceAll(kPrinted, {{bad.from, bad.to}});
    ASSERT_NE(text, kPrinted) << bad.from;
    const auto runs = ParseLlamaBench(text);
    EXPECT_EQ(runs.status().code(), absl::StatusCode::kInvalidArgument) << bad.to;
    EXPECT_NE(runs.status().message().find(bad.named), absl::string_view::npos) << runs.status();
  }
}

TEST(LlamaBench, TextThatIsNoListIsRefused) {
  for (const char* text : {"", "llama_bench: error", "{}", "[{]", "7"}) {
    const auto runs = ParseLlamaBench(text);
    EXPECT_EQ(runs.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(runs.status().message().find("llama-bench"), absl::string_view::npos) << text;
  }
  const auto none = ParseLlamaBench("[\n\n]\n");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->empty());
}

TEST(LlamaCpp, AFolderWithoutItsBenchmarkIsRefused) {
  const auto peer = LlamaCpp::Open("/nowhere", 2);
  EXPECT_EQ(peer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(peer.status().message().find("/nowhere/bin/llama-bench"), absl::string_view::npos);
}

// A program in its place, which prints `text`.
class FakeLlamaCpp {
 public:
  explicit FakeLlamaCpp(const std::string& text)
      : dir_(absl::StrCat(testing::TempDir(), "/llama-", getpid())) {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_ + "/bin");
    const std::string program = dir_ + "/bin/llama-bench";
    std::ofstream(program) << "#!/bin/sh\ncat <<'END'\n" << text << "\nEND\n";
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
  }
  StatusOr<LlamaCppTimes> Run(const LlamaCppTest& test, int repetitions) const {
    auto peer = LlamaCpp::Open(dir_, 2);
    if (!peer.ok()) return peer.status();
    return peer->Run("model.gguf", {}, test, repetitions);
  }

 private:
  const std::string dir_;
};

TEST(LlamaCpp, WhatRanIsWhatWasAskedFor) {
  const FakeLlamaCpp peer(R"([{"n_prompt": 0, "n_gen": 4, "n_depth": 8, "samples_ns": [7, 9]}])");
  const auto times = peer.Run({.new_tokens = 4, .depth = 8}, 2);
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_EQ(times->seconds.size(), 2u);
  for (const auto& [test, repetitions] : std::initializer_list<std::pair<LlamaCppTest, int>>{
           {{.new_tokens = 4, .depth = 9}, 2}, {{.new_tokens = 4, .depth = 8}, 3}}) {
    EXPECT_EQ(peer.Run(test, repetitions).status().code(), absl::StatusCode::kInternal);
  }
}

worker::ModelConfig Shape() {
  worker::ModelConfig c;
  c.hidden = 64;
  c.intermediate = 32;
  c.layers = 2;
  c.heads = 4;
  c.head_dim = 24;
  c.vocab = 16;
  c.context = 128;
  c.latent = worker::LatentAttention{.kv_rank = 32, .nope_dim = 16, .rope_dim = 8, .value_dim = 12};
  return c;
}

TEST(LatentGguf, EveryLayerHasItsTensorsAndWeighsWhatItsShapeSays) {
  const std::string path = absl::StrCat(testing::TempDir(), "/shape-", getpid(), ".gguf");
  ASSERT_TRUE(WriteLatentGguf(Shape(), path).ok());
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  for (const char* layer : {"blk.0.", "blk.1."}) {
    for (const char* part :
         {"attn_norm", "attn_q", "attn_kv_a_mqa", "attn_kv_a_norm", "attn_k_b", "attn_v_b",
          "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"}) {
      EXPECT_NE(bytes.find(absl::StrCat(layer, part, ".weight")), std::string::npos) << part;
    }
  }
  EXPECT_EQ(bytes.find("blk.2."), std::string::npos);
  // Two bytes a weight, four an element of a norm: multiples of 32 all.
  const size_t attention = 64 * 4 * 24 + 64 * (32 + 8) + 4 * 32 * (16 + 12) + 4 * 12 * 64;
  const size_t layer = 2 * (attention + 3 * 64 * 32) + 4 * (64 + 32 + 64);
  const size_t data = 2 * layer + 2 * 2 * 64 * 16 + 4 * 64;
  EXPECT_GT(bytes.size(), data);
  EXPECT_LT(bytes.size(), data + 8192) << "names and keys besides";
}

}  // namespace
}  // namespace reprise::bench
