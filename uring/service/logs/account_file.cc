#include "uring/service/logs/account_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>
#include <tuple>

#include "core/wire/little_endian.h"
#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/service/logs/account_codec.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

constexpr uint32_t kMagic = 0x31414c56;  // "VLA1"
constexpr uint64_t kSlotStride = uint64_t{256} << 20;
constexpr uint64_t kLeastLimit = uint64_t{1} << 20;
// magic, length of the payload, generation, number
constexpr size_t kHeader = 24;
constexpr size_t kCheckSize = 8;
constexpr size_t kMostName = 255;  // of a VM, bytes

void put(AccountWriter& writer, const SinkNote& note) {
  for (const uint64_t value : {note.offset, note.device, note.inode, note.begun}) writer.put(value);
}

SinkNote note_from(AccountReader& reader) {
  SinkNote note;
  for (uint64_t* const value : {&note.offset, &note.device, &note.inode, &note.begun}) {
    *value = reader.number();
  }
  return note;
}

uint64_t check_of(std::string_view record) { return XXH3_64bits(record.data(), record.size()); }

uint64_t number_at(std::string_view bytes, size_t offset) {
  return load_le<uint64_t>(reinterpret_cast<const std::byte*>(bytes.data() + offset));
}

// All of a range of the file; shorter at its end.
std::optional<std::string> read_range(int fd, uint64_t offset, uint64_t size) {
  std::string bytes(size, '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got =
        pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  bytes.resize(done);
  return bytes;
}

// The record at a place of the file that ends before `end`, or nothing.
struct Found {
  uint64_t generation = 0;
  uint64_t number = 0;
  std::string payload;

  size_t size() const { return kHeader + payload.size() + kCheckSize; }
};
std::optional<Found> record_at(int fd, uint64_t offset, uint64_t end) {
  auto bytes = read_range(fd, offset, kHeader);
  if (!bytes || bytes->size() < kHeader) return std::nullopt;
  const uint64_t first = number_at(*bytes, 0);
  const uint64_t length = first >> 32;
  if ((first & 0xffffffff) != kMagic || offset + kHeader + length + kCheckSize > end) {
    return std::nullopt;
  }
  const auto rest = read_range(fd, offset + kHeader, length + kCheckSize);
  if (!rest || rest->size() < length + kCheckSize) return std::nullopt;
  const uint64_t check = number_at(*rest, length);
  *bytes += rest->substr(0, length);
  if (check != check_of(*bytes)) return std::nullopt;
  return Found{number_at(*bytes, 8), number_at(*bytes, 16), rest->substr(0, length)};
}

bool write_all(int fd, std::string_view bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t done = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(done));
    offset += static_cast<uint64_t>(done);
  }
  return true;
}

}  // namespace

tl::expected<AccountFile, std::string> AccountFile::open(const std::string& path, MadeFiles& made) {
  AccountFile file;
  file.fd_ = made.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0640);
  if (!file.fd_) {
    return Failure(
        fmt::format("cannot open {}, for what is written: {}: give a path that the user "
                    "it runs as may write",
                    printable(path), creation_fault(printable(path), errno)));
  }
  struct stat status {};
  if (fstat(file.fd_.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return Failure(fmt::format("{} is no regular file: give another path", printable(path)));
  }
  if (flock(file.fd_.get(), LOCK_EX | LOCK_NB) != 0) {
    return Failure(fmt::format("{} is in use by another process: one daemon writes to a file",
                               printable(path)));
  }
  file.load();
  if (file.fresh_ && status.st_size > 0) {
    return Failure(fmt::format(
        "{} holds no accounts that can be read: remove it, and what was not acknowledged yet may "
        "be written twice",
        printable(path)));
  }
  return file;
}

// The slot with the higher generation wins; the other one is the older state.
void AccountFile::load() {
  std::array<uint64_t, 2> generations{};
  for (const unsigned slot : {0u, 1u}) {
    const auto head = read_range(fd_.get(), slot * kSlotStride, kHeader);
    if (head && head->size() == kHeader) generations[slot] = number_at(*head, 8);
  }
  const unsigned newer = generations[1] > generations[0] ? 1 : 0;
  fresh_ = !load_slot(newer) && !load_slot(1 - newer);
  if (fresh_) slot_ = 0;
}

