// What is known of a device that poll(2) reports POLLHUP for.
#include "uring/agent/port.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

namespace virtproxy::agent {
namespace {

class AgentPortState : public testing::TestWithParam<PortSpec::Method> {
 protected:
  void SetUp() override {
    int master = -1;
    int slave = -1;
    char name[64];
    if (openpty(&master, &slave, name, nullptr, nullptr) != 0) GTEST_SKIP() << "no pty";
    master_ = UniqueFd(master);
    UniqueFd first(slave);
    fd_ = UniqueFd(open(name, O_RDWR | O_NOCTTY | O_NONBLOCK));
    ASSERT_TRUE(fd_);
    device_.method = GetParam();
  }

  PortState state() const { return port_state(device_, fd_.get()); }

  PortSpec device_;
  UniqueFd master_;
  UniqueFd fd_;
};

TEST_P(AgentPortState, OfALineThatIsOpenKeepsItsBytes) {
  EXPECT_EQ(state(), PortState::kOpen);
  ASSERT_EQ(write(master_.get(), "a\n", 2), 2);
  EXPECT_EQ(state(), PortState::kOpen);
  char bytes[8];
  EXPECT_EQ(read(fd_.get(), bytes, sizeof bytes), 2);
}

TEST_P(AgentPortState, OfALineThatHasHungUp) {
  master_.reset();
  EXPECT_EQ(state(), PortState::kGone);
}

TEST(AgentPortFault, IsOfWhatCanNeverBeAPort) {
  for (const char* path : {"/dev/null", "/dev/zero", "/etc/passwd", "/"}) {
    const auto fault = port_fault({PortSpec::Method::kVirtioSerial, path});
    ASSERT_TRUE(fault) << path;
    EXPECT_TRUE(fault->starts_with("virtio-serial:" + std::string(path) + ": ")) << *fault;
    EXPECT_FALSE(open_port({PortSpec::Method::kVirtioSerial, path})) << path;
  }
  // It may come.
  EXPECT_FALSE(port_fault({PortSpec::Method::kVirtioSerial, "/no/such"}));
  EXPECT_FALSE(port_fault({PortSpec::Method::kUnixListen, "/dev/null"}));
}

INSTANTIATE_TEST_SUITE_P(, AgentPortState,
                         testing::Values(PortSpec::Method::kVirtioSerial,
                                         PortSpec::Method::kIsaSerial));

}  // namespace
}  // namespace virtproxy::agent
