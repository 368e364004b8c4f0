// What sinks do when the kernel refuses. The calls are redirected here by the linker; without an
// order to refuse they go through.
#include <gtest/gtest.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "tests/unit/sink_fixture.h"

namespace {

struct Orders {
  int send_error = 0;  // of all sends that do not ask for more than that
  unsigned sends = 0;
  std::string unmovable;  // a name
  unsigned renames_refused = 0;
} orders;

}  // namespace

extern "C" {

ssize_t __real_send(int fd, const void* from, size_t size, int flags);
ssize_t __wrap_send(int fd, const void* from, size_t size, int flags) {
  ++orders.sends;
  if (orders.send_error == 0) return __real_send(fd, from, size, flags);
  errno = orders.send_error;
  return -1;
}

int __real_renameat(int from_folder, const char* from, int to_folder, const char* to);
int __wrap_renameat(int from_folder, const char* from, int to_folder, const char* to) {
  if (orders.unmovable != from || std::string_view(from) == to) {
    return __real_renameat(from_folder, from, to_folder, to);
  }
  ++orders.renames_refused;
  errno = EBUSY;
  return -1;
}

}  // extern "C"

namespace virtproxy {
namespace {

class SinkFaultTest : public SinkTest {
 protected:
  void SetUp() override {
    orders = {};
    SinkTest::SetUp();
  }
};
INSTANTIATE_TEST_SUITE_P(Driver, SinkFaultTest, testing::Values(DriverChoice::kEpoll),
                         name_of_choice);

// Of generations, the message of each.
TEST_P(SinkFaultTest, ARotationThatFailsAgainAndAgainGivesUpNoGeneration) {
  constexpr unsigned kKeep = 4;
  const std::string text(70'000, 'x');
  open("file:" + in_folder("log") + ",rotate=64K,keep=" + std::to_string(kKeep));
  for (unsigned number = 0; number <= kKeep; ++number) {
    give(std::to_string(number) + text);
    sink_->flush();
  }
  const auto generations = [&] {
    std::string all;
    for (unsigned number = kKeep; number > 0; --number) {
      const auto found = lines("log." + std::to_string(number));
      all += found.empty() ? '-' : found[0][found[0].find("] ") + 2];
    }
    const auto found = lines("log");
    return all + (found.empty() ? '-' : found[0][found[0].find("] ") + 2]);
  };
  ASSERT_EQ(generations(), "01234");
  orders.unmovable = "log";
  give("5" + text);
  sink_->flush();
  ASSERT_TRUE(run([] { return orders.renames_refused >= 3; }));
  EXPECT_EQ(generations(), "123-4") << "one has made room";
  EXPECT_LT(sink_->safe(), parcels_.size());
  // Another one cannot be moved either.
  orders.unmovable.clear();
  ASSERT_TRUE(run([&] { return sink_->safe() == parcels_.size(); }));
  EXPECT_EQ(generations(), "12345");
  // In the middle.
  orders.renames_refused = 0;
  orders.unmovable = "log.1";
  give("6" + text);
  sink_->flush();
  ASSERT_TRUE(run([] { return orders.renames_refused >= 2; }));
  EXPECT_EQ(generations(), "23-45");
  orders.unmovable.clear();
  ASSERT_TRUE(run([&] { return sink_->safe() == parcels_.size(); }));
  EXPECT_EQ(generations(), "23456");
}

// A socket without memory is ready all the same: it is tried again after pauses.
TEST_P(SinkFaultTest, AKernelWithoutMemoryIsNotAskedWithoutEnd) {
  for (const std::string kind : {"unix-dgram", "syslog+unix"}) {
    SCOPED_TRACE(kind);
    const bool datagrams = kind == "unix-dgram";
    const std::string path = in_folder(kind);
    sockaddr_un address{AF_UNIX, {}};
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    const UniqueFd listener(
        socket(AF_UNIX, (datagrams ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0));
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    if (!datagrams) {
      ASSERT_EQ(listen(listener.get(), 1), 0);
    }
    open(kind + ":" + path);
    ASSERT_TRUE(run([&] { return sink_->counters().up.load(); }));
    orders.send_error = ENOBUFS;
    orders.sends = 0;
    give("a line");
    sink_->flush();
    EXPECT_FALSE(run([] { return false; }, std::chrono::milliseconds(500)));
    EXPECT_GE(orders.sends, 2u);
    EXPECT_LE(orders.sends, 5u);
    EXPECT_TRUE(sink_->counters().up) << "the connection is kept";
    orders.send_error = 0;
    UniqueFd connection(datagrams ? -1 : accept(listener.get(), nullptr, nullptr));
    const int reader = datagrams ? listener.get() : connection.get();
    std::string received(1000, '\0');
    ASSERT_TRUE(run([&] {
      const ssize_t got = recv(reader, received.data(), received.size(), MSG_DONTWAIT);
      if (got > 0) received.resize(static_cast<size_t>(got));
      return got > 0;
    }));
    EXPECT_NE(received.find("] a line"), std::string::npos);
    ASSERT_TRUE(run([&] { return sink_->safe() == 1; }));
    sink_->stop();
    ASSERT_TRUE(run([&] { return sink_->idle(); }));
    sink_.reset();
    parcels_.clear();
  }
}

}  // namespace
}  // namespace virtproxy