bool AccountFile::load_slot(unsigned slot) {
  struct stat status {};
  if (fstat(fd_.get(), &status) != 0) return false;
  const uint64_t begin = slot * kSlotStride;
  const uint64_t end = std::min(static_cast<uint64_t>(status.st_size), begin + kSlotStride);
  accounts_.clear();
  number_ = end_ = 0;
  for (;;) {
    const auto found = record_at(fd_.get(), begin + end_, end);
    if (!found || found->number != number_) break;
    if (number_ > 0 && found->generation != generation_) break;
    AccountReader reader(found->payload);
    const SinkNote note = note_from(reader);
    std::vector<Change> changes;
    while (reader.good() && !reader.empty()) {
      Change& change = changes.emplace_back();
      change.vm = reader.text(kMostName);
      change.account = reader.account();
    }
    if (!reader.good()) break;
    note_ = note;
    for (const Change& change : changes) apply(change);
    generation_ = found->generation;
    end_ += found->size();
    ++number_;
  }
  slot_ = slot;
  // What may lie behind the last whole record must never count again: the next commit begins the
  // other slot.
  limit_ = 0;
  return number_ > 0;
}

void AccountFile::apply(const Change& change) {
  const auto vm = accounts_.find(change.vm);
  if (vm == accounts_.end() && accounts_.size() >= kMostVms) return;
  auto& logs = vm == accounts_.end() ? accounts_[change.vm] : vm->second;
  const auto known = logs::find_log(logs, change.account.id);
  if (known != logs.end()) {
    std::rotate(known, known + 1, logs.end());
    logs.back() = change.account;
    return;
  }
  if (logs.size() >= kLogs) logs.erase(logs.begin());
  logs.push_back(change.account);
}

std::string AccountFile::snapshot() const {
  std::string payload;
  AccountWriter writer(payload);
  put(writer, note_);
  for (const auto& [vm, logs] : accounts_) {
    for (const logs::LogAccount& log : logs) {
      writer.put(std::string_view(vm));
      writer.put(log);
    }
  }
  return payload;
}

bool AccountFile::write_record(const std::string& payload) {
  std::string record;
  record.reserve(payload.size() + kHeader + kCheckSize);
  AccountWriter writer(record);
  writer.put(uint64_t{payload.size()} << 32 | kMagic);
  writer.put(generation_);
  writer.put(number_);
  record += payload;
  writer.put(check_of(record));
  if (end_ + record.size() > kSlotStride) {
    errno = EFBIG;
    return false;
  }
  if (!write_all(fd_.get(), record, slot_ * kSlotStride + end_)) return false;
  ++number_;
  end_ += record.size();
  return true;
}

bool AccountFile::commit(const SinkNote& note, const std::vector<Change>& changes) {
  note_ = note;
  for (const Change& change : changes) apply(change);
  fresh_ = false;
  if (number_ > 0 && end_ < limit_) {
    std::string payload;
    AccountWriter writer(payload);
    put(writer, note);
    for (const Change& change : changes) {
      writer.put(std::string_view(change.vm));
      writer.put(change.account);
    }
    return write_record(payload);
  }
  const auto before = std::tuple(slot_, generation_, number_, end_);
  if (number_ > 0) slot_ = 1 - slot_;
  ++generation_;
  number_ = end_ = 0;
  if (!write_record(snapshot())) {
    // The generation is not used again: what is there of it ends in the middle of a record.
    const int error = errno;
    std::tie(slot_, std::ignore, number_, end_) = before;
    errno = error;
    return false;
  }
  limit_ = std::max(kLeastLimit, 4 * end_);
  return true;
}

// The kernel reports a failed write-back once, and may drop the pages: a later record behind the
// lost one would never be read. The next commit begins the other slot.
bool AccountFile::sync() {
  if (fdatasync(fd_.get()) == 0) return true;
  limit_ = 0;
  return false;
}

}  // namespace virtproxy
