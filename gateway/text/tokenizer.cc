#include "gateway/text/tokenizer.h"

#include <algorithm>

#include "common/json.h"
#include "common/limits.h"
#include "gateway/text/utf8.h"

namespace reprise {
namespace {

Status CheckCount(const std::vector<int32_t>& out, const EncodeOptions& options) {
  if (out.size() <= options.tokens_max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("text encodes to more than the limit of ", options.tokens_max, " tokens"));
}

}  // namespace

Tokenizer::Tokenizer(TokenizerParts parts)
    : normalizer_(std::move(parts.normalizer)),
      pre_tokenizer_(std::move(parts.pre_tokenizer)),
      bpe_(std::move(parts.bpe)),
      prefix_(std::move(parts.prefix)),
      suffix_(std::move(parts.suffix)),
      ids_(std::move(parts.ids)),
      decoder_(std::move(parts.decoder)) {}

StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerParts parts) {
  std::vector<AddedToken> added = std::move(parts.added);
  std::unique_ptr<Tokenizer> out(new Tokenizer(std::move(parts)));
  RETURN_IF_ERROR(out->Bind(std::move(added)));
  return out;
}

Status Tokenizer::Bind(std::vector<AddedToken> added) {
  ASSIGN_OR_RETURN(added_, AddedTokens::Create(std::move(added), normalizer_));
  const Vocabulary& vocab = bpe_.vocab();
  tokens_.resize(vocab.size());
  for (int32_t id = 0; id < vocab.size(); ++id) {
    if (vocab.Has(id)) tokens_[id] = &vocab.Token(id);
  }
  absl::flat_hash_set<absl::string_view> contents;
  for (const AddedToken& token : added_.tokens()) {
    const std::string name = absl::StrCat("added token ", JsonQuote(token.content));
    const int32_t model_id = vocab.Find(token.content);
    if (model_id >= 0 && model_id != token.id) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " has id ", token.id, ", but the vocabulary says ", model_id));
    }
    tokens_.resize(std::max<size_t>(tokens_.size(), token.id + size_t{1}));
    if (model_id < 0 && tokens_[token.id] != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, " has id ", token.id, ", which is that of ", JsonQuote(*tokens_[token.id])));
    }
    if (!contents.insert(token.content).second) {
      return absl::InvalidArgumentError(absl::StrCat(name, " is there twice"));
    }
    tokens_[token.id] = &token.content;
  }
  RETURN_IF_ERROR(CheckIds(prefix_, "begin of a text"));
  RETURN_IF_ERROR(CheckIds(suffix_, "end of a text"));
  return decoder_.Bind(tokens_);
}

Status Tokenizer::CheckIds(const std::vector<int32_t>& ids, absl::string_view what) const {
  for (const int32_t id : ids) {
    if (!IsToken(id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the token for the ", what, " has id ", id, ", which is no token"));
    }
  }
  return absl::OkStatus();
}

std::optional<int32_t> Tokenizer::FindToken(absl::string_view token) const {
  if (const int32_t id = bpe_.vocab().Find(token); id >= 0) return id;
  for (const AddedToken& added : added_.tokens()) {
    if (added.content == token) return added.id;
  }
  return std::nullopt;
}

StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text,
                                                 const EncodeOptions& options) const {
  if (text.size() > limits::kEncodeTextBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "text of ", text.size(), " bytes is over the limit of ", limits::kEncodeTextBytesMax));
  }
  if (const auto at = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("text is not valid UTF-8 at byte ", *at));
  }
  std::vector<int32_t> out;
  if (options.add_special_tokens) out = prefix_;
  for (const Section& section : added_.CutRaw(text, options.parse_special)) {
    const auto [begin, end] = section.span;
    if (section.id >= 0) {
      out.push_back(section.id);
    } else {
      RETURN_IF_ERROR(EncodeText(text.substr(begin, end - begin), begin == 0, options, out));
    }
  }
  if (options.add_special_tokens) out.insert(out.end(), suffix_.begin(), suffix_.end());
  RETURN_IF_ERROR(CheckCount(out, options));
  return out;
}

Status Tokenizer::EncodeText(absl::string_view text, bool at_start, const EncodeOptions& options,
                             std::vector<int32_t>& out) const {
  std::string normalized;
  if (!normalizer_.IsIdentity()) {
    normalized.assign(text.data(), text.size());
    RETURN_IF_ERROR(normalizer_.Apply(normalized));
    text = normalized;
  }
  for (const Section& section : added_.CutNormalized(text, options.parse_special)) {
    const auto [begin, end] = section.span;
    if (section.id >= 0) {
      out.push_back(section.id);
    } else {
      RETURN_IF_ERROR(
          EncodeNormalized(text.substr(begin, end - begin), at_start && begin == 0, options, out));
    }
  }
  return absl::OkStatus();
}

Status Tokenizer::EncodeNormalized(absl::string_view text, bool at_start,
                                   const EncodeOptions& options, std::vector<int32_t>& out) const {
  Pieces pieces;
  pieces.text.assign(text.data(), text.size());
  pieces.spans.push_back({0, static_cast<uint32_t>(text.size())});
  pieces.at_start = at_start;
  RETURN_IF_ERROR(pre_tokenizer_.Apply(pieces));
  Bpe::Session session(bpe_, pre_tokenizer_.yields_bytes());
  for (const auto& [begin, end] : pieces.spans) {
    session.Encode(absl::string_view(pieces.text).substr(begin, end - begin), out);
    RETURN_IF_ERROR(CheckCount(out, options));
  }
  return absl::OkStatus();
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  Decoder::Stream stream(decoder_, /*at_text_start=*/true);
  for (const int32_t id : ids) {
    if (!IsToken(id) || (skip_special && IsSpecial(id))) continue;
    stream.Push(id, out);
  }
  stream.Flush(out);
  return out;
}

}  // namespace reprise
