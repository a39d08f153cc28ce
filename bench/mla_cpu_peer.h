// Latent attention at DeepSeek-V2-Lite's size in whole steps of a model against llama.cpp's: the
// same shape, random bf16 weights, threads, tokens in the cache and tokens computed, in turn in one
// run. One thread.
//
// The model is a few layers of attention, projections included, each with an MLP of 64 columns, and
// a vocabulary of 512: nearly all of the time is attention's. That half the layers take half the
// time on both sides shows it.
#ifndef REPRISE_BENCH_MLA_CPU_PEER_H_
#define REPRISE_BENCH_MLA_CPU_PEER_H_

#include "bench/bench_main.h"

namespace reprise::bench {

// Adds figures and the bars decode_over_llama_cpp and prefill_over_llama_cpp; only a note when
// flags.peer is empty.
Status CompareWithLlamaCpp(const BenchFlags& flags, int threads, Report& report);

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_MLA_CPU_PEER_H_
