// tokenizer.json for models without a trained vocabulary: byte-level BPE without merges, so any
// text encodes as its bytes, and every other id decodes to a word of its own. Pure; any thread.
#ifndef REPRISE_WORKER_MODEL_BYTE_TOKENIZER_H_
#define REPRISE_WORKER_MODEL_BYTE_TOKENIZER_H_

#include <cstdint>
#include <string>

namespace reprise::worker {

// Id 0 ends the text, ids 1 .. 256 are the bytes 0 .. 255, the others words " aa", " ab", ...
inline constexpr int64_t kByteTokenizerVocabMin = 257;

// Precondition: vocab >= kByteTokenizerVocabMin.
std::string ByteTokenizerJson(int64_t vocab);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_BYTE_TOKENIZER_H_
