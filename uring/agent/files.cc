#include "uring/agent/files.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "uring/base/text.h"

namespace virtproxy::agent {
namespace {

constexpr uint64_t kBeneath = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;

int open_beneath(int directory, const char* path, uint64_t flags, uint64_t mode) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.mode = mode;
  how.resolve = kBeneath;
  return static_cast<int>(syscall(SYS_openat2, directory, path, &how, sizeof how));
}

Error open_error(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR: {
      Error found = error_of(ErrorCode::kNotFound, path + " is not there");
      return found;
    }
    case EXDEV:
    case ELOOP:
      return error_of(
          ErrorCode::kNotAllowed,
          path + " leads out of its directory, to another file system or over a link at its end");
    case ENOSYS:
      return error_of(ErrorCode::kUnsupported, "files need Linux 5.6, for openat2");
    default:
      return errno_error("cannot open " + path, error);
  }
}

// Of a file that is to be made: it is its directory that is missing.
Error create_error(const std::string& path, int error) {
  if (error == ENOENT || error == ENOTDIR) {
    return error_of(ErrorCode::kNotFound, creation_fault(path, error));
  }
  return open_error(path, error);
}

uint64_t size_of(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 && status.st_size > 0 ? static_cast<uint64_t>(status.st_size) : 0;
}

}  // namespace

Error errno_error(const std::string& what, int error) {
  const char* const name = strerrorname_np(error);
  return io_error(name == nullptr ? std::to_string(error) : name,
                  what + ": " + std::strerror(error));
}

tl::expected<AllowedDirectories, std::string> AllowedDirectories::open(
    const std::vector<std::string>& paths) {
  AllowedDirectories all;
  for (const std::string& path : paths) {
    UniqueFd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!fd)
      return tl::unexpected("cannot open the directory " + path + ": " + std::strerror(errno));
    std::string clean = path;
    while (clean.ends_with('/')) clean.pop_back();
    all.directories_.push_back({clean, std::move(fd)});
  }
  return all;
}

tl::expected<std::pair<const AllowedDirectories::Directory*, std::string>, Error>
AllowedDirectories::find(const std::string& path) const {
  if (path.find('\0') != std::string::npos) {
    return tl::unexpected(error_of(ErrorCode::kBadArgument, "a path has no NUL"));
  }
  const Directory* best = nullptr;
  for (const Directory& each : directories_) {
    if (!path.starts_with(each.path + "/")) continue;
    if (best == nullptr || each.path.size() > best->path.size()) best = &each;
  }
  if (best == nullptr) {
    return tl::unexpected(
        error_of(ErrorCode::kNotAllowed, path + " is in no directory that is allowed"));
  }
  std::string rest = path.substr(best->path.size());
  rest.erase(0, std::min(rest.find_first_not_of('/'), rest.size()));
  if (rest.empty() || rest.ends_with('/')) {
    return tl::unexpected(error_of(ErrorCode::kBadArgument, path + " names no file"));
  }
  return std::pair(best, rest);
}

tl::expected<FileSize, Error> AllowedDirectories::open_file(const std::string& path, int flags,
                                                            unsigned mode) const {
  const auto found = find(path);
  if (!found) return tl::unexpected(found.error());
  // Truncation waits until the file is known to be regular.
  const int fd =
      open_beneath(found->first->fd.get(), found->second.c_str(),
                   static_cast<uint64_t>(flags & ~O_TRUNC) | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW,
                   (flags & O_CREAT) != 0 ? mode : 0);
  // A FIFO that nobody reads.
  const int error = errno;
  if (fd < 0 && error == ENXIO) {
    return tl::unexpected(error_of(ErrorCode::kNotAllowed, path + " is no regular file"));
  }
  if (fd < 0) {
    return tl::unexpected((flags & O_CREAT) != 0 ? create_error(path, error)
                                                 : open_error(path, error));
  }
  FileSize file{UniqueFd(fd), 0};
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    return tl::unexpected(error_of(ErrorCode::kNotAllowed, path + " is no regular file"));
  }
  if ((flags & O_TRUNC) != 0 && ftruncate(fd, 0) != 0) {
    return tl::unexpected(errno_error("cannot empty " + path, errno));
  }
  file.size = size_of(fd);
  return file;
}

