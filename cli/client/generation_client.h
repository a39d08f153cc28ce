// A client of the public API: one blocking call per method, and streams by callback so that a few
// threads hold thousands of them. Used by the command line, tests and benchmarks. Any thread.
//
// A stream that breaks after Accepted is resumed by itself, at the next gateway: what the caller
// sees is one stream. A gateway that stands still breaks its streams too (keepalive).
//
// Invariants:
// 1. A stream calls on_event in order, one call at a time, then on_done exactly once. Whatever
//    breaks and is resumed meanwhile, no event comes twice.
// 2. The client may be destroyed at any time: its streams are cancelled and waited for.
#ifndef REPRISE_CLI_CLIENT_GENERATION_CLIENT_H_
#define REPRISE_CLI_CLIENT_GENERATION_CLIENT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/strings/string_view.h"
#include "cli/client/completion.h"
#include "common/mutex.h"
#include "common/status.h"
#include "reprise/v1/generation.grpc.pb.h"

namespace reprise::client {

struct ClientOptions {
  std::string address;  // host:port of a gateway, or of several, separated by commas
  // TCP connections to each gateway, used in turn by streams. What many streams of one connection
  // get at about the same time travels together, which is a quarter of a token's cost at the
  // gateway; but the work of one connection is done by one thread at a time.
  int connections = 1;
  // Of one break: tries and time until a token comes again. 0 tries: a broken stream stays broken.
  int resume_tries = 20;
  int64_t resume_timeout_ms = 30'000;
  int64_t resume_backoff_first_ms = 50;  // before the second try, then doubled
  int64_t resume_backoff_max_ms = 1'000;
  // A connection whose gateway does not answer a ping in time is broken.
  int64_t keepalive_ms = 500;
  int64_t keepalive_timeout_ms = 800;
  int64_t call_timeout_ms = 30'000;  // of everything but streams
};

// One stream; stays valid for as long as anybody holds it.
class GenerationStream {
 public:
  virtual ~GenerationStream() = default;
  // Breaks the stream (the request waits for its resume window, then ends); on_done follows.
  virtual void Abandon() = 0;
};

struct StreamCallbacks {
  // On a gRPC thread; the event is reused after the call. The next one is read after it returns.
  std::function<void(const v1::GenerateEvent&)> on_event;
  // On a gRPC thread. OK also when the request itself failed: see Finished.code.
  std::function<void(const Status&)> on_done;
  // On a gRPC thread, between events: the stream broke, of this, and is resumed. Once a break.
  std::function<void(const Status&)> on_resume = {};
};

class GenerationClient {
 public:
  explicit GenerationClient(ClientOptions options);
  ~GenerationClient();

  // The stream starts at once. A gateway that cannot be reached is passed over.
  std::shared_ptr<GenerationStream> Start(v1::GenerateRequest request, StreamCallbacks callbacks);

  // Blocks until the request has ended; `on_event` may be null. The status is the call's, or that
  // of Finished.code, or INTERNAL from Completion::Add.
  StatusOr<Completion> Generate(const v1::GenerateRequest& request,
                                const std::function<void(const v1::GenerateEvent&)>& on_event = {});

  Status Cancel(const v1::Accepted& accepted);
  StatusOr<std::vector<int32_t>> Tokenize(absl::string_view text, bool raw_text = false);
  StatusOr<std::string> Detokenize(const std::vector<int32_t>& ids, bool keep_special = false);
  StatusOr<std::vector<v1::Model>> ListModels();

 private:
  class Stream;
  void Forget(Stream* stream);
  // At one gateway after the other, while they cannot be reached.
  template <typename Request, typename Response>
  Status Call(grpc::Status (v1::Generation::Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Response*),
              const Request& request, Response* response);

  const ClientOptions options_;
  size_t gateways_ = 1;
  std::vector<std::unique_ptr<v1::Generation::Stub>> stubs_;  // gateways in turn
  std::atomic<uint64_t> next_stub_{0};
  Mutex mu_;
  CondVar empty_;
  std::unordered_set<Stream*> streams_ GUARDED_BY(mu_);  // not yet done
};

}  // namespace reprise::client

#endif  // REPRISE_CLI_CLIENT_GENERATION_CLIENT_H_
