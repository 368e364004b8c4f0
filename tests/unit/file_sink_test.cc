// A file of lines over an end of the process between the write and the commit of the accounts,
// which each test makes by never committing.
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/unit/sink_fixture.h"

namespace virtproxy {
namespace {

class FileSinkTest : public SinkTest {
 protected:
  void begin() { open("file:" + in_folder("lines")); }
  void end() {
    sink_->stop();
    sink_.reset();
    accounts_.reset();
  }
  void write(const std::string& line) {
    give(line);
    sink_->flush();
    ASSERT_EQ(texts().back(), line);
  }
  // Without what RFC 5424 puts in front.
  std::vector<std::string> texts() const {
    std::vector<std::string> texts = lines("lines");
    for (std::string& text : texts) {
      if (const size_t head = text.rfind("] "); head != std::string::npos) text.erase(0, head + 2);
    }
    return texts;
  }
  void commit() { ASSERT_TRUE(accounts_->commit(sink_->note(), {})); }
  void replace(const std::string& text) {
    // Beside the other one, so that it has another inode.
    std::ofstream(in_folder("another")) << text;
    std::filesystem::rename(in_folder("another"), in_folder("lines"));
  }
};
INSTANTIATE_TEST_SUITE_P(Driver, FileSinkTest, kDrivers, name_of_choice);

using Lines = std::vector<std::string>;

TEST_P(FileSinkTest, WhatTheFirstProcessDidNotCommitIsCutOff) {
  begin();
  write("one");
  end();
  begin();
  EXPECT_EQ(texts(), Lines{});
}

TEST_P(FileSinkTest, WhatWasThereBeforeStays) {
  replace("before\n");
  begin();
  write("one");
  end();
  begin();
  EXPECT_EQ(texts(), Lines{"before"});
}

TEST_P(FileSinkTest, WhatWasCommittedStays) {
  begin();
  write("one");
  commit();
  write("two");
  end();
  begin();
  EXPECT_EQ(texts(), Lines{"one"});
}

TEST_P(FileSinkTest, AFileThatWasCutGoesOnWhereItEnds) {
  begin();
  write("one");
  const auto size = std::filesystem::file_size(in_folder("lines"));
  write("two");
  commit();
  end();
  std::filesystem::resize_file(in_folder("lines"), size);
  begin();
  write("a longer line than the one that was cut");
  end();
  begin();
  EXPECT_EQ(texts(), Lines{"one"});
}

TEST_P(FileSinkTest, ARotationThatWasInterruptedIsCompleted) {
  begin();
  write("one");
  commit();
  write("two");
  end();
  std::filesystem::rename(in_folder("lines"), in_folder("lines.1"));
  std::ofstream(in_folder("lines")) << "not committed\n";
  for (int start = 0; start < 2; ++start) {
    begin();
    EXPECT_EQ(texts(), Lines{});
    EXPECT_EQ(lines("lines.1").size(), 1u);
    write("three");
    end();
  }
}

TEST_P(FileSinkTest, LinesWaitUntilTheBeginningCanBeCommitted) {
  begin();
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  const auto before = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit none{0, limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &none);
  give("one");
  sink_->flush();
  EXPECT_EQ(sink_->counters().failures, 1u);
  EXPECT_EQ(texts(), Lines{});
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, before);
  EXPECT_TRUE(run([&] { return sink_->safe() == 1; }));
  EXPECT_EQ(texts(), Lines{"one"});
}

TEST_P(FileSinkTest, AnotherFileGoesOnAtItsEnd) {
  begin();
  write("one");
  commit();
  end();
  replace("another\n");
  begin();
  write("two");
  end();
  begin();
  EXPECT_EQ(texts(), Lines{"another"});
}

}  // namespace
}  // namespace virtproxy
