#include "common/event_fd.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <thread>

namespace reprise {
namespace {

bool Readable(const EventFd& event, int timeout_ms) {
  pollfd entry = {event.fd(), POLLIN, 0};
  return poll(&entry, 1, timeout_ms) == 1;
}

TEST(EventFd, IsReadableFromSignalToDrain) {
  auto event = EventFd::Create();
  ASSERT_TRUE(event.ok());
  EXPECT_FALSE(Readable(*event, 0));
  EXPECT_FALSE(event->Drain());
  event->Signal();
  event->Signal();
  EXPECT_TRUE(Readable(*event, 0));
  EXPECT_TRUE(event->Drain());
  EXPECT_FALSE(event->Drain());
  EXPECT_FALSE(Readable(*event, 0));
}

TEST(EventFd, WakesAnotherThread) {
  auto event = EventFd::Create();
  ASSERT_TRUE(event.ok());
  EventFd moved = std::move(*event);
  bool woken = false;
  std::thread waiter([&] { woken = Readable(moved, 30'000); });
  moved.Signal();
  waiter.join();
  EXPECT_TRUE(woken);
}

}  // namespace
}  // namespace reprise
