#include "worker/model/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/json.h"
#include "common/limits.h"
#include "worker/model/block_scaled.h"
#include "worker/model/small_file.h"

namespace reprise::worker {
namespace {

constexpr absl::string_view kSuffix = ".safetensors";
constexpr size_t kFileNameBytesMax = 255;

bool IsPlainFileName(absl::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  };
  return name.size() > kSuffix.size() && name.size() <= kFileNameBytesMax && name[0] != '.' &&
         absl::EndsWith(name, kSuffix) && std::all_of(name.begin(), name.end(), plain);
}

bool IsWeightType(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kBF16 || type == TensorType::kF16;
}

// Older exports store the rotation's frequencies; they follow from the configuration.
bool IsDerived(absl::string_view name) { return absl::EndsWith(name, "rotary_emb.inv_freq"); }

}  // namespace

std::string ScalesName(const std::string& matrix) { return matrix + "_scale_inv"; }

StatusOr<std::map<std::string, std::string>> ParseShardIndex(absl::string_view json) {
  JsonLimits json_limits;
  json_limits.bytes_max = limits::kSafetensorsIndexBytesMax;
  json_limits.depth_max = 8;
  json_limits.unique_keys = true;
  ASSIGN_OR_RETURN(const JsonDocument doc, ParseJson(json, json_limits));
  const JsonValue* map = FindMember(doc, "weight_map");
  if (map == nullptr || !map->IsObject()) {
    return absl::InvalidArgumentError("\"weight_map\" must be an object");
  }
  if (map->MemberCount() > limits::kTensorsMax) {
    return absl::ResourceExhaustedError(absl::StrCat("\"weight_map\" holds ", map->MemberCount(),
                                                     " tensors, the limit is ",
                                                     limits::kTensorsMax));
  }
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  for (const auto& member : map->GetObject()) {
    const std::string tensor(member.name.GetString(), member.name.GetStringLength());
    if (!member.value.IsString()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", JsonQuote(tensor), ": the shard must be a string"));
    }
    const std::string shard(member.value.GetString(), member.value.GetStringLength());
    if (!IsPlainFileName(shard)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", JsonQuote(tensor), ": shard ",
                                                     JsonQuote(shard),
                                                     " is not a plain .safetensors file name"));
    }
    shards.insert(shard);
    shard_of.emplace(tensor, shard);
  }
  if (shards.size() > limits::kModelShardsMax) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "\"weight_map\" names ", shards.size(), " shards, the limit is ", limits::kModelShardsMax));
  }
  return shard_of;
}

StatusOr<ModelFolder> ModelFolder::Open(const std::string& dir) {
  ModelFolder folder;
  folder.dir_ = dir;
  ASSIGN_OR_RETURN(folder.config_, LoadModelConfig(dir));
  const std::string single = dir + "/model.safetensors";
  std::error_code error;
  if (std::filesystem::exists(single, error)) {
    RETURN_IF_ERROR(folder.OpenSingle(single));
  } else {
    RETURN_IF_ERROR(folder.OpenShards(single + ".index.json"));
  }
  RETURN_IF_ERROR(folder.KeepWhatIsNeeded());
  return folder;
}

Status ModelFolder::OpenSingle(const std::string& path) {
  ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  tensors_ = file.header().tensors;
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

Status ModelFolder::OpenShards(const std::string& index_path) {
  StatusOr<std::string> text = ReadSmallFile(index_path, limits::kSafetensorsIndexBytesMax);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(
        absl::StrCat(dir_, " holds neither model.safetensors nor model.safetensors.index.json"));
  }
  if (!text.ok()) return text.status();
  const auto shard_of = ParseShardIndex(*text);
  if (!shard_of.ok()) return Annotate(shard_of.status(), index_path);

  std::set<std::string> shards;
  for (const auto& [tensor, shard] : *shard_of) shards.insert(shard);
  for (const std::string& shard : shards) {
    ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(absl::StrCat(dir_, "/", shard)));
    for (const auto& [name, view] : file.header().tensors) {
      const auto entry = shard_of->find(name);
      if (entry == shard_of->end() || entry->second != shard) {
        return absl::InvalidArgumentError(
            absl::StrCat(file.path(), ": tensor ", JsonQuote(name), ": the index places it in ",
                         entry == shard_of->end() ? "no shard" : entry->second));
      }
      tensors_.emplace(name, view);
    }
    files_.push_back(std::move(file));
  }
  for (const auto& [tensor, shard] : *shard_of) {
    if (tensors_.count(tensor) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(dir_, "/", shard, ": tensor ",
                                                     JsonQuote(tensor),
                                                     " is missing, the index places it here"));
    }
  }
  return absl::OkStatus();
}

