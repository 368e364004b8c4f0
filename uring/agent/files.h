// Files in the directories that the operator allows. The caller's path never leaves them: it is
// resolved by openat2(2) beneath the directory, without links of /proc, and on the same file
// system. Only regular files are opened, so no FIFO and no device can stop the agent.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "core/agent/conversation.h"
#include "uring/base/unique_fd.h"

namespace virtproxy::agent {

// An error with the errno of a system call that failed.
Error errno_error(const std::string& what, int error);

struct FileSize {
  UniqueFd fd;
  uint64_t size = 0;
};

class AllowedDirectories {
 public:
  AllowedDirectories() = default;
  // Opens them. The error names the first one that cannot be opened.
  static tl::expected<AllowedDirectories, std::string> open(const std::vector<std::string>& paths);

  // Opens an absolute path that is in one of the directories. Errors: kNotAllowed, kNotFound, kIo.
  tl::expected<FileSize, Error> open_file(const std::string& path, int flags, unsigned mode) const;

  // The directory that a file lies in, and its name there, for a file that is to be replaced.
  struct Place {
    UniqueFd directory;
    std::string name;
  };
  tl::expected<Place, Error> place_of(const std::string& path) const;

 private:
  struct Directory {
    std::string path;
    UniqueFd fd;
  };
  // The directory that the path is in, and the rest of the path.
  tl::expected<std::pair<const Directory*, std::string>, Error> find(const std::string& path) const;

  std::vector<Directory> directories_;
};

// Base64 with padding, RFC 4648.
std::string to_base64(std::string_view bytes);
std::optional<std::string> from_base64(std::string_view text);

// The files that one connection has opened with guest-file-open.
class OpenFiles {
 public:
  static constexpr size_t kMost = 16;
  static constexpr Duration kLifetime = std::chrono::seconds(60);  // since it was last used

  Result open(const AllowedDirectories& read, const AllowedDirectories& write,
              const Json& arguments, Instant now);
  // `most` is how many bytes one answer may hold.
  Result read(const Json& arguments, size_t most, Instant now);
  Result write(const Json& arguments, Instant now);
  Result seek(const Json& arguments, Instant now);
  Result flush(const Json& arguments, Instant now);
  Result close(const Json& arguments, Instant now);
  void expire(Instant now);
  std::optional<Instant> next_deadline() const;
  // Gives all of them up, for the caller to close.
  std::vector<UniqueFd> release();

 private:
  struct File {
    UniqueFd fd;
    bool readable;
    bool writable;
    Instant used;
  };
  tl::expected<File*, Error> find(const Json& arguments, Instant now);

  std::map<int64_t, File> files_;
  int64_t next_handle_ = 1000;  // qemu-ga begins there as well
};

// A file that is being received. It appears under its name once it is complete, and not before.
class Upload {
 public:
  static tl::expected<Upload, Error> begin(const AllowedDirectories& directories,
                                           const Json& arguments, uint64_t most);
  Upload(Upload&&) = default;
  Upload& operator=(Upload&&) = default;
  ~Upload();

  uint64_t left() const { return left_; }
  // At most left() bytes.
  std::optional<Error> add(std::string_view bytes);
  // Once nothing is left.
  Result finish();

 private:
  Upload() = default;

  AllowedDirectories::Place place_;
  std::string temporary_;
  UniqueFd fd_;
  uint64_t size_ = 0;
  uint64_t left_ = 0;
};

}  // namespace virtproxy::agent
