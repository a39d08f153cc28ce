#include "bench/answers_file.h"

#include <algorithm>
#include <bit>
#include <fstream>
#include <utility>

#include "absl/strings/str_join.h"
#include "common/json.h"

namespace reprise::bench {
namespace {

StatusOr<const JsonValue*> Array(const JsonValue& object, absl::string_view key) {
  const JsonValue* array = object.IsObject() ? FindMember(object, key) : nullptr;
  if (array == nullptr || !array->IsArray()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", key, "\" must be an array"));
  }
  return array;
}

StatusOr<harness::WorkerBranch> ReadBranch(const JsonValue& object) {
  ASSIGN_OR_RETURN(const JsonValue* ids, Array(object, "ids"));
  ASSIGN_OR_RETURN(const JsonValue* bits, Array(object, "logprob_bits"));
  harness::WorkerBranch branch;
  for (const JsonValue& id : ids->GetArray()) {
    if (!id.IsInt()) return absl::InvalidArgumentError("a token id is no number");
    branch.ids.push_back(id.GetInt());
  }
  for (const JsonValue& value : bits->GetArray()) {
    if (!value.IsUint()) return absl::InvalidArgumentError("a logprob's bits are no number");
    branch.logprobs.push_back(std::bit_cast<float>(value.GetUint()));
  }
  if (branch.ids.size() == branch.logprobs.size()) return branch;
  return absl::InvalidArgumentError(
      absl::StrCat(branch.ids.size(), " ids with ", branch.logprobs.size(), " logprobs"));
}

std::string BranchJson(const harness::WorkerBranch& branch) {
  const auto bits = [](std::string* out, float value) {
    absl::StrAppend(out, std::bit_cast<uint32_t>(value));
  };
  return absl::StrCat("{\"ids\": [", absl::StrJoin(branch.ids, ", "), "], \"logprob_bits\": [",
                      absl::StrJoin(branch.logprobs, ", ", bits), "]}");
}

}  // namespace

StatusOr<AnswersFile> AnswersFile::Load(const std::string& path) {
  AnswersFile file;
  file.path_ = path;
  std::ifstream in(path);
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    StatusOr<Entry> entry = ReadEntry(line);
    if (!entry.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ", line ", number, ": ", entry.status().message()));
    }
    file.entries_.push_back(*std::move(entry));
  }
  return file;
}

StatusOr<AnswersFile::Entry> AnswersFile::ReadEntry(const std::string& line) {
  ASSIGN_OR_RETURN(const JsonDocument document, ParseJson(line));
  ASSIGN_OR_RETURN(const JsonValue* answers, Array(document, "answers"));
  Entry entry;
  ASSIGN_OR_RETURN(entry.key.numerics_class, GetString(document, "class", ""));
  ASSIGN_OR_RETURN(entry.key.model, GetString(document, "model", ""));
  ASSIGN_OR_RETURN(entry.key.requests, GetString(document, "requests", ""));
  ASSIGN_OR_RETURN(entry.device, GetString(document, "device", ""));
  for (const JsonValue& answer : answers->GetArray()) {
    if (!answer.IsArray()) return absl::InvalidArgumentError("an answer must be an array");
    harness::WorkerResult& result = entry.answers.emplace_back();
    for (const JsonValue& branch : answer.GetArray()) {
      ASSIGN_OR_RETURN(result.branches.emplace_back(), ReadBranch(branch));
    }
  }
  return entry;
}

const std::vector<harness::WorkerResult>* AnswersFile::Find(const AnswersKey& key) const {
  for (const Entry& entry : entries_) {
    if (entry.key == key) return &entry.answers;
  }
  return nullptr;
}

std::string AnswersFile::Line(const Entry& entry) {
  std::vector<std::string> answers;
  for (const harness::WorkerResult& answer : entry.answers) {
    std::vector<std::string> branches;
    for (const harness::WorkerBranch& branch : answer.branches) {
      branches.push_back(BranchJson(branch));
    }
    answers.push_back(absl::StrCat("[", absl::StrJoin(branches, ", "), "]"));
  }
  return JsonWriter()
      .Field("class", entry.key.numerics_class)
      .Field("model", entry.key.model)
      .Field("requests", entry.key.requests)
      .Field("device", entry.device)
      .Raw("answers", absl::StrCat("[", absl::StrJoin(answers, ", "), "]"))
      .Take();
}

Status AnswersFile::Record(const AnswersKey& key, const std::string& device,
                           const std::vector<harness::WorkerResult>& answers) {
  entries_.erase(std::remove_if(entries_.begin(), entries_.end(),
                                [&](const Entry& entry) { return entry.key == key; }),
                 entries_.end());
  entries_.push_back({key, device, answers});
  std::ofstream out(path_, std::ios::trunc);
  for (const Entry& entry : entries_) out << Line(entry) << "\n";
  out.close();
  return out ? absl::OkStatus()
             : absl::PermissionDeniedError(absl::StrCat(path_, " cannot be written"));
}

}  // namespace reprise::bench
