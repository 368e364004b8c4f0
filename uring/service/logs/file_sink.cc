#include "uring/service/logs/file_sink.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "uring/base/clock.h"
#include "uring/base/log.h"
#include "uring/base/text.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;
constexpr mode_t kMode = 0640;

bool is_file(const SinkNote& note, const struct stat& status) {
  return note.device == status.st_dev && note.inode == status.st_ino;
}

}  // namespace

FileSink::FileSink(const SinkSpec& spec, AccountFile& accounts)
    : spec_(spec),
      accounts_(accounts),
      writer_(spec.format),
      most_pending_(spec.rotate_size ? std::min<uint64_t>(kMostPending, *spec.rotate_size / 4)
                                     : kMostPending) {}

tl::expected<std::unique_ptr<LogSink>, std::string> FileSink::open(const SinkSpec& spec,
                                                                   AccountFile& accounts,
                                                                   MadeFiles& made) {
  std::unique_ptr<FileSink> sink(new FileSink(spec, accounts));
  if (auto prepared = sink->prepare(made); !prepared) return Failure(prepared.error());
  return sink;
}

std::string FileSink::generation(unsigned number) const {
  return number == 0 ? name_ : name_ + "." + std::to_string(number);
}

tl::expected<void, std::string> FileSink::prepare(MadeFiles& made) {
  const auto failure = [&](const char* what) {
    return Failure(fmt::format("{}: {}: {}", printable(spec_.target), what, std::strerror(errno)));
  };
  const size_t slash = spec_.target.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : spec_.target.substr(0, slash + 1);
  name_ = slash == std::string::npos ? spec_.target : spec_.target.substr(slash + 1);
  directory_.reset(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory_) return failure("its directory cannot be opened");
  file_ = made.open(spec_.target, kOpenFlags, kMode);
  if (!file_) return failure("cannot be opened for writing");
  struct stat status {};
  if (fstat(file_.get(), &status) != 0) return failure("fstat");
  if (!S_ISREG(status.st_mode)) {
    return Failure(
        fmt::format("{} is no regular file: write to a pipe or a device through exec: "
                    "or stdout",
                    printable(spec_.target)));
  }
  const auto size = static_cast<uint64_t>(status.st_size);
  // What the process before had written and not synchronised counts as safe from now on.
  if (spec_.sync && (fdatasync(directory_.get()) != 0 || fdatasync(file_.get()) != 0 ||
                     (!accounts_.fresh() && !accounts_.sync()))) {
    return failure("cannot be written to the disk");
  }
  const SinkNote before = accounts_.note();
  note_ = {size, status.st_dev, status.st_ino, unix_now()};
  if (accounts_.fresh()) return {};
  if (is_file(before, status)) {
    note_.begun = before.begun;
    if (size < before.offset) {
      log_warn("{} is {} bytes shorter than it was: cut by another program, or lost with the power",
               printable(spec_.target), before.offset - size);
      return {};
    }
    note_.offset = before.offset;
    if (size == before.offset) return {};
    log_info("{}: {} bytes that were not acknowledged are cut off", printable(spec_.target),
             size - before.offset);
    if (ftruncate(file_.get(), static_cast<off_t>(before.offset)) != 0) return failure("truncate");
    return {};
  }
  // A rotation was interrupted: the file of the accounts is the one before, and the new one has
  // nothing that was acknowledged.
  struct stat older {};
  const std::string rotated = generation(1);
  if (fstatat(directory_.get(), rotated.c_str(), &older, AT_SYMLINK_NOFOLLOW) == 0 &&
      S_ISREG(older.st_mode) && is_file(before, older)) {
    const UniqueFd file(
        openat(directory_.get(), rotated.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
    const bool longer = static_cast<uint64_t>(older.st_size) > before.offset;
    if (!file || (longer && ftruncate(file.get(), static_cast<off_t>(before.offset)) != 0) ||
        ftruncate(file_.get(), 0) != 0) {
      return failure("a rotation that was interrupted cannot be completed");
    }
    note_.offset = 0;
    return {};
  }
  log_warn("{} is another file than the one that was written before: it goes on at its end",
           printable(spec_.target));
  return {};
}

// Where this process begins to write is committed before it writes. Without that, what is written
// and not committed when the process is killed would be taken for lines of before, and come twice.
bool FileSink::note_beginning() {
  if (begun_) return true;
  begun_ = accounts_.commit(note_, {}) && (!spec_.sync || accounts_.sync());
  return begun_;
}

void FileSink::start(Loop& loop, ResolverDriver&, Client* client) {
  loop_ = &loop;
  client_ = client;
  Timer::Owner* const owner = this;
  retry_ = std::make_unique<Timer>(loop.timers(), owner);
  counters().up = true;
}

void FileSink::expired(Timer&) {
  blocked_ = false;
  client_->sink_progressed();
}

void FileSink::fail(const char* what) {
  counters().failures.fetch_add(1, std::memory_order_relaxed);
  counters().up = false;
  if (!std::exchange(reported_, true)) {
    log_error("{}: {}: {}: lines wait until it can be written again", printable(spec_.target), what,
              std::strerror(errno));
  }
  blocked_ = true;
  retry_->set(loop_->now() + kFileRetry);
}

void FileSink::take(const ParcelView& view) {
  for (const ParcelRecord& record : view.parcel.records) {
    if (!view.wants(record)) continue;
    writer_.append(pending_, view.vm, view.parcel, record);
    pending_ += '\n';
  }
  ++taken_;
}

bool FileSink::must_rotate() const {
  if (note_.offset == 0 || pending_.empty() || written_ > 0) return false;
  if (spec_.rotate_size && note_.offset + pending_.size() > *spec_.rotate_size) return true;
  if (!spec_.rotate_after) return false;
  const uint64_t now = unix_now();
  const auto limit = static_cast<uint64_t>(spec_.rotate_after->count());
  return now > note_.begun && now - note_.begun >= limit;
}

// Frees the name of the file. Only the generations below the first free name move up, or all of
// them where no name is free; then the last one is given up. A rotation that failed half way has
// left a free name, so that the next attempt gives up no other generation.
bool FileSink::shift() {
  const int directory = directory_.get();
  unsigned free = 1;
  while (free < spec_.keep) {
    // A file that is renamed to its own name stays as it is: the sandbox has no call that only
    // looks.
    const std::string name = generation(free);
    if (renameat(directory, name.c_str(), directory, name.c_str()) != 0) {
      if (errno == ENOENT) break;
      return false;
    }
    ++free;
  }
  for (unsigned number = free; number > 0; --number) {
    const std::string from = generation(number - 1);
    const std::string to = generation(number);
    if (renameat(directory, from.c_str(), directory, to.c_str()) != 0 && errno != ENOENT) {
      return false;
    }
  }
  return true;
}

bool FileSink::rotate() {
  const int directory = directory_.get();
  if (rotation_ == Rotation::kNone) {
    if (!shift()) return false;
    rotation_ = Rotation::kRenamed;
  }
  UniqueFd fresh(openat(directory, name_.c_str(), kOpenFlags, kMode));
  struct stat status {};
  if (!fresh || fstat(fresh.get(), &status) != 0) return false;
  if (spec_.sync && fdatasync(directory) != 0) return false;
  file_ = std::move(fresh);
  rotation_ = Rotation::kNone;
  // Not empty only if another program has made it meanwhile.
  note_ = {static_cast<uint64_t>(status.st_size), status.st_dev, status.st_ino, unix_now()};
  return true;
}

bool FileSink::write_pending() {
  while (written_ < pending_.size()) {
    const ssize_t done = pwrite(file_.get(), pending_.data() + written_, pending_.size() - written_,
                                static_cast<off_t>(note_.offset + written_));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return false;
    written_ += static_cast<size_t>(done);
  }
  return true;
}

void FileSink::flush() {
  if (blocked_ || safe_ == taken_) return;
  if (!note_beginning()) return fail("its accounts");
  if ((rotation_ == Rotation::kRenamed || must_rotate()) && !rotate()) return fail("rotation");
  if (!write_pending()) return fail("write");
  if (spec_.sync && !pending_.empty() && fdatasync(file_.get()) != 0) {
    // The kernel reports a failed write-back once and may drop the pages, so a second fdatasync(2)
    // alone would succeed without the lines: they are written again.
    written_ = 0;
    return fail("fdatasync");
  }
  note_.offset += pending_.size();
  counters().written.fetch_add(pending_.size(), std::memory_order_relaxed);
  pending_.clear();
  written_ = 0;
  safe_ = taken_;
  if (std::exchange(reported_, false)) log_info("{}: written again", printable(spec_.target));
  counters().up = true;
}

}  // namespace virtproxy
