// Files of a start that fails are removed, and no others.
#include "uring/base/made_files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/temporary_folder.h"

namespace virtproxy {
namespace {

namespace fs = std::filesystem;

class MadeFilesTest : public testing::Test {
 protected:
  const TemporaryFolder folder_;
};

TEST_F(MadeFilesTest, OnlyWhatWasMadeIsRemoved) {
  std::ofstream(folder_ / "there") << "text";
  {
    MadeFiles made;
    EXPECT_TRUE(made.open(folder_ / "there", O_RDWR, 0600));
    EXPECT_TRUE(made.open(folder_ / "new", O_RDWR, 0600));
    EXPECT_TRUE(made.open(folder_ / "new", O_RDWR, 0600)) << "a second time";
    EXPECT_FALSE(made.open(folder_ / "no" / "folder", O_RDWR, 0600));
    EXPECT_EQ(errno, ENOENT);
    EXPECT_TRUE(fs::exists(folder_ / "new"));
  }
  EXPECT_TRUE(fs::exists(folder_ / "there"));
  EXPECT_EQ(fs::file_size(folder_ / "there"), 4u);
  EXPECT_FALSE(fs::exists(folder_ / "new"));
}

TEST_F(MadeFilesTest, WhatIsKeptStays) {
  {
    MadeFiles made;
    EXPECT_TRUE(made.open(folder_ / "new", O_RDWR, 0640));
    made.keep();
  }
  EXPECT_TRUE(fs::exists(folder_ / "new"));
}

}  // namespace
}  // namespace virtproxy
