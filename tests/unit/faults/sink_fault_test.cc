// What sinks do when the kernel refuses. The calls are redirected here by the linker; without an
// order to refuse they go through.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/unit/sink_fixture.h"

namespace {

struct Orders {
  int send_error = 0;  // of all sends that do not ask for more than that
  unsigned sends = 0;
  std::string unmovable;  // a name
  unsigned renames_refused = 0;
  std::string unwritable;  // the end of a path whose next fdatasync fails
} orders;

// By path, what the last fdatasync forced to the disk: directories as well, of which nothing is
// kept.
std::map<std::string, std::string> disk;

std::string path_of(int fd) {
  std::string path(256, '\0');
  const ssize_t size =
      readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path.data(), path.size());
  path.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return path;
}

std::string content_of(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return {};
  // The descriptor itself may be for writing alone.
  const virtproxy::UniqueFd own(
      open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
  std::string content(static_cast<size_t>(status.st_size), '\0');
  EXPECT_EQ(pread(own.get(), content.data(), content.size(), 0), status.st_size);
  return content;
}

}  // namespace

extern "C" {

ssize_t __real_send(int fd, const void* from, size_t size, int flags);
ssize_t __wrap_send(int fd, const void* from, size_t size, int flags) {
  ++orders.sends;
  if (orders.send_error == 0) return __real_send(fd, from, size, flags);
  errno = orders.send_error;
  return -1;
}

// The kernel reports once that pages could not be written, and may drop them: the file is again
// what is on the disk.
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd) {
  const std::string path = path_of(fd);
  if (orders.unwritable.empty() || !path.ends_with(orders.unwritable)) {
    disk[path] = content_of(fd);
    return __real_fdatasync(fd);
  }
  orders.unwritable.clear();
  const std::string& kept = disk[path];
  EXPECT_EQ(ftruncate(fd, 0), 0);
  EXPECT_EQ(pwrite(fd, kept.data(), kept.size(), 0), static_cast<ssize_t>(kept.size()));
  errno = EIO;
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
    disk.clear();
    SinkTest::SetUp();
  }
  // A file and its accounts, synchronised as the collecting daemon does it.
  void open_synced() { open("file:" + in_folder("lines") + ",sync=on"); }
  void end() {
    sink_->stop();
    sink_.reset();
    accounts_.reset();
  }
  bool commit() { return accounts_->commit(sink_->note(), {}) && accounts_->sync(); }
  std::string last_line() const {
    const auto found = lines("lines");
    return found.empty() ? "" : found.back().substr(found.back().rfind("] ") + 2);
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

TEST_P(SinkFaultTest, LinesThatTheDiskLostAreWrittenAgain) {
  open_synced();
  give("one");
  sink_->flush();
  ASSERT_EQ(sink_->safe(), 1u);
  orders.unwritable = "/lines";
  give("two");
  sink_->flush();
  EXPECT_EQ(orders.unwritable, "") << "it was asked for";
  EXPECT_EQ(sink_->safe(), 1u);
  EXPECT_EQ(last_line(), "one");
  ASSERT_TRUE(run([&] { return sink_->safe() == 2; }));
  EXPECT_EQ(last_line(), "two");
  EXPECT_EQ(lines("lines").size(), 2u);
}

// What comes behind a record that the disk lost could not be read at the next start.
TEST_P(SinkFaultTest, AccountsThatTheDiskLostAreReadableAgain) {
  open_synced();
  for (const char* text : {"one", "two"}) {
    give(text);
    sink_->flush();
    ASSERT_TRUE(commit());
  }
  give("three");
  sink_->flush();
  orders.unwritable = ".state";
  EXPECT_FALSE(commit());
  EXPECT_TRUE(commit());
  give("four");
  sink_->flush();
  EXPECT_TRUE(commit());
  const uint64_t offset = sink_->note().offset;
  end();
  open_synced();
  EXPECT_EQ(accounts_->note().offset, offset);
  EXPECT_EQ(lines("lines").size(), 4u);
}

TEST_P(SinkFaultTest, WhatAProcessWithoutSyncHadWrittenIsForcedByTheNextOneWithIt) {
  open("file:" + in_folder("lines"));
  give("one");
  sink_->flush();
  ASSERT_TRUE(accounts_->commit(sink_->note(), {}));
  end();
  EXPECT_TRUE(disk.empty());
  open_synced();
  EXPECT_NE(disk[in_folder("lines")].find("] one"), std::string::npos);
  EXPECT_FALSE(disk[in_folder("lines.state")].empty());
  EXPECT_TRUE(disk.contains(folder_.path().string())) << "the names";
}

}  // namespace
}  // namespace virtproxy
