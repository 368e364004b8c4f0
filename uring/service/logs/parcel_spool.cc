#include "uring/service/logs/parcel_spool.h"

#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "uring/base/log.h"
#include "uring/base/text.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

// Of a parcel, bytes.
constexpr size_t kPiece = 48u << 10;
// The first byte of a piece.
constexpr uint8_t kFirst = 1;
constexpr uint8_t kLast = 2;

logs::LogId random_id() {
  logs::LogId id;
  while (getrandom(&id, sizeof id, 0) != sizeof id) {
  }
  return id;
}

// Which file the positions in a note are of.
SinkNote identity_of(int fd) {
  struct stat status {};
  SinkNote note;
  if (fstat(fd, &status) != 0) return note;
  const bool device = S_ISBLK(status.st_mode);
  note.device = device ? status.st_rdev : status.st_dev;
  note.inode = device ? 0 : status.st_ino;
  return note;
}

// Of each log the last account counts.
void add_change(std::vector<AccountFile::Change>& changes, std::string_view vm,
                const logs::LogAccount& account) {
  const auto known = std::find_if(changes.begin(), changes.end(), [&](const auto& change) {
    return change.vm == vm && change.account.id == account.id;
  });
  if (known != changes.end()) changes.erase(known);
  changes.push_back({std::string(vm), account});
}

}  // namespace

tl::expected<std::unique_ptr<ParcelSpool>, std::string> ParcelSpool::open(
    const logs::SpoolSpec& spec, MadeFiles& made) {
  std::unique_ptr<ParcelSpool> spool(new ParcelSpool(spec));
  auto file = logs::open_spool_file(spec.path, spec.size, std::nullopt, made);
  if (!file) return Failure(file.error());
  spool->file_ = *std::move(file);
  auto accounts = AccountFile::open(spec.path + ".state", made);
  if (!accounts) return Failure(accounts.error());
  spool->accounts_ = std::make_unique<AccountFile>(*std::move(accounts));
  if (!spool->recover()) {
    return Failure(printable(spec.path) + ".state: " + std::strerror(errno));
  }
  return spool;
}

// Finds what is stored and not in the accounts.
bool ParcelSpool::recover() {
  const int fd = file_.fd.get();
  const SinkNote found = accounts_->note();
  note_ = identity_of(fd);
  const bool same = !file_.fresh && found.device == note_.device && found.inode == note_.inode;
  const logs::Superblock& state = file_.recovered;
  released_ = std::max(state.acked_position, same ? found.begun : 0);
  const uint64_t known = same ? found.offset : released_;

  logs::SpoolConfig config;
  config.geometry = file_.geometry;
  spool_.emplace(config, state, random_id(), logs::LogId{}, std::vector<std::string>{"parcels"});
  reader_.emplace(*spool_);
  builder_.emplace(0, logs::Mark{});

  std::vector<AccountFile::Change> changes;
  uint64_t end = 0;
  // From the beginning of a segment: so it shows whether what was acknowledged is there.
  reader_->seek(known - known % file_.geometry.segment_size);
  for (;;) {
    const auto step = reader_->step();
    if (step == logs::SpoolReader::Step::kWait) break;
    if (step == logs::SpoolReader::Step::kRead) {
      reader_->read(logs::read_now(fd, reader_->next_read()));
    } else if (step == logs::SpoolReader::Step::kSegment) {
      note_segment();
    } else {
      end = reader_->header().end_position();
      const auto decoded = take_batch();
      if (decoded && end > known) add_change(changes, decoded->vm, decoded->parcel->account);
    }
  }
  const uint64_t next = segment_position(spool_->next());
  const bool there = known <= next && (known % file_.geometry.segment_size == 0 || end >= known);
  if (!there && released_ < known) {
    log_error(
        "the spool {} ends before what was acknowledged: up to {} bytes are lost with the end "
        "of the machine",
        printable(spec_.path), known - std::max(end, released_));
  }
  // New parcels begin at `next`. What was released of the part that is lost must not count for
  // them.
  if (known > next) released_ = std::min(released_, next);
  note_.offset = next;
  log_.reset();
  assembly_ = {};
  given_.clear();
  damage_told_ = false;
  counters_.lost = 0;
  reader_->seek(std::max(released_, segment_position(spool_->tail())));
  free();
  return commit(changes);
}

