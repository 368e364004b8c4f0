#include "uring/base/log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace virtproxy {
namespace {

using namespace std::chrono_literals;

// Runs `body` with `fd` as standard error.
template <typename Body>
void with_stderr(int fd, Body body) {
  const int saved = dup(STDERR_FILENO);
  if (fd >= 0) {
    dup2(fd, STDERR_FILENO);
  } else {
    close(STDERR_FILENO);
  }
  body();
  dup2(saved, STDERR_FILENO);
  close(saved);
}

std::string captured(void (*body)()) {
  testing::internal::CaptureStderr();
  body();
  return testing::internal::GetCapturedStderr();
}

TEST(LogTest, OneLineWithTimeAndLevel) {
  set_log_level(LogLevel::kInfo);
  const std::string text = captured([] { log_info("channel {}: {} up", 3, "ssh"); });
  std::string shape = text;
  for (char& c : shape) {
    if (c >= '0' && c <= '9') c = '0';
  }
  EXPECT_EQ(shape, "0000-00-00T00:00:00.000Z info  channel 0: ssh up\n");
}

TEST(LogTest, JsonIsOneObjectALine) {
  set_log_format(LogFormat::kJson);
  const std::string text = captured([] {
    log_info("channel {}: up, {}", "vm.1", "\"quoted\" \\ \n\x7f \xc3\xa4 \xff\xc3 \xe2\x82 \xed\xa0\x80");
    log_warn("no channel: {}", 1);
  });
  set_log_format(LogFormat::kText);
  std::string shape = text;
  for (size_t at = 0; (at = shape.find("\"time\":\"", at)) != std::string::npos;) {
    at += 8;
    for (size_t i = at; i < at + 24; ++i) {
      if (shape[i] >= '0' && shape[i] <= '9') shape[i] = '0';
    }
  }
  EXPECT_EQ(shape,
            "{\"time\":\"0000-00-00T00:00:00.000Z\",\"level\":\"info\",\"channel\":\"vm.1\","
            "\"message\":\"up, \\\"quoted\\\" \\\\ \\u000a\\u007f \xc3\xa4 \\ufffd\\ufffd "
            "\\ufffd\\ufffd \\ufffd\\ufffd\\ufffd\"}\n"
            "{\"time\":\"0000-00-00T00:00:00.000Z\",\"level\":\"warn\",\"message\":\"no channel: "
            "1\"}\n");
}

TEST(LogTest, JsonHasTheFactsOfALine) {
  const auto line = [] {
    return captured([] {
      log_facts(LogLevel::kWarn,
                {.peer = "uid 0 pid 7", .reason = "timed_out", .sent = 5, .duration = std::chrono::milliseconds(1500)},
                "channel {}: service {}: client is reset: {}", "vm1", "ssh", "no answer");
    });
  };
  EXPECT_TRUE(line().ends_with(" warn  channel vm1: service ssh: client is reset: no answer\n"));
  set_log_format(LogFormat::kJson);
  const std::string text = line();
  set_log_format(LogFormat::kText);
  EXPECT_TRUE(text.ends_with(
      "\"level\":\"warn\",\"channel\":\"vm1\",\"service\":\"ssh\",\"peer\":\"uid 0 pid 7\","
      "\"reason\":\"timed_out\",\"sent_bytes\":5,\"seconds\":1.500000,"
      "\"message\":\"client is reset: no answer\"}\n"))
      << text;
}

TEST(LogTest, JsonHasTheServiceOfALineOnce) {
  set_log_format(LogFormat::kJson);
  const std::string text = captured([] {
    log_facts(LogLevel::kInfo, {.service = "ssh"}, "channel vm1: listening on {}", "door");
    log_facts(LogLevel::kInfo, {.service = "other"}, "channel vm1: service ssh: gone");
  });
  set_log_format(LogFormat::kText);
  EXPECT_NE(
      text.find("\"channel\":\"vm1\",\"service\":\"ssh\",\"message\":\"listening on door\"}\n"),
      std::string::npos)
      << text;
  EXPECT_NE(text.find("\"channel\":\"vm1\",\"service\":\"ssh\",\"message\":\"gone\"}\n"),
            std::string::npos)
      << text;
}

TEST(LogTest, ALongLineOfJsonIsCutAndStillJson) {
  set_log_format(LogFormat::kJson);
  const std::string text = captured([] {
    for (const char* part : {"a", "\n", "\"", "\xff", "\xf0\x9f\x98\x80"}) {
      std::string message;
      while (message.size() < 100000) message += part;
      log_info("channel {}: {}", std::string(63, 'n'), message);
    }
  });
  set_log_format(LogFormat::kText);
  size_t lines = 0;
  for (size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    const std::string_view line = std::string_view(text).substr(at, end + 1 - at);
    EXPECT_LE(line.size(), kMaxLogLine);
    EXPECT_GT(line.size(), kMaxLogLine - 64);
    EXPECT_TRUE(line.ends_with("...\"}\n")) << line;
    // Nothing is cut inside.
    const std::string_view before = line.substr(0, line.size() - 6);
    EXPECT_TRUE(before.ends_with("a") || before.ends_with("\\u000a") ||
                before.ends_with("\\\"") || before.ends_with("\\ufffd") ||
                before.ends_with("\xf0\x9f\x98\x80"))
        << line;
    ++lines;
  }
  EXPECT_EQ(lines, 5U);
}

TEST(LogTest, Levels) {
  set_log_level(LogLevel::kWarn);
  EXPECT_TRUE(log_enabled(LogLevel::kError));
  EXPECT_FALSE(log_enabled(LogLevel::kInfo));
  const std::string text = captured([] {
    log_error("e");
    log_warn("w");
    log_info("i");
    log_debug("d");
    log_trace("t");
    log_at(LogLevel::kError, "x{}", 1);
  });
  EXPECT_NE(text.find("Z error e\n"), std::string::npos) << text;
  EXPECT_NE(text.find("Z warn  w\n"), std::string::npos) << text;
  EXPECT_NE(text.find("Z error x1\n"), std::string::npos) << text;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 3);
  set_log_level(LogLevel::kInfo);
}

