// The public gRPC service reprise.v1.Generation. Owned by the gateway; gRPC's threads.
//
// Invariants:
// 1. At most as many Generate calls are open as there are slots; one more is refused with a retry
//    hint, and nothing accepted suffers.
// 2. Cancel acts only for the request's resume handle.
#ifndef REPRISE_GATEWAY_SERVER_GENERATION_SERVICE_H_
#define REPRISE_GATEWAY_SERVER_GENERATION_SERVICE_H_

#include <memory>

#include "gateway/server/generate_session.h"
#include "reprise/v1/generation.grpc.pb.h"

namespace reprise::gateway {

class GenerationService final : public v1::Generation::CallbackService {
 public:
  // `shared` refers to what outlives the service.
  explicit GenerationService(const SessionContext& shared) : shared_(shared) {}

  grpc::ServerWriteReactor<v1::GenerateEvent>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const v1::CancelRequest* request,
                                   v1::CancelResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

 private:
  StatusOr<ValidatedRequest> Prepare(const v1::GenerateRequest& request,
                                     const ServedModel& model) const;
  StatusOr<const Tokenizer*> TokenizerFor(const std::string& model) const;
  Status DoTokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse* response) const;
  Status DoDetokenize(const v1::DetokenizeRequest& request, v1::DetokenizeResponse* response) const;
  Status DoListModels(v1::ListModelsResponse* response) const;

  const SessionContext shared_;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_SERVER_GENERATION_SERVICE_H_
