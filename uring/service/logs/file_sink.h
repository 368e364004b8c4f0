// Lines in a file, exactly once: the file's length and the accounts of the logs are committed
// together, and what lies behind that length at the start is cut off and asked for again.
//
// Writes are made directly, in the hub's thread: a regular file is never polled, and through a ring
// it would be written by a kernel worker.
//
// Rotation renames PATH.1 to PATH.2 and so on up to the first name that is free, PATH to PATH.1,
// and makes a new PATH, by calls relative to the directory's descriptor. The sandbox allows these
// calls, and Landlock only in that directory.
#pragma once

#include <fcntl.h>

#include <memory>
#include <string>

#include "uring/base/unique_fd.h"
#include "uring/service/logs/line_format.h"
#include "uring/service/logs/log_sink.h"

namespace virtproxy {

class FileSink final : public LogSink, private Timer::Owner {
 public:
  static tl::expected<std::unique_ptr<LogSink>, std::string> open(const SinkSpec& spec,
                                                                  AccountFile& accounts,
                                                                  MadeFiles& made);

  void start(Loop& loop, ResolverDriver& resolver, Client* client) override;
  bool has_room() const override { return pending_.size() < most_pending_ && !blocked_; }
  void take(const ParcelView& view) override;
  void flush() override;
  uint64_t safe() const override { return safe_; }
  SinkNote note() const override { return note_; }
  void stop() override { retry_.reset(); }
  bool idle() const override { return true; }

  // How the file is opened, also after a rotation: the sandbox allows exactly this.
  static constexpr int kOpenFlags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW;

 private:
  static constexpr size_t kMostPending = 1u << 20;

  FileSink(const SinkSpec& spec, AccountFile& accounts);
  tl::expected<void, std::string> prepare(MadeFiles& made);
  bool note_beginning();
  std::string generation(unsigned number) const;
  void expired(Timer& timer) override;
  void fail(const char* what);
  bool write_pending();
  bool must_rotate() const;
  bool shift();
  bool rotate();

  const SinkSpec spec_;
  AccountFile& accounts_;
  LineWriter writer_;
  // A file is exceeded by what is written at once, which is little compared to it: one parcel more.
  size_t most_pending_;
  UniqueFd directory_;
  UniqueFd file_;
  std::string name_;
  SinkNote note_;
  Client* client_ = nullptr;
  Loop* loop_ = nullptr;
  std::unique_ptr<Timer> retry_;
  std::string pending_;
  size_t written_ = 0;  // bytes of pending_
  uint64_t taken_ = 0;
  uint64_t safe_ = 0;
  bool begun_ = false;     // where it begins to write is committed
  bool blocked_ = false;   // a write failed; tried again by the timer
  bool reported_ = false;  // … and the log has it
  // A rotation that failed half way goes on where it stood.
  enum class Rotation : uint8_t { kNone, kRenamed } rotation_ = Rotation::kNone;
};

}  // namespace virtproxy
