// llama.cpp beside us: a model of random weights in its own format, and its own benchmark program
// (llama-bench) run over it. One thread.
#ifndef REPRISE_BENCH_LLAMA_CPP_H_
#define REPRISE_BENCH_LLAMA_CPP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "common/status.h"
#include "worker/model/model_config.h"

namespace reprise::bench {

// bf16 weights of this shape, as llama.cpp's converter names and splits them today: the expansion
// of the latents in two tensors, so that it attends in the latents' space. No tokenizer.
// Precondition: config.latent without q_rank, no mixture.
Status WriteLatentGguf(const worker::ModelConfig& config, const std::string& path);

// How it computes.
struct LlamaCppChoice {
  bool flash_attention = true;
  std::string cache_type = "f16";  // or bf16
  std::string ToString() const;    // "-fa on -ctk f16"
};

// Exactly one of prompt_tokens and new_tokens is not 0.
struct LlamaCppTest {
  int64_t prompt_tokens = 0;  // in one batch
  int64_t new_tokens = 0;     // one after the other
  int64_t depth = 0;          // tokens in the cache before them
  bool operator==(const LlamaCppTest&) const = default;
};

struct LlamaCppTimes {
  LlamaCppTest test;
  std::string build;            // the commit it was built from
  std::vector<double> seconds;  // of all tokens of the test, one a repetition
};

// What `llama-bench -o json` printed. INVALID_ARGUMENT names the run and the field that is missing
// or out of range.
StatusOr<std::vector<LlamaCppTimes>> ParseLlamaBench(absl::string_view text);

class LlamaCpp {
 public:
  // `dir`: a build folder, with bin/llama-bench in it. NOT_FOUND names what is missing.
  static StatusOr<LlamaCpp> Open(const std::string& dir, int threads);

  // Times each test `repetitions` times, in a process of its own, on the CPU alone.
  StatusOr<LlamaCppTimes> Run(const std::string& model, const LlamaCppChoice& choice,
                              const LlamaCppTest& test, int repetitions) const;

 private:
  LlamaCpp(std::string program, int threads) : program_(std::move(program)), threads_(threads) {}
  std::string program_;
  int threads_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_LLAMA_CPP_H_
