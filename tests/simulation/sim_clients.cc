#include "tests/simulation/sim_clients.h"

#include <memory>
#include <utility>

namespace reprise::sim {

void SimClients::Submit(const ClientRequest& request) {
  journal_.Submitted(request);
  Client& client = clients_[request.id];
  client.request = request;
  client.submitted = world_.now();
  Connect(request.id);
}

void SimClients::Connect(const std::string& id) {
  Client& client = clients_.at(id);
  const std::vector<SimGateway*> gateways = gateways_();
  if (gateways.empty()) return ResumeAfter(id, 200 * kMillisecond);
  SimGateway* const gateway = gateways[world_.random().Below(gateways.size())];
  auto stream = std::make_shared<StreamId>(0);
  *stream = context_.network.Connect(
      "client", {0, [this, id, stream] { OnBroken(id, *stream); }},
      {gateway->pid(), [gateway, stream] { gateway->OnClientGone(*stream); }});
  client.stream = *stream;
  client.gateway = gateway->pid();
  ClientCall call;
  call.request = client.request;
  if (client.request.deadline != 0) {
    const TimeNs left = client.request.deadline - (world_.now() - client.submitted);
    call.deadline_left = std::max(kMillisecond, left);
  }
  if (!client.handle.empty()) {
    call.resume = true;
    call.handle = client.handle;
    call.has_input = !client.request.handle_only;
    call.received = journal_.Received(id);
    ++totals_.resumes;
    ++client.resumes;
    journal_.Resumed(id);
  }
  context_.network.Send(*stream, {"generate", 0, gateway->pid(), Digest().Text(id).value()},
                        [gateway, stream = *stream, call, events = EventsOf(id, *stream)] {
                          gateway->OnGenerate(stream, call, events);
                        });
}

SimClients::Client* SimClients::Current(const std::string& id, StreamId stream) {
  const auto found = clients_.find(id);
  if (found == clients_.end() || found->second.stream != stream) return nullptr;
  return &found->second;
}

std::shared_ptr<const ClientEvents> SimClients::EventsOf(const std::string& id, StreamId stream) {
  auto events = std::make_shared<ClientEvents>();
  events->accepted = [this, id, stream](const std::string& handle) {
    Client* const client = Current(id, stream);
    if (client == nullptr) return;
    client->handle = handle;
    journal_.Accepted(id);
  };
  events->token = [this, id, stream](const gateway::TokenEvent& token) {
    if (Current(id, stream) != nullptr) journal_.Token(id, token);
  };
  events->branch_ended = [this, id, stream](const gateway::BranchEnd& end) {
    if (Current(id, stream) != nullptr) journal_.BranchEnded(id, end);
  };
  events->finished = [this, id, stream](const gateway::SessionEnd& finish) {
    if (Current(id, stream) == nullptr) return;
    journal_.Finished(id, finish);
    End(id);
  };
  events->refused = [this, id, stream](const Status& status) {
    if (Current(id, stream) != nullptr) OnRefused(id, status);
  };
  return events;
}

void SimClients::End(const std::string& id) {
  const StreamId stream = clients_.at(id).stream;
  clients_.erase(id);
  context_.network.Close(stream);
}

void SimClients::OnBroken(const std::string& id, StreamId stream) {
  Client* const client = Current(id, stream);
  if (client == nullptr || client->waits) return;
  if (client->handle.empty()) return AskAnew(id);
  if (client->request.resume_window == 0) {
    journal_.Lost(id);
    return End(id);
  }
  ResumeAfter(id, static_cast<TimeNs>(world_.random().Below(300 * kMillisecond)));
}

// The stream ended with a status instead of an end of the request.
void SimClients::OnRefused(const std::string& id, const Status& status) {
  Client& client = clients_.at(id);
  world_.Trace(id, " refused: ", status.ToString());
  if (client.handle.empty()) return AskAnew(id);
  const bool later =
      absl::IsUnavailable(status) || absl::IsResourceExhausted(status) || absl::IsAborted(status);
  if (later) return ResumeAfter(id, 200 * kMillisecond);
  if (absl::IsNotFound(status) && client.request.handle_only) {
    ++totals_.handles_lost;
    journal_.Lost(id);
    return End(id);
  }
  journal_.Ended(id, status);
  End(id);
}

void SimClients::ResumeAfter(const std::string& id, TimeNs delay) {
  Client& client = clients_.at(id);
  context_.network.Close(client.stream);
  client.stream = 0;
  client.waits = true;
  world_.After(delay, {"client_resumes", 0, 0, 0}, [this, id] {
    clients_.at(id).waits = false;
    Connect(id);
  });
}

// A client that was refused, or never heard whether it was accepted, asks anew under another id.
void SimClients::AskAnew(const std::string& id) {
  journal_.Refused(id);
  ClientRequest again = clients_.at(id).request;
  End(id);
  absl::StrAppend(&again.id, "'");
  ++waiting_;
  world_.After(300 * kMillisecond, {"client", 0, 0, 0}, [this, again] {
    --waiting_;
    Submit(again);
  });
}

std::vector<std::string> SimClients::Streaming() const {
  std::vector<std::string> ids;
  for (const auto& [id, client] : clients_) {
    if (!client.waits) ids.push_back(id);
  }
  return ids;
}

void SimClients::CancelSomebody() {
  const std::vector<std::string> streaming = Streaming();
  if (streaming.empty()) return;
  const std::string& id = streaming[world_.random().Below(streaming.size())];
  const Client& client = clients_.at(id);
  for (SimGateway* const gateway : gateways_()) {
    if (gateway->pid() != client.gateway) continue;
    world_.Trace("cancel ", id);
    world_.Note(Injected::kCancel);
    journal_.CancelAsked(id);
    context_.network.Send(client.stream, {"cancel", 0, gateway->pid(), 0},
                          [gateway, id] { gateway->OnCancel(id); });
  }
}

void SimClients::LeaveSomebody() {
  const std::vector<std::string> streaming = Streaming();
  if (streaming.empty()) return;
  const std::string id = streaming[world_.random().Below(streaming.size())];
  Client& client = clients_.at(id);
  if (client.handle.empty()) return;
  world_.Trace("client of ", id, " leaves");
  world_.Note(Injected::kDeparture);
  const StreamId stream = std::exchange(client.stream, 0);
  context_.network.Break(stream);
  const bool returns = client.request.resume_window > 0 && world_.random().Chance(0.8);
  if (!returns) {
    ++totals_.left_for_good;
    journal_.Lost(id);
    clients_.erase(id);
    return;
  }
  ++totals_.left;
  client.waits = true;
  // Mostly within the window.
  const auto span = static_cast<uint64_t>(client.request.resume_window * 3 / 2);
  world_.After(static_cast<TimeNs>(world_.random().Below(span)), {"client_returns", 0, 0, 0},
               [this, id] {
                 clients_.at(id).waits = false;
                 Connect(id);
               });
}

}  // namespace reprise::sim