void ParcelSpool::start(Loop& loop, std::function<void()> moved) {
  loop_ = &loop;
  moved_ = std::move(moved);
  Timer::Owner* const owner = this;
  retry_ = std::make_unique<Timer>(loop.timers(), owner);
  writer_.emplace(loop, file_.fd.get(), *spool_, spec_.sync, spec_.path, moved_);
  fetcher_.emplace(loop, file_.fd.get(), [this](std::span<const std::byte> bytes) {
    reader_->read(bytes);
    moved_();
  });
}

// --- writing ------------------------------------------------------------------------------------

void ParcelSpool::put(std::shared_ptr<Parcel> parcel, std::string_view vm) {
  const std::string bytes = encode_parcel(*parcel, vm);
  for (size_t at = 0; at < bytes.size();) {
    const size_t size = std::min(kPiece, bytes.size() - at);
    std::string piece(
        1, static_cast<char>((at == 0 ? kFirst : 0) | (at + size == bytes.size() ? kLast : 0)));
    piece.append(bytes, at, size);
    at += size;
    const logs::Mark first = builder_->mark();
    builder_->add_line({parcel->received, std::nullopt, std::as_bytes(std::span(piece))});
    std::vector<std::byte> batch = builder_->finish();
    pieces_.push_back({0, first, builder_->mark(), std::move(batch)});
  }
  putting_ = {std::move(parcel), std::string(vm), 0};
}

void ParcelSpool::work() {
  while (!pieces_.empty() && spool_->append(pieces_.front(), putting_.parcel->received)) {
    pieces_.pop_front();
    if (!pieces_.empty()) continue;
    putting_.end = spool_->appended_position();
    waiting_.push_back(std::exchange(putting_, {}));
  }
  writer_->work();
  counters_.used = spool_->appended_position() - std::min(released_, spool_->appended_position());
  counters_.unwritten = spool_->appended_position() - spool_->written_position();
  counters_.failures = writer_->failures();
}

std::vector<std::shared_ptr<Parcel>> ParcelSpool::take_stored() {
  const bool synced = spec_.sync.when == logs::SyncPolicy::When::kBatch;
  const uint64_t safe = synced ? spool_->synced_position() : spool_->written_position();
  std::vector<AccountFile::Change> changes;
  size_t count = 0;
  uint64_t end = note_.offset;
  for (; count < waiting_.size() && waiting_[count].end <= safe; ++count) {
    end = waiting_[count].end;
    add_change(changes, waiting_[count].vm, waiting_[count].parcel->account);
  }
  if (changes.empty() && note_.begun == released_) return {};
  if (retry_->armed()) return {};
  note_.offset = end;
  if (!commit(changes) || (synced && !accounts_->sync())) {
    if (!std::exchange(commit_failed_, true)) {
      log_error("{}.state: {}: lines wait until it can be written again", printable(spec_.path),
                std::strerror(errno));
    }
    retry_->set(loop_->now() + kFileRetry);
    return {};
  }
  if (std::exchange(commit_failed_, false)) {
    log_info("{}.state: written again", printable(spec_.path));
  }
  std::vector<std::shared_ptr<Parcel>> stored;
  for (; count > 0; --count) {
    stored.push_back(std::move(waiting_.front().parcel));
    waiting_.pop_front();
  }
  return stored;
}

bool ParcelSpool::commit(const std::vector<AccountFile::Change>& changes) {
  note_.begun = released_;
  return accounts_->commit(note_, changes);
}

// --- reading ------------------------------------------------------------------------------------

std::optional<DecodedParcel> ParcelSpool::next() {
  while (fetcher_->idle()) {
    switch (reader_->step()) {
      case logs::SpoolReader::Step::kRead:
        fetcher_->read(reader_->next_read());
        return std::nullopt;
      case logs::SpoolReader::Step::kWait:
        spool_->passed(reader_->position());
        free();
        work();  // A parcel that found no room may have it now.
        return std::nullopt;
      case logs::SpoolReader::Step::kSegment:
        note_segment();
        break;
      case logs::SpoolReader::Step::kBatch:
        if (auto decoded = take_batch()) {
          explain_gaps(*decoded);
          return decoded;
        }
        break;
    }
  }
  return std::nullopt;
}

void ParcelSpool::note_segment() {
  const logs::SegmentHeader& segment = reader_->segment();
  if (log_ == segment.log) return;
  if (log_ && *log_ == segment.previous && !segment.previous_marks.empty() &&
      segment.previous_marks[0].seq > next_piece_) {
    note_lost(segment.previous_marks[0].seq - next_piece_);
  }
  log_ = segment.log;
  // In the middle of a segment the next batch tells.
  const uint64_t offset = reader_->position() % file_.geometry.segment_size;
  next_piece_ = offset == logs::kSegmentHeaderSize ? segment.sources[0].start.seq : UINT64_MAX;
  assembly_ = {};
}

