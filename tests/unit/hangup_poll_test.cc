// A poll for hang-ups that ends: io_uring ends one that reports often when its completion finds no
// place in the queue. What happens to the socket later is still to be noticed.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/channel_pair.h"
#include "uring/base/unique_fd.h"
#include "uring/service/socket_forwards.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

// Passes everything on but polls for hang-ups, which the test completes.
class HangupDriver final : public Driver {
 public:
  explicit HangupDriver(std::unique_ptr<Driver> driver) : driver_(std::move(driver)) {
    features_ = driver_->features();
  }

  // How many were asked for, and whether one is pending.
  size_t asked() const { return asked_; }
  bool polls() const { return poll_ != nullptr; }
  // Reports the events and ends the poll, as an overflow does.
  void end_poll(short events) {
    Op* const op = std::exchange(poll_, nullptr);
    op->pending = false;
    op->owner->complete(*op, {.result = events});
  }

  void poll_hangup(Op& op, File) override {
    ++asked_;
    op.pending = true;
    poll_ = &op;
  }
  void cancel(Op& op) override {
    if (&op != poll_) return driver_->cancel(op);
    cancelled_.push_back(std::exchange(poll_, nullptr));
  }
  bool dispatch(unsigned most) override {
    for (Op* const op : std::exchange(cancelled_, {})) {
      op->pending = false;
      op->owner->complete(*op, {.result = -ECANCELED});
    }
    return driver_->dispatch(most);
  }
  int wait(std::optional<Instant> deadline) override {
    return driver_->wait(cancelled_.empty() ? deadline : kNow);
  }

  void recv(Op& op, File file, void* to, size_t size, bool poll_first) override {
    driver_->recv(op, file, to, size, poll_first);
  }
  void recv_provided(Op& op, File file, uint16_t group, size_t size, bool poll_first) override {
    driver_->recv_provided(op, file, group, size, poll_first);
  }
  void read(Op& op, File file, void* to, size_t size) override {
    driver_->read(op, file, to, size);
  }
  void write(Op& op, File file, const void* from, size_t size) override {
    driver_->write(op, file, from, size);
  }
  void read_at(Op& op, File file, void* to, size_t size, uint64_t offset) override {
    driver_->read_at(op, file, to, size, offset);
  }
  void write_at(Op& op, File file, const void* from, size_t size, uint64_t offset) override {
    driver_->write_at(op, file, from, size, offset);
  }
  void sync_data(Op& op, File file) override { driver_->sync_data(op, file); }
  void send(Op& op, File file, const void* from, size_t size, SendMode mode) override {
    driver_->send(op, file, from, size, mode);
  }
  void sendmsg(Op& op, File file, const msghdr* message, SendMode mode) override {
    driver_->sendmsg(op, file, message, mode);
  }
  void skip_success(Op& op) override { driver_->skip_success(op); }
  void poll(Op& op, File file, uint32_t events) override { driver_->poll(op, file, events); }
  void accept(Op& op, File file) override { driver_->accept(op, file); }
  File add_file(int fd, FileUse use) override { return driver_->add_file(fd, use); }
  void remove_file(File& file) override { driver_->remove_file(file); }
  bool open_group(uint16_t group, uint32_t entries) override {
    return driver_->open_group(group, entries);
  }
  void close_group(uint16_t group) override { driver_->close_group(group); }
  void offer(uint16_t group, std::span<const OfferedBuffer> buffers) override {
    driver_->offer(group, buffers);
  }
  bool submitted() override { return driver_->submitted(); }

 private:
  std::unique_ptr<Driver> driver_;
  Op* poll_ = nullptr;
  size_t asked_ = 0;
  std::vector<Op*> cancelled_;
};

class HangupPollTest : public ChannelPairTest {
 protected:
  void SetUp() override {
    listener_ = UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    ASSERT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&at), size), 0);
    ASSERT_EQ(listen(listener_.get(), 1), 0);
    ASSERT_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);

    ChannelSpec spec;
    spec.address = {Address::Kind::kUnix, "@virtproxy-hangup-test-" + std::to_string(getpid()), 0};
    auto listening = listen_on(spec.address, {});
    ASSERT_TRUE(listening) << listening.error();
    ChannelSpec other = spec;
    spec.transport = find_transport("unix-connect");
    other.transport = find_transport("unix-listen");
    connect(spec, other, *std::move(listening));
    if (IsSkipped()) return;

    ForwardSpec forward;
    forward.service = "hung";
    forward.address = {Address::Kind::kTcp, "127.0.0.1", ntohs(at.sin_port)};
    ForwardConfig config;
    config.iforwards.push_back(forward);
    config.connect_timeout = kPatience;
    forwards_ = std::make_unique<SocketForwards>(*loop_, *resolver_, std::move(config));
    forwards_->start(*there_, {});
    ASSERT_TRUE(registry_.add("hung", *forwards_->services().find("hung")));
  }
  void TearDown() override {
    if (forwards_ != nullptr) {
      forwards_->end_lingering();
      EXPECT_TRUE(run([&] { return forwards_->idle(); }));
    }
    ChannelPairTest::TearDown();
    forwards_.reset();
  }
  std::unique_ptr<Driver> wrap(std::unique_ptr<Driver> driver) override {
    auto wrapped = std::make_unique<HangupDriver>(std::move(driver));
    driver_ = wrapped.get();
    return wrapped;
  }

  UniqueFd listener_;
  HangupDriver* driver_ = nullptr;
  std::unique_ptr<SocketForwards> forwards_;
};

TEST_F(HangupPollTest, AResetIsNoticedAfterThePollHasEnded) {
  opener_.name = "hung";
  opener_.scripts.resize(1, {.then = Script::Then::kStayOpen});
  here_->admit(opener_, 0);
  UniqueFd service;
  ASSERT_TRUE(run([&] {
    service.reset(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    return service.valid();
  }));
  // From its end on nothing is received from the service: a reset shows in the poll alone.
  ASSERT_EQ(shutdown(service.get(), SHUT_WR), 0);
  ASSERT_TRUE(run([&] { return driver_->polls(); }));
  const size_t asked = driver_->asked();
  driver_->end_poll(POLLHUP);
  EXPECT_TRUE(driver_->polls()) << "it is asked for again";
  EXPECT_EQ(driver_->asked(), asked + 1);
  EXPECT_TRUE(opener_.scripts[0].over.empty()) << "an orderly end is no reset";

  const linger at_once{1, 0};
  ASSERT_EQ(setsockopt(service.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
  service.reset();
  ASSERT_TRUE(driver_->polls());
  driver_->end_poll(POLLERR | POLLHUP);
  ASSERT_TRUE(run([&] { return !opener_.scripts[0].over.empty() && all_over(); }));
  EXPECT_EQ(opener_.scripts[0].over, std::vector{Fault::kAborted});
  EXPECT_FALSE(driver_->polls());
}

}  // namespace
}  // namespace virtproxy