TEST(LogTest, ControlCharactersAndLongLinesStayInOneLine) {
  EXPECT_NE(captured([] { log_info("{}", "a\nb\x7f\xc3\xa4"); }).find("a\\x0ab\\x7f\xc3\xa4\n"),
            std::string::npos);
  const std::string text = captured([] { log_info("{}", std::string(100000, '\n')); });
  EXPECT_LE(text.size(), kMaxLogLine);
  EXPECT_TRUE(text.ends_with("...\n"));
}

TEST(LogTest, ClosedStandardErrorIsHarmless) {
  with_stderr(-1, [] { log_error("nobody hears this"); });
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  with_stderr(ends[1], [] { log_error("EPIPE"); });
  close(ends[1]);
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  close(ends[0]);
  with_stderr(ends[1], [] { log_error("EPIPE"); });
  close(ends[1]);
}

void full_then_drained(int reader, int writer_fd) {
  const uint64_t before = log_lines_dropped();
  const auto start = std::chrono::steady_clock::now();
  with_stderr(writer_fd, [] {
    for (int i = 0; i < 20000; ++i) log_info("line {} {}", i, std::string(100, 'x'));
  });
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  const uint64_t lost = log_lines_dropped() - before;
  EXPECT_GT(lost, 0U);
  std::string buffer(1 << 22, '\0');
  fcntl(reader, F_SETFL, O_NONBLOCK);
  while (read(reader, buffer.data(), buffer.size()) > 0) {
  }
  with_stderr(writer_fd, [] { log_info("after"); });
  const ssize_t got = read(reader, buffer.data(), buffer.size());
  ASSERT_GT(got, 0);
  buffer.resize(static_cast<size_t>(got));
  EXPECT_NE(buffer.find(std::to_string(lost) + " log lines were dropped"), std::string::npos)
      << buffer;
  EXPECT_NE(buffer.find("info  after\n"), std::string::npos);
}

TEST(LogTest, AFullPipeDropsAndCounts) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  full_then_drained(ends[0], ends[1]);
  close(ends[0]);
  close(ends[1]);
}

TEST(LogTest, AFullSocketDropsAndCounts) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  full_then_drained(ends[0], ends[1]);
  close(ends[0]);
  close(ends[1]);
}

TEST(LogTest, AStoppedTerminalDoesNotBlock) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  ASSERT_GE(master, 0);
  ASSERT_EQ(grantpt(master), 0);
  ASSERT_EQ(unlockpt(master), 0);
  const int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
  ASSERT_GE(terminal, 0);
  const auto start = std::chrono::steady_clock::now();
  with_stderr(terminal, [] {
    for (int i = 0; i < 5000; ++i) log_info("line {} {}", i, std::string(500, 'x'));
  });
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
  close(terminal);
  close(master);
}

