#include "uring/service/logs/spool_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "uring/base/log.h"
#include "uring/base/patience.h"
#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy::logs {
namespace {

using Failure = tl::unexpected<std::string>;

// A process that was killed keeps its lock until the kernel has torn down its ring.
constexpr auto kLockTime = std::chrono::milliseconds(1500);
constexpr auto kLockInterval = std::chrono::milliseconds(10);
constexpr Duration kSpoolRetry = std::chrono::seconds(1);

std::string with_errno(const std::string& what) { return what + ": " + std::strerror(errno); }

bool lock(int fd) {
  Patience patience(kLockTime);
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK || !patience.wait(kLockInterval)) return false;
  }
  return true;
}

std::string shown(const SpoolGeometry& geometry) {
  return std::to_string(geometry.segments) + " segments of " + format_size(geometry.segment_size);
}

// A name that was made now must be there after the machine's end as well.
void sync_directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd) fsync(fd.get());
}

tl::expected<uint64_t, std::string> size_of(int fd, const struct stat& status,
                                            const std::string& shown_path) {
  if (S_ISREG(status.st_mode)) return static_cast<uint64_t>(status.st_size);
  uint64_t size = 0;
  if (S_ISBLK(status.st_mode) && ioctl(fd, BLKGETSIZE64, &size) == 0) return size;
  return Failure("the spool " + shown_path + " is neither a file nor a block device");
}

// A new file gets its size once all of it is allocated, so that a start that is killed in between
// leaves an empty file and none of another size. NFS cannot do that, and grows it while it
// allocates.
bool allocate(int fd, uint64_t bytes, bool fresh) {
  const auto size = static_cast<off_t>(bytes);
  if (fresh && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size) == 0) return ftruncate(fd, size) == 0;
  if (fresh && errno != EOPNOTSUPP) return false;
  return fallocate(fd, 0, 0, size) == 0;
}

// A size that people write, of a file that was made for one.
std::string size_for(const SpoolGeometry& geometry) {
  const uint64_t size = (geometry.segments + 1) * geometry.segment_size;
  return spool_geometry_for(size) == geometry ? format_size(size) : "the size it was made with";
}

}  // namespace

