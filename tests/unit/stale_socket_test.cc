// A socket file that was left behind by another user.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "uring/net/sockets.h"

namespace virtproxy {
namespace {

constexpr uid_t kOther = 65534;

// A folder for all users, as /tmp is, with a socket in it that nobody listens on.
class StaleSocketTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    ASSERT_EQ(chmod(folder_.c_str(), 01777), 0);
    path_ = folder_ + "/s";
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    std::copy(path_.begin(), path_.end(), at.sun_path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&at), sizeof(at)), 0);
    ASSERT_EQ(close(fd), 0);
  }
  void TearDown() override {
    if (path_.empty()) return;
    unlink(path_.c_str());
    rmdir(folder_.c_str());
  }

  std::string refusal_to_other_user(mode_t mode) {
    EXPECT_EQ(chmod(path_.c_str(), mode), 0);
    EXPECT_EQ(seteuid(kOther), 0);
    const auto listening = listen_on(Address{Address::Kind::kUnix, path_, 0}, {});
    EXPECT_EQ(seteuid(0), 0);
    return listening ? "it listens" : listening.error();
  }

  std::string folder_ = "/tmp/vp-stale-XXXXXX";
  std::string path_;
};

TEST_F(StaleSocketTest, OfAnotherUserIsSaidToBeThat) {
  const std::string expected =
      "cannot listen on " + path_ +
      ": Operation not permitted (a socket of another user is there, which this user may not try "
      "or not remove)";
  EXPECT_EQ(refusal_to_other_user(0600), expected);  // it cannot be tried
  EXPECT_EQ(refusal_to_other_user(0666), expected);  // it cannot be removed
}

TEST_F(StaleSocketTest, OfThisUserIsReplaced) {
  const auto listening = listen_on(Address{Address::Kind::kUnix, path_, 0}, {});
  ASSERT_TRUE(listening) << listening.error();
  for (const int fd : listening->sockets) close(fd);
}

}  // namespace
}  // namespace virtproxy
