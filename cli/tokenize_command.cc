// reprise tokenize and detokenize: by a gateway, or locally from a model folder.
#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "cli/client/generation_client.h"
#include "cli/client_commands.h"
#include "gateway/text/tokenizer.h"

namespace reprise::cli {
namespace {

struct TokenizeOptions {
  std::string gateway;
  std::string state_dir = DefaultStateDir();
  std::string model;
  bool raw_text = false;
  bool keep_special = false;

  void Declare(FlagSet& flags) {
    flags.Add("gateway", &gateway, "the gateway's address; else found in --state-dir");
    flags.Add("state-dir", &state_dir, "where `reprise up` keeps its addresses");
    flags.Add("model", &model, "a model folder to use instead of a gateway");
  }
};

StatusOr<std::vector<int32_t>> Tokenize(const TokenizeOptions& o, const std::string& text) {
  if (!o.model.empty()) {
    ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(o.model));
    return tokenizer->Encode(text, {.add_special_tokens = !o.raw_text});
  }
  ASSIGN_OR_RETURN(const std::string gateway, FindGateway(o.gateway, o.state_dir));
  return client::GenerationClient({.address = gateway}).Tokenize(text, o.raw_text);
}

StatusOr<std::string> Detokenize(const TokenizeOptions& o, const std::vector<int32_t>& ids) {
  if (!o.model.empty()) {
    ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(o.model));
    return tokenizer->Decode(ids, !o.keep_special);
  }
  ASSIGN_OR_RETURN(const std::string gateway, FindGateway(o.gateway, o.state_dir));
  return client::GenerationClient({.address = gateway}).Detokenize(ids, o.keep_special);
}

}  // namespace

int RunTokenize(const Args& args) {
  TokenizeOptions o;
  FlagSet flags("reprise tokenize", "Prints the token ids of a text on one line.", "TEXT");
  o.Declare(flags);
  flags.Add("raw-text", &o.raw_text, "no special tokens around the text");
  std::vector<std::string> positional;
  if (const auto exit = ParseFlags(flags, args, 1, &positional)) return *exit;
  if (positional.empty()) return Fail("tokenize", absl::InvalidArgumentError("give a text"));
  const auto ids = Tokenize(o, positional[0]);
  if (!ids.ok()) return Fail("tokenize", ids.status());
  std::printf("%s\n", absl::StrJoin(*ids, " ").c_str());
  return 0;
}

int RunDetokenize(const Args& args) {
  TokenizeOptions o;
  FlagSet flags("reprise detokenize", "Prints the text of token ids.", "ID...");
  o.Declare(flags);
  flags.Add("keep-special", &o.keep_special, "print special tokens too");
  std::vector<std::string> positional;
  if (const auto exit = ParseFlags(flags, args, 1 << 20, &positional)) return *exit;
  std::vector<int32_t> ids;
  for (const std::string& word : positional) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id)) {
      return Fail("detokenize", absl::InvalidArgumentError(absl::StrCat(word, " is no token id")));
    }
    ids.push_back(id);
  }
  const auto text = Detokenize(o, ids);
  if (!text.ok()) return Fail("detokenize", text.status());
  std::printf("%s\n", text->c_str());
  return 0;
}

}  // namespace reprise::cli