tl::expected<AllowedDirectories::Place, Error> AllowedDirectories::place_of(
    const std::string& path) const {
  const auto found = find(path);
  if (!found) return tl::unexpected(found.error());
  const std::string& rest = found->second;
  const size_t slash = rest.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : rest.substr(0, slash);
  Place place;
  place.name = slash == std::string::npos ? rest : rest.substr(slash + 1);
  if (place.name == "." || place.name == "..") {
    return tl::unexpected(error_of(ErrorCode::kBadArgument, path + " names no file"));
  }
  place.directory =
      UniqueFd(open_beneath(found->first->fd.get(), parent.c_str(), O_PATH | O_DIRECTORY, 0));
  if (!place.directory) return tl::unexpected(create_error(path, errno));
  struct stat status {};
  if (fstatat(place.directory.get(), place.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
      !S_ISREG(status.st_mode)) {
    return tl::unexpected(error_of(ErrorCode::kNotAllowed, path + " is no regular file"));
  }
  return place;
}

// --- base64 -----------------------------------------------------------------------------------

namespace {

constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// The value of each digit, and 64 for what is none.
constexpr std::array<uint8_t, 256> digit_values() {
  std::array<uint8_t, 256> values{};
  for (uint8_t& value : values) value = 64;
  for (size_t i = 0; i < kDigits.size(); ++i) {
    values[static_cast<unsigned char>(kDigits[i])] = static_cast<uint8_t>(i);
  }
  return values;
}
constexpr std::array<uint8_t, 256> kValues = digit_values();

}  // namespace

std::string to_base64(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4, '=');
  char* out = text.data();
  const auto byte = [&](size_t at) -> uint32_t {
    return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0;
  };
  for (size_t at = 0; at < bytes.size(); at += 3, out += 4) {
    const size_t count = std::min<size_t>(3, bytes.size() - at);
    const uint32_t group = byte(at) << 16 | byte(at + 1) << 8 | byte(at + 2);
    for (size_t i = 0; i <= count; ++i) out[i] = kDigits[group >> (18 - 6 * i) & 63];
  }
  return text;
}

std::optional<std::string> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  for (size_t at = 0; at < text.size(); at += 4) {
    uint32_t group = 0;
    size_t padding = 0;
    for (size_t i = 0; i < 4; ++i) {
      const char c = text[at + i];
      const uint8_t digit = kValues[static_cast<unsigned char>(c)];
      if (c == '=' && i >= 2 && at + 4 == text.size()) {
        ++padding;
      } else if (digit == 64 || padding > 0) {
        return std::nullopt;
      }
      group = group << 6 | (digit & 63u);
    }
    for (size_t i = 0; i < 3 - padding; ++i) bytes += static_cast<char>(group >> (16 - 8 * i));
  }
  return bytes;
}

// --- handles ----------------------------------------------------------------------------------

Result OpenFiles::open(const AllowedDirectories& read, const AllowedDirectories& write,
                       const Json& arguments, Instant now) {
  const std::string path = arguments["path"];
  const std::string mode = arguments.value("mode", "r");
  struct Mode {
    std::string_view name;
    int flags;
  };
  // As fopen(3) has them. What reads and writes needs both permissions.
  constexpr Mode kModes[] = {{"r", O_RDONLY},
                             {"rb", O_RDONLY},
                             {"w", O_WRONLY | O_CREAT | O_TRUNC},
                             {"wb", O_WRONLY | O_CREAT | O_TRUNC},
                             {"a", O_WRONLY | O_CREAT | O_APPEND},
                             {"ab", O_WRONLY | O_CREAT | O_APPEND}};
  const auto* const found = std::find_if(std::begin(kModes), std::end(kModes),
                                         [&](const Mode& each) { return each.name == mode; });
  if (found == std::end(kModes)) {
    return tl::unexpected(
        error_of(ErrorCode::kBadArgument, "mode must be r, w or a, with or without b"));
  }
  if (files_.size() >= kMost) {
    return tl::unexpected(
        error_of(ErrorCode::kBusy, "16 files are open on this connection: close one"));
  }
  const bool writing = (found->flags & O_ACCMODE) != O_RDONLY;
  auto file = (writing ? write : read).open_file(path, found->flags, 0600);
  if (!file) return tl::unexpected(file.error());
  const int64_t handle = next_handle_++;
  files_.emplace(handle, File{std::move(file->fd), !writing, writing, now});
  return handle;
}

tl::expected<OpenFiles::File*, Error> OpenFiles::find(const Json& arguments, Instant now) {
  const auto found = files_.find(arguments["handle"].get<int64_t>());
  if (found == files_.end()) {
    return tl::unexpected(
        error_of(ErrorCode::kNotFound, "there is no such handle on this connection"));
  }
  found->second.used = now;
  return &found->second;
}

Result OpenFiles::read(const Json& arguments, size_t most, Instant now) {
  const auto file = find(arguments, now);
  if (!file) return tl::unexpected(file.error());
  const auto count = static_cast<size_t>(arguments.value("count", int64_t{4096}));
  if (count > most) {
    return tl::unexpected(
        error_of(ErrorCode::kTooLarge, "count is at most " + std::to_string(most) + " here"));
  }
  if (!(*file)->readable) {
    return tl::unexpected(error_of(ErrorCode::kBadArgument, "the file was not opened for reading"));
  }
  std::string bytes(count, '\0');
  size_t got = 0;
  while (got < count) {
    const ssize_t size = ::read((*file)->fd.get(), bytes.data() + got, count - got);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return tl::unexpected(errno_error("cannot read", errno));
    if (size == 0) break;
    got += static_cast<size_t>(size);
  }
  bytes.resize(got);
  return Json{{"count", got}, {"buf-b64", to_base64(bytes)}, {"eof", got < count}};
}