TEST(LogTest, LinesOfSeveralThreadsStayWhole) {
  captured([] { log_info("what earlier tests dropped is told here"); });
  char path[] = "/tmp/log_test_XXXXXX";
  const int fd = mkstemp(path);
  with_stderr(fd, [] {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([t] {
        for (int i = 0; i < 1000; ++i) log_info("thread {} says {}", t, std::string(50, 'z'));
      });
    }
    for (auto& thread : threads) thread.join();
  });
  std::string text(1 << 20, '\0');
  text.resize(static_cast<size_t>(pread(fd, text.data(), text.size(), 0)));
  close(fd);
  unlink(path);
  size_t lines = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    ASSERT_NE(end, std::string::npos);
    EXPECT_EQ(text.substr(at + 24, 13), " info  thread") << text.substr(at, end - at);
    EXPECT_EQ(end - at, 24 + 7 + 9 + 5 + 50U) << text.substr(at, end - at);
    at = end + 1;
    ++lines;
  }
  EXPECT_EQ(lines, 4000U);
}

TEST(LogTest, LinesForAFileCanBeHeld) {
  captured([] { log_info("what earlier tests dropped is told here"); });
  char path[] = "/tmp/log_test_XXXXXX";
  const int fd = mkstemp(path);
  const auto text_of_file = [&] {
    std::string text(1 << 20, '\0');
    text.resize(static_cast<size_t>(pread(fd, text.data(), text.size(), 0)));
    return text;
  };
  const uint64_t before = log_lines_dropped();
  with_stderr(fd, [&] {
    set_log_file(LogFile::kHeld);
    log_info("held first");
    EXPECT_EQ(text_of_file(), "");
    for (int i = 0; i < 1000; ++i) log_info("held {}", std::string(500, 'x'));
    EXPECT_EQ(text_of_file(), "");
    set_log_file(LogFile::kWritten);
    log_info("not held");
  });
  const std::string text = text_of_file();
  EXPECT_EQ(text.find("Z info  held first\n"), 23U) << text.substr(0, 100);
  EXPECT_TRUE(text.ends_with("Z info  not held\n"));
  const uint64_t lost = log_lines_dropped() - before;
  EXPECT_GT(lost, 800U);
  EXPECT_NE(text.find(std::to_string(lost) + " log lines were dropped"), std::string::npos);
  EXPECT_LE(text.size(), kMaxHeldLog + kMaxLogLine);
  // A pipe takes lines at any time.
  set_log_file(LogFile::kHeld);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  with_stderr(ends[1], [] { log_info("to a pipe"); });
  char bytes[256];
  EXPECT_GT(read(ends[0], bytes, sizeof bytes), 0);
  set_log_file(LogFile::kWritten);
  close(ends[0]);
  close(ends[1]);
  close(fd);
  unlink(path);
}

TEST(LogDeathTest, TheJournalGetsALevelAndNoTime) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        struct stat status {};
        fstat(STDERR_FILENO, &status);
        setenv("JOURNAL_STREAM",
               (std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino)).c_str(), 1);
        log_info("to the journal");
        log_error("worse");
        _exit(0);
      },
      testing::ExitedWithCode(0), "^<6>to the journal\n<3>worse\n");
}

TEST(LogTest, LevelNames) {
  EXPECT_EQ(parse_log_level("warn"), LogLevel::kWarn);
  EXPECT_EQ(parse_log_level("warning"), LogLevel::kWarn);
  EXPECT_EQ(parse_log_level("trace"), LogLevel::kTrace);
  EXPECT_FALSE(parse_log_level("INFO"));
}

TEST(RateLimitTest, CountsWhatItHolds) {
  RateLimit limit(2);
  const Instant start{};
  EXPECT_EQ(limit.allow(start), 0U);
  EXPECT_EQ(limit.allow(start + 10ms), 0U);
  EXPECT_FALSE(limit.allow(start + 20ms));
  EXPECT_FALSE(limit.allow(start + 999ms));
  EXPECT_EQ(limit.allow(start + 1s), 2U);
  EXPECT_EQ(limit.allow(start + 1s), 0U);
  EXPECT_FALSE(limit.allow(start + 1500ms));
  EXPECT_EQ(limit.allow(start + 1h), 1U);
  RateLimit never(0);
  EXPECT_FALSE(never.allow(start));
}

}  // namespace
}  // namespace virtproxy