Status ModelFolder::KeepScales(const std::string& name, const TensorView& matrix,
                               std::map<std::string, TensorView>* needed) const {
  const std::string place = absl::StrCat(dir_, ": tensor ", JsonQuote(name));
  if (!config_.block_scales) {
    return absl::InvalidArgumentError(absl::StrCat(
        place, " is F8_E4M3, config.json has no \"quantization_config\" that says how"));
  }
  const auto scales = tensors_.find(ScalesName(name));
  if (scales == tensors_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(place, ": its scales ", JsonQuote(ScalesName(name)), " are missing"));
  }
  const Status status = CheckBlockScales(matrix, scales->second, *config_.block_scales);
  if (!status.ok()) return Annotate(status, place);
  needed->insert(*scales);
  return absl::OkStatus();
}

Status ModelFolder::Keep(const TensorSpec& spec, std::map<std::string, TensorView>* needed) const {
  const std::string place = absl::StrCat(dir_, ": tensor ", JsonQuote(spec.name));
  const auto it = tensors_.find(spec.name);
  if (it == tensors_.end()) return absl::InvalidArgumentError(place + " is missing");
  const TensorView& tensor = it->second;
  if (tensor.shape != spec.shape) {
    return absl::InvalidArgumentError(absl::StrCat(place, " has shape ", tensor.ShapeText(),
                                                   ", config.json asks for [",
                                                   absl::StrJoin(spec.shape, ", "), "]"));
  }
  if (spec.linear && tensor.type == TensorType::kF8E4M3) {
    RETURN_IF_ERROR(KeepScales(spec.name, tensor, needed));
  } else if (!IsWeightType(tensor.type)) {
    return absl::UnimplementedError(absl::StrCat(place, " is ", TensorTypeName(tensor.type),
                                                 ", supported: F32, BF16, F16",
                                                 spec.linear ? ", F8_E4M3" : ""));
  }
  needed->insert(*it);
  return absl::OkStatus();
}

bool ModelFolder::IsLeftOut(absl::string_view name) const {
  if (IsDerived(name)) return true;
  absl::string_view rest = name;
  int64_t layer = 0;
  return absl::ConsumePrefix(&rest, "model.layers.") &&
         absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) && layer >= config_.layers &&
         layer < config_.layers + config_.predict_layers;
}

Status ModelFolder::KeepWhatIsNeeded() {
  std::map<std::string, TensorView> needed;
  for (const TensorSpec& spec : ModelTensors(config_)) RETURN_IF_ERROR(Keep(spec, &needed));
  for (const auto& [name, tensor] : tensors_) {
    if (needed.count(name) != 0 || IsLeftOut(name)) continue;
    if (config_.tied_embeddings && name == "lm_head.weight") {
      const TensorView& embedding = needed.at("model.embed_tokens.weight");
      if (tensor.type == embedding.type && tensor.shape == embedding.shape &&
          std::equal(tensor.bytes.begin(), tensor.bytes.end(), embedding.bytes.begin())) {
        continue;
      }
      return absl::InvalidArgumentError(absl::StrCat(
          dir_, ": tensor \"lm_head.weight\" differs from the embedding, config.json ties them"));
    }
    return absl::InvalidArgumentError(absl::StrCat(
        dir_, ": tensor ", JsonQuote(name), " is not part of the model config.json describes"));
  }
  tensors_ = std::move(needed);
  return absl::OkStatus();
}

Status ModelFolder::CheckUnchanged() const {
  for (const SafetensorsFile& file : files_) RETURN_IF_ERROR(file.CheckUnchanged());
  return absl::OkStatus();
}

}  // namespace reprise::worker