std::vector<std::byte> read_now(int fd, const SpoolRead& wanted) {
  std::vector<std::byte> bytes(wanted.size);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = pread(fd, bytes.data() + done, bytes.size() - done,
                              static_cast<off_t>(wanted.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

std::optional<SpoolGeometry> spool_geometry_for(uint64_t size) {
  uint32_t segment = 2u << 20;  // holds the longest line
  while (segment > kLeastSegmentSize && size / 8 < segment) segment /= 2;
  if (size < kLeastSpoolSize) return std::nullopt;
  return spool_geometry(size, segment);
}

tl::expected<SpoolFile, std::string> open_spool_file(const std::string& path, uint64_t size,
                                                     const std::optional<FileOwner>& owner,
                                                     MadeFiles& made) {
  const std::string name = printable(path);
  const auto geometry = spool_geometry_for(size);
  if (!geometry) return Failure("a spool of " + format_size(size) + " is too small");
  SpoolFile file;
  file.geometry = *geometry;
  file.fd = open_for(owner, path, O_RDWR | O_CLOEXEC, 0600, made);
  if (!file.fd)
    return Failure("cannot open the spool " + name + ": " + creation_fault(name, errno));
  const int fd = file.fd.get();
  if (!lock(fd)) {
    return Failure(errno == EWOULDBLOCK
                       ? "the spool " + name + " is in use by another process: give each its own"
                       : with_errno("cannot lock the spool " + name));
  }
  struct stat status {};
  if (fstat(fd, &status) != 0) return Failure(with_errno("the spool " + name));
  const auto there = size_of(fd, status, name);
  if (!there) return Failure(there.error());
  file.fresh = *there == 0;
  SpoolRecovery recovery(*geometry);
  if (!file.fresh) recovery.read(read_now(fd, recovery.next_read()));
  if (recovery.phase() == SpoolRecovery::Phase::kOtherGeometry) {
    return Failure("the spool " + name + " was made with " + shown(recovery.found_geometry()) +
                   ", and " + format_size(size) + " would be " + shown(*geometry) + ": give " +
                   size_for(recovery.found_geometry()) +
                   ", or remove it once nothing is left in it");
  }
  const bool device = S_ISBLK(status.st_mode);
  if (!file.fresh && (device ? *there < geometry->file_size() : *there != geometry->file_size())) {
    return Failure(name + " has " + std::to_string(*there) + " bytes, and a spool of " +
                   format_size(size) + " has " + std::to_string(geometry->file_size()) +
                   ": give the size it was made with, or the path of a new file");
  }
  if (!device && !allocate(fd, geometry->file_size(), file.fresh)) {
    const std::string failure =
        with_errno("cannot allocate " + format_size(size) + " for the spool " + name);
    const bool unable = errno == EOPNOTSUPP;
    // Otherwise the next start would take it for a spool of another size.
    if (file.fresh) unlink(path.c_str());
    return Failure(failure + (unable ? ": use a file system that can, such as ext4 or XFS" : ""));
  }
  if (file.fresh) {
    fsync(fd);
    sync_directory_of(path);
    recovery.read(read_now(fd, recovery.next_read()));
  }
  while (recovery.phase() != SpoolRecovery::Phase::kDone) {
    recovery.read(read_now(fd, recovery.next_read()));
  }
  file.recovered = recovery.state();
  return file;
}

// --- SpoolWriter --------------------------------------------------------------------------------

SpoolWriter::SpoolWriter(Loop& loop, int fd, Spool& spool, const SyncPolicy& policy,
                         std::string path, std::function<void()> moved)
    : loop_(loop),
      file_{fd, -1},
      spool_(spool),
      policy_(policy),
      path_(std::move(path)),
      moved_(std::move(moved)),
      op_(this),
      retry_(loop.timers(), this),
      sync_due_(loop.timers(), this),
      sync_requested_(spool.appended_position()) {}

void SpoolWriter::work() {
  if (stopped_ || op_.pending || retry_.armed()) return;
  if (spool_.appended_position() > sync_requested_) {
    if (policy_.when == SyncPolicy::When::kBatch) request_sync();
    if (policy_.when == SyncPolicy::When::kInterval && !sync_due_.armed()) {
      sync_due_.set(loop_.now() + policy_.interval);
    }
  }
  const auto next = spool_.next_write();
  if (!next) return;
  syncing_ = next->kind == SpoolWrite::Kind::kSync;
  if (syncing_) {
    loop_.driver().sync_data(op_, file_);
  } else {
    loop_.driver().write_at(op_, file_, next->bytes.data(), next->bytes.size(), next->offset);
  }
}

void SpoolWriter::request_sync() {
  spool_.request_sync();
  sync_requested_ = spool_.appended_position();
  sync_wanted_ = true;
}

void SpoolWriter::sync_now() {
  request_sync();
  work();
}

bool SpoolWriter::settled() const {
  return !spool_.write_under_way() && !sync_wanted_ &&
         spool_.written_position() == spool_.appended_position();
}

void SpoolWriter::stop() {
  stopped_ = true;
  retry_.clear();
  sync_due_.clear();
}

void SpoolWriter::complete(Op&, Outcome outcome) {
  if (outcome.result < 0 || (outcome.result == 0 && !syncing_)) {
    report(outcome.result < 0 ? -outcome.result : ENOSPC, syncing_);
    spool_.written(0);
    if (!stopped_) retry_.set(loop_.now() + kSpoolRetry);
  } else if (syncing_) {
    ++syncs_;
    spool_.synced();
    sync_wanted_ = spool_.synced_position() < sync_requested_;
  } else {
    spool_.written(static_cast<size_t>(outcome.result));
  }
  moved_();
}

void SpoolWriter::report(int error, bool sync) {
  ++failures_;
  if (reported_ && loop_.now() < *reported_ + kReportInterval) return;
  reported_ = loop_.now();
  log_error("cannot {} the spool {}: {}; it is tried again every second", sync ? "sync" : "write",
            printable(path_), std::strerror(error));
}

void SpoolWriter::expired(Timer& timer) {
  if (&timer == &sync_due_) request_sync();
  moved_();
}

// --- SpoolFetcher -------------------------------------------------------------------------------

void SpoolFetcher::read(const SpoolRead& wanted) {
  bytes_.resize(wanted.size);
  loop_.driver().read_at(op_, file_, bytes_.data(), bytes_.size(), wanted.offset);
}

void SpoolFetcher::complete(Op&, Outcome outcome) {
  got_(std::span(bytes_).first(static_cast<size_t>(std::max(outcome.result, 0))));
}

}  // namespace virtproxy::logs
