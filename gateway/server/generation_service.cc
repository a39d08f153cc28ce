#include "gateway/server/generation_service.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/grpc_status.h"
#include "common/limits.h"
#include "common/random.h"
#include "common/rpc_server.h"
#include "common/sha256.h"

namespace reprise::gateway {
namespace {

// Ends a call that never became a request.
class RefusedCall final : public grpc::ServerWriteReactor<v1::GenerateEvent> {
 public:
  explicit RefusedCall(const Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

std::string DrawRequestId() {
  const auto bytes = RandomBytes16();
  return HexEncode(bytes);
}

Status NoTokenizer() {
  return absl::FailedPreconditionError(
      "this gateway has no tokenizer (it was started without a model folder): send token ids");
}

std::string Hex(const std::string& bytes) {
  return HexEncode({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateEvent>* GenerationService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const TimeNs arrived = RealClock().NowNs();
  const auto refuse = [this](const Status& status) {
    shared_.metrics.CountRequest(status);
    return new RefusedCall(status);
  };
  const auto model = shared_.coordinator.model();
  if (!model.ok()) return refuse(model.status());
  auto prepared = Prepare(*request, (*model)->served);
  if (!prepared.ok()) return refuse(prepared.status());
  const Status entered = shared_.slots.Enter();
  if (!entered.ok()) {
    if (absl::IsResourceExhausted(entered)) shared_.metrics.refused_streams_max.Increment();
    return refuse(entered);
  }
  shared_.metrics.active_streams.Add(1);
  return GenerateSession::Start(shared_, context, *std::move(prepared), *model, arrived);
}

StatusOr<ValidatedRequest> GenerationService::Prepare(const v1::GenerateRequest& request,
                                                      const ServedModel& model) const {
  ASSIGN_OR_RETURN(ValidatedRequest prepared, ValidateGenerateRequest(request, model));
  if (prepared.has_text) {
    if (shared_.tokenizer == nullptr) return NoTokenizer();
    EncodeOptions options;
    options.add_special_tokens = !prepared.raw_text;
    options.tokens_max = static_cast<size_t>(std::max(1, model.context_tokens));
    ASSIGN_OR_RETURN(std::vector<int32_t> ids, shared_.tokenizer->Encode(prepared.text, options));
    RETURN_IF_ERROR(SetPrompt(std::move(ids), model, prepared));
    prepared.text.clear();
    prepared.text.shrink_to_fit();
  }
  if (prepared.request_id.empty()) prepared.request_id = DrawRequestId();
  if (!prepared.has_seed) prepared.sampling.set_seed(RandomU64());
  return prepared;
}

grpc::ServerUnaryReactor* GenerationService::Cancel(grpc::CallbackServerContext* context,
                                                    const v1::CancelRequest* request,
                                                    v1::CancelResponse*) {
  const Status id = ValidateRequestId(request->request_id());
  if (!id.ok()) return Answer(context, id);
  const auto sink = shared_.registry.FindByHandle(request->request_id(), request->resume_handle());
  if (!sink.ok()) return Answer(context, sink.status());
  if (*sink != nullptr) (*sink)->CancelByClient();
  return Answer(context, absl::OkStatus());
}

StatusOr<const Tokenizer*> GenerationService::TokenizerFor(const std::string& model) const {
  if (shared_.tokenizer == nullptr) return NoTokenizer();
  // An unnamed model needs no coordinator: the tokenizer is our own.
  if (model.empty()) return shared_.tokenizer;
  ASSIGN_OR_RETURN(const auto snapshot, shared_.coordinator.model());
  RETURN_IF_ERROR(ValidateModelName(model, snapshot->served));
  return shared_.tokenizer;
}

Status GenerationService::DoTokenize(const v1::TokenizeRequest& request,
                                     v1::TokenizeResponse* response) const {
  RETURN_IF_ERROR(ValidateText(request.text()));
  ASSIGN_OR_RETURN(const Tokenizer* tokenizer, TokenizerFor(request.model()));
  EncodeOptions options;
  options.add_special_tokens = !request.raw_text();
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(request.text(), options));
  response->mutable_ids()->Add(ids.begin(), ids.end());
  return absl::OkStatus();
}

Status GenerationService::DoDetokenize(const v1::DetokenizeRequest& request,
                                       v1::DetokenizeResponse* response) const {
  if (request.ids_size() > limits::kPromptTokensMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ids has ", request.ids_size(), " entries, the limit is ", limits::kPromptTokensMax));
  }
  ASSIGN_OR_RETURN(const Tokenizer* tokenizer, TokenizerFor(request.model()));
  for (const int32_t id : request.ids()) {
    if (!tokenizer->IsToken(id)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "ids has ", id, ", which names no token of the ", tokenizer->vocab_size(), " there are"));
    }
  }
  const std::span<const int32_t> ids(request.ids().data(), static_cast<size_t>(request.ids_size()));
  response->set_text(tokenizer->Decode(ids, !request.keep_special()));
  return absl::OkStatus();
}

Status GenerationService::DoListModels(v1::ListModelsResponse* response) const {
  ASSIGN_OR_RETURN(const auto snapshot, shared_.coordinator.model());
  const v1::ModelInfo& info = snapshot->info;
  v1::Model* model = response->add_models();
  model->set_name(info.name());
  model->set_fingerprint(Hex(info.fingerprint()));
  model->set_numerics_class(Hex(info.numerics_class()));
  model->set_kv_format(info.format_text());
  model->set_vocab_size(info.vocab_size());
  model->set_context_tokens(info.context_tokens());
  model->set_block_tokens(info.block_tokens());
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* context,
                                                      const v1::TokenizeRequest* request,
                                                      v1::TokenizeResponse* response) {
  return Answer(context, DoTokenize(*request, response));
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const v1::DetokenizeRequest* request,
                                                        v1::DetokenizeResponse* response) {
  return Answer(context, DoDetokenize(*request, response));
}

grpc::ServerUnaryReactor* GenerationService::ListModels(grpc::CallbackServerContext* context,
                                                        const v1::ListModelsRequest*,
                                                        v1::ListModelsResponse* response) {
  return Answer(context, DoListModels(response));
}

}  // namespace reprise::gateway
