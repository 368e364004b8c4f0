// The files of this machine that `virtagent get` writes and `virtagent put` reads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "uring/base/unique_fd.h"

namespace virtproxy::agent {

// What `put` sends. Its size has to be known before its first byte, since va-put names it.
struct SourceFile {
  UniqueFd fd;  // where it stands is where the file begins
  uint64_t size = 0;

  // "-" is standard input. One that is no regular file is read to its end first, into a file
  // without a name.
  static tl::expected<SourceFile, std::string> open(const std::string& path);
};

// What `get` writes. A regular file appears under its name once it is complete: until then it has
// another name beside it, which is removed if it never is, also by a signal that ends the process.
// Standard output, and what is no regular file, are written as the bytes come. There is one at a
// time.
class TargetFile {
 public:
  // "-" is standard output.
  static tl::expected<TargetFile, std::string> open(const std::string& path);
  TargetFile(TargetFile&&) = default;
  TargetFile& operator=(TargetFile&&) = delete;
  ~TargetFile();

  // The error of the write, or nothing.
  std::string write(std::string_view bytes);
  // Once everything is written.
  std::string finish();

 private:
  TargetFile() = default;

  UniqueFd fd_;
  std::string path_;
  std::string temporary_;  // its path until finish(), or empty
};

}  // namespace virtproxy::agent