Result OpenFiles::write(const Json& arguments, Instant now) {
  const auto file = find(arguments, now);
  if (!file) return tl::unexpected(file.error());
  const auto bytes = from_base64(arguments["buf-b64"].get_ref<const std::string&>());
  if (!bytes) return tl::unexpected(error_of(ErrorCode::kBadArgument, "buf-b64 is no base64"));
  const auto count =
      static_cast<size_t>(arguments.value("count", static_cast<int64_t>(bytes->size())));
  if (count > bytes->size()) {
    return tl::unexpected(error_of(ErrorCode::kBadArgument, "count is more than buf-b64 has"));
  }
  if (!(*file)->writable) {
    return tl::unexpected(error_of(ErrorCode::kBadArgument, "the file was not opened for writing"));
  }
  const ssize_t size = ::write((*file)->fd.get(), bytes->data(), count);
  if (size < 0) return tl::unexpected(errno_error("cannot write", errno));
  return Json{{"count", size}, {"eof", false}};
}

Result OpenFiles::seek(const Json& arguments, Instant now) {
  const auto file = find(arguments, now);
  if (!file) return tl::unexpected(file.error());
  const Json& whence = arguments["whence"];
  int from = -1;
  if (whence == "set" || whence == 0) from = SEEK_SET;
  if (whence == "cur" || whence == 1) from = SEEK_CUR;
  if (whence == "end" || whence == 2) from = SEEK_END;
  if (from < 0)
    return tl::unexpected(error_of(ErrorCode::kBadArgument, "whence must be set, cur or end"));
  const off_t at = lseek((*file)->fd.get(), arguments["offset"].get<int64_t>(), from);
  if (at < 0) return tl::unexpected(errno_error("cannot seek", errno));
  return Json{{"position", at}, {"eof", false}};
}

Result OpenFiles::flush(const Json& arguments, Instant now) {
  const auto file = find(arguments, now);
  if (!file) return tl::unexpected(file.error());
  // Nothing is buffered here, and fsync(2) may take long.
  return Json::object();
}

Result OpenFiles::close(const Json& arguments, Instant now) {
  const auto file = find(arguments, now);
  if (!file) return tl::unexpected(file.error());
  files_.erase(arguments["handle"].get<int64_t>());
  return Json::object();
}

void OpenFiles::expire(Instant now) {
  std::erase_if(files_, [&](const auto& entry) { return now >= entry.second.used + kLifetime; });
}

std::optional<Instant> OpenFiles::next_deadline() const {
  std::optional<Instant> first;
  for (const auto& [handle, file] : files_) {
    first = std::min(first.value_or(file.used + kLifetime), file.used + kLifetime);
  }
  return first;
}

std::vector<UniqueFd> OpenFiles::release() {
  std::vector<UniqueFd> all;
  for (auto& [handle, file] : files_) all.push_back(std::move(file.fd));
  files_.clear();
  return all;
}

// --- uploads ----------------------------------------------------------------------------------

tl::expected<Upload, Error> Upload::begin(const AllowedDirectories& directories,
                                          const Json& arguments, uint64_t most) {
  Upload upload;
  upload.size_ = upload.left_ = arguments["size"].get<uint64_t>();
  if (upload.size_ > most) {
    return tl::unexpected(error_of(
        ErrorCode::kTooLarge, "a file may have " + std::to_string(most) + " bytes (--max-put)"));
  }
  auto place = directories.place_of(arguments["path"].get_ref<const std::string&>());
  if (!place) return tl::unexpected(place.error());
  upload.place_ = std::move(*place);
  uint64_t random = 0;
  if (getrandom(&random, sizeof random, 0) != sizeof random)
    random = static_cast<uint64_t>(getpid());
  const std::string temporary = ".virtagent-" + std::to_string(random);
  const int fd = openat(upload.place_.directory.get(), temporary.c_str(),
                        O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return tl::unexpected(errno_error("cannot create a file there", errno));
  upload.fd_ = UniqueFd(fd);
  upload.temporary_ = temporary;
  if (fchmod(fd, static_cast<mode_t>(arguments.value("mode", int64_t{0644}))) != 0) {
    return tl::unexpected(errno_error("cannot set the mode", errno));
  }
  return upload;
}

Upload::~Upload() {
  if (fd_ && !temporary_.empty()) unlinkat(place_.directory.get(), temporary_.c_str(), 0);
}

std::optional<Error> Upload::add(std::string_view bytes) {
  left_ -= bytes.size();
  while (!bytes.empty()) {
    const ssize_t size = write(fd_.get(), bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return errno_error("cannot write", errno);
    bytes.remove_prefix(static_cast<size_t>(size));
  }
  return std::nullopt;
}

Result Upload::finish() {
  if (renameat(place_.directory.get(), temporary_.c_str(), place_.directory.get(),
               place_.name.c_str()) != 0) {
    return tl::unexpected(errno_error("cannot put the file into its place", errno));
  }
  temporary_.clear();
  return Json{{"count", size_}};
}

}  // namespace virtproxy::agent
