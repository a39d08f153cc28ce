// Recorded answers, token ids and logprob bits, by what they were computed with: one line of JSON
// for each. A numerics class that is not in the file has not been recorded: nothing is compared
// with another's. Owned by the benchmark; one thread.
#ifndef REPRISE_BENCH_ANSWERS_FILE_H_
#define REPRISE_BENCH_ANSWERS_FILE_H_

#include <string>
#include <vector>

#include "common/status.h"
#include "tests/cluster/worker_client.h"

namespace reprise::bench {

// What decides every bit of the answers.
struct AnswersKey {
  std::string numerics_class;  // hex
  std::string model;           // hex of its fingerprint
  std::string requests;        // name of the set
  bool operator==(const AnswersKey&) const = default;
};

class AnswersFile {
 public:
  // An absent file has no answers. INVALID_ARGUMENT names the line that is damaged.
  static StatusOr<AnswersFile> Load(const std::string& path);

  // Branches with ids and logprobs, by request; null when not recorded.
  const std::vector<harness::WorkerResult>* Find(const AnswersKey& key) const;
  // Replaces those of the same key, and writes the file. `device` is for the reader.
  Status Record(const AnswersKey& key, const std::string& device,
                const std::vector<harness::WorkerResult>& answers);

 private:
  struct Entry {
    AnswersKey key;
    std::string device;
    std::vector<harness::WorkerResult> answers;
  };

  static StatusOr<Entry> ReadEntry(const std::string& line);
  static std::string Line(const Entry& entry);

  std::string path_;
  std::vector<Entry> entries_;
};

}  // namespace reprise::bench

#endif  // REPRISE_BENCH_ANSWERS_FILE_H_
