#include "bench/dejavu_stages.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/random.h"

namespace reprise::bench {
namespace {

constexpr TimeNs kStartTimeoutNs = 60 * kSecond;

StatusOr<bool> Readable(int fd, TimeNs timeout_ns) {
  pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
  const int ready = poll(&entry, 1, static_cast<int>(timeout_ns / kMillisecond));
  if (ready < 0) return absl::UnavailableError(absl::StrCat("poll: ", strerror(errno)));
  return ready > 0;
}

}  // namespace

StatusOr<std::unique_ptr<DejavuStages>> DejavuStages::Start(const std::string& program, int count,
                                                            const StageOptions& options) {
  std::unique_ptr<DejavuStages> stages(new DejavuStages);
  StageOptions stage = options;
  stage.controller = absl::StrCat("reprise-dejavu-", getpid(), "-", RandomU64());
  ASSIGN_OR_RETURN(stages->listener_, ListenForStages(stage.controller));
  stages->stages_.resize(static_cast<size_t>(count));
  for (int slot = 0; slot < count; ++slot) {
    stage.slot = slot;
    if (options.swap_bytes_per_s > 0) stage.swap_space = 1 + slot;
    SubprocessOptions spawn;
    spawn.argv = {program, kStageMode};
    for (std::string& flag : stage.Flags()) spawn.argv.push_back(std::move(flag));
    ASSIGN_OR_RETURN(stages->stages_[static_cast<size_t>(slot)].process, Subprocess::Spawn(spawn));
  }
  for (int i = 0; i < count; ++i) RETURN_IF_ERROR(stages->Accept());
  return stages;
}

DejavuStages::~DejavuStages() {
  for (const Stage& stage : stages_) {
    if (stage.fd >= 0) close(stage.fd);
  }
  if (listener_ >= 0) close(listener_);
}

Status DejavuStages::Accept() {
  ASSIGN_OR_RETURN(const bool came, Readable(listener_, kStartTimeoutNs));
  if (!came) return absl::DeadlineExceededError("a stage did not connect within 60 s");
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) return absl::UnavailableError(absl::StrCat("accept: ", strerror(errno)));
  ASSIGN_OR_RETURN(const bool spoke, Readable(fd, kStartTimeoutNs));
  ASSIGN_OR_RETURN(const auto hello, spoke ? ReceiveMessage(fd)
                                           : StatusOr<std::optional<StageMessage>>(std::nullopt));
  if (!hello.has_value() || hello->verb != StageVerb::kHello || hello->peer.slot < 0 ||
      hello->peer.slot >= count()) {
    close(fd);
    return absl::UnavailableError("a stage ended before it said hello");
  }
  Stage& stage = stages_[static_cast<size_t>(hello->peer.slot)];
  stage.fd = fd;
  stage.peer = hello->peer;
  return absl::OkStatus();
}

StatusOr<std::vector<DejavuStages::Event>> DejavuStages::Poll(TimeNs timeout_ns) {
  std::vector<pollfd> entries;
  for (const Stage& stage : stages_) {
    entries.push_back({.fd = stage.fd, .events = POLLIN, .revents = 0});  // -1 is passed over
  }
  const timespec timeout{.tv_sec = timeout_ns / kSecond, .tv_nsec = timeout_ns % kSecond};
  if (ppoll(entries.data(), entries.size(), &timeout, nullptr) < 0) {
    return absl::UnavailableError(absl::StrCat("poll: ", strerror(errno)));
  }
  std::vector<Event> events;
  for (size_t slot = 0; slot < entries.size(); ++slot) {
    if (entries[slot].revents == 0) continue;
    ASSIGN_OR_RETURN(const auto message, ReceiveMessage(entries[slot].fd));
    if (!message.has_value()) {
      close(stages_[slot].fd);
      stages_[slot].fd = -1;
    }
    events.push_back({static_cast<int>(slot), message});
  }
  return events;
}

void DejavuStages::Send(int slot, const StageMessage& message) {
  const Stage& stage = stages_[static_cast<size_t>(slot)];
  if (stage.fd >= 0) SendMessage(stage.fd, message).IgnoreError();  // a broken one also reads so
}

}  // namespace reprise::bench