std::optional<DecodedParcel> ParcelSpool::take_batch() {
  const logs::BatchHeader& header = reader_->header();
  if (next_piece_ != UINT64_MAX && header.first.seq != next_piece_) {
    note_lost(header.first.seq - next_piece_);
    assembly_ = {};
  }
  next_piece_ = reader_->end().seq;
  logs::RecordReader records(reader_->batch(), header);
  logs::Record record;
  std::optional<DecodedParcel> decoded;
  while (records.next(record) == logs::RecordReader::Step::kRecord) {
    const auto bytes = record.line.bytes;
    if (record.kind != logs::Record::Kind::kLine || bytes.empty()) continue;
    const auto place = static_cast<uint8_t>(bytes[0]);
    if ((place & kFirst) != 0) assembly_ = {{}, header.position, true};
    if (!assembly_.begun) continue;
    assembly_.bytes.append(reinterpret_cast<const char*>(bytes.data()) + 1, bytes.size() - 1);
    if ((place & kLast) == 0) continue;
    decoded = decode_parcel(assembly_.bytes);
    assembly_ = {};
    if (decoded) {
      given_.push_back(header.end_position());
      damage_told_ = false;
    } else {
      note_lost(1);
    }
  }
  return decoded;
}

void ParcelSpool::note_lost(uint64_t pieces) {
  counters_.lost += pieces;
  if (!std::exchange(damage_told_, true)) {
    log_error("the spool {} has parts that cannot be read any more: lines in them are lost",
              printable(spec_.path));
  }
}

// What the parcels of a log before this one cover, and what this one begins with, tells what was
// between them. Sinks get it as a drop record.
void ParcelSpool::explain_gaps(DecodedParcel& decoded) {
  Parcel& parcel = *decoded.parcel;
  auto& logs = seen_[decoded.vm];
  const auto seen = logs::find_log(logs, parcel.account.id);
  if (seen == logs.end()) {
    if (logs.size() >= AccountFile::kLogs) logs.erase(logs.begin());
    logs.push_back(parcel.account);
    return;
  }
  std::vector<logs::Tally> covered(parcel.account.sources.size());
  for (const ParcelRecord& record : parcel.records) {
    if (record.kind == ParcelRecord::Kind::kForgotten) continue;
    covered[record.source].add(record.count, record.bytes);
  }
  for (size_t i = 0; i < std::min(covered.size(), seen->sources.size()); ++i) {
    const logs::Mark& before = seen->sources[i].next;
    const logs::Mark& after = parcel.account.sources[i].next;
    if (after.seq <= before.seq + covered[i].lines) continue;
    ParcelRecord gap;
    gap.kind = ParcelRecord::Kind::kDrop;
    gap.reason = logs::DropReason::kCorrupt;
    gap.source = static_cast<uint16_t>(i);
    gap.seq = before.seq;
    gap.count = after.seq - covered[i].lines - before.seq;
    gap.bytes = after.bytes - std::min(after.bytes, covered[i].bytes + before.bytes);
    gap.time = gap.last_time = parcel.received;
    parcel.records.insert(parcel.records.begin(), gap);
    counters_.lost_lines += gap.count;
    log_error("the spool {} has lost {} lines ({} bytes) of {} from number {} on",
              printable(spec_.path), gap.count, gap.bytes, printable(decoded.vm), gap.seq);
  }
  *seen = parcel.account;
}

void ParcelSpool::release() {
  released_ = given_.front();
  given_.pop_front();
  free();
}

// What lies before the oldest parcel that is needed may be overwritten.
void ParcelSpool::free() {
  uint64_t position = released_;
  if (given_.empty()) {
    const uint64_t read = assembly_.begun ? assembly_.begin : reader_->position();
    position = released_ = std::max(released_, read);
  }
  while (spool_->logs().size() > 1 && position >= segment_position(spool_->logs()[1].first)) {
    spool_->finish_first_log();
  }
  spool_->acknowledge(position, std::vector<logs::Mark>(spool_->logs().front().marks.size()));
}

// --- the end ------------------------------------------------------------------------------------

void ParcelSpool::finish() {
  if (spec_.sync.when != logs::SyncPolicy::When::kNever) writer_->sync_now();
}

void ParcelSpool::stop() {
  retry_->clear();
  writer_->stop();
}

void ParcelSpool::end() {
  retry_.reset();
  writer_.reset();
  fetcher_.reset();
}

}  // namespace virtproxy
