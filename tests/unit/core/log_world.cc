#include "tests/unit/core/log_world.h"

#include <array>
#include <cstring>

namespace virtproxy::logs::test {
namespace {

constexpr size_t kSources = 3;
constexpr uint32_t kSegment = 64u << 10;
constexpr size_t kMemory = 64u << 10;

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

World::World(uint64_t seed, const WorldOptions& options)
    : random_(seed),
      options_(options),
      geometry_(*spool_geometry(kSuperblockArea + 5 * uint64_t{kSegment}, kSegment)),
      disk_(geometry_.file_size()),
      receiver_(std::make_unique<Receiver>(64)) {
  start_guest();
}

void World::start_guest() {
  const bool reuse = options_.canary == Canary::kReuseNumbers && !order_.empty();
  if (!reuse) log_ = {random_.next(), random_.next()};
  ShipperConfig config;
  config.buffer.memory = kMemory;
  config.buffer.batch_size = 1024u << random_.below(4);
  config.buffer.max_line = 8000;
  config.window = 4096u << random_.below(4);
  std::vector<SourceConfig> sources;
  for (size_t i = 0; i < kSources; ++i) {
    sources.push_back({"source" + std::to_string(i), options_.full, std::chrono::milliseconds(50)});
  }
  config.state_interval = std::chrono::milliseconds(30);
  written_.assign(kSources, 0);
  synced_.assign(kSources, 0);
  std::optional<Shipper::SpoolStart> start;
  if (options_.spool) {
    SpoolRecovery recovery(geometry_);
    while (recovery.phase() != SpoolRecovery::Phase::kDone) {
      const SpoolRead read = recovery.next_read();
      recovery.read(disk_.read(read.offset, read.size));
    }
    // What is sent comes from the file alone, from both, or mostly from memory.
    constexpr std::array<size_t, 3> kRecent{0, 4096, 1u << 20};
    start = {{geometry_, options_.spool_full, 16u << 10, kRecent[log_.low % kRecent.size()]},
             recovery.state()};
  }
  shipper_ = std::make_unique<Shipper>(config, sources, log_, LogId{1, 1}, start);
  if (!reuse) {
    order_.push_back({log_.low, log_.high});
    logs_[order_.back()].sources.resize(kSources);
  } else {
    // The defect: what was recovered goes on to be numbered from the beginning.
    for (auto& source : logs_[order_.back()].sources) source.clear();
  }
}

void World::crash_guest(bool power) {
  Log& log = logs_[order_.back()];
  log.crashed = true;
  log.safe = written_;
  log.durable = synced_;
  if (power) {
    for (auto& one : logs_) one.second.safe = one.second.durable;
  }
  if (options_.canary == Canary::kReuseNumbers) spoilt_ = true;
  if (options_.spool && !power) disk_step(true);
  if (options_.spool && power) disk_.lose_power(random_);
  cut_wire();
  ++facts.guest_crashes;
  start_guest();
}

void World::offer() {
  const auto source = static_cast<uint16_t>(random_.chance(0.7) ? 0 : random_.below(kSources));
  auto& numbers = logs_[order_.back()].sources[source];
  Buffer& buffer = shipper_->buffer();
  if (random_.chance(0.02)) {
    const DropRecord lost{random_.chance(0.5) ? DropReason::kKernelOverflow : DropReason::kRate,
                          0,
                          1 + random_.below(5),
                          random_.below(100),
                          wall_,
                          wall_ + 1};
    buffer.drop(source, lost, now_);
    for (uint64_t i = 0; i < lost.count; ++i)
      numbers.push_back({{}, i == 0 ? lost.bytes : 0, false});
    return;
  }
  for (uint64_t burst = random_.magnitude(1, 60); burst > 0; --burst) {
    const uint64_t size =
        random_.chance(0.01) ? 8000 + random_.below(2000) : random_.magnitude(0, 1500);
    std::string content = std::to_string(++counter_) + " ";
    while (content.size() < size) content += static_cast<char>(random_.below(256));
    Line line{wall_ + random_.below(1000), {}, std::as_bytes(std::span(content))};
    if (random_.chance(0.5)) line.credentials = {static_cast<uint32_t>(counter_), 0, UINT32_MAX};
    if (buffer.offer(source, line, content.size(), now_) == Buffer::Admission::kBlocked) return;
    numbers.push_back({content, content.size(), true});
    ++facts.lines;
    const Mark mark = buffer.mark(source);
    if (mark.seq != numbers.size()) failure_ = "a line did not get the next number";
  }
  if (buffer.used() > kMemory) failure_ = "more memory in use than allowed";
}

void World::note_safe(std::vector<uint64_t>& safe) const {
  const Spool& spool = *shipper_->spool();
  if (spool.written_position() != spool.appended_position()) return;
  for (size_t i = 0; i < kSources; ++i) safe[i] = spool.marks()[i].seq;
}

void World::disk_step(bool cut) {
  if (!options_.spool) return;
  Spool& spool = *shipper_->spool();
  if (const auto write = spool.next_write()) {
    if (write->kind == SpoolWrite::Kind::kSync) {
      if (cut) return;
      disk_.sync();
      spool.synced();
      if (spool.synced_position() == spool.appended_position()) note_safe(synced_);
      for (auto& one : logs_) one.second.durable = one.second.safe;
    } else {
      size_t size = write->bytes.size();
      if (cut || random_.chance(0.1)) size = random_.below(size + 1);
      disk_.write(write->offset, write->bytes.first(size));
      if (cut) return;
      spool.written(size);
      note_safe(written_);
    }
  }
  if (cut) return;
  if (const auto read = shipper_->next_read()) {
    // Another write may come in between the read and its completion.
    const auto bytes = disk_.read(read->offset, read->size);
    shipper_->read(bytes);
  }
}

void World::fault(StreamFault fault, const char* who) {
  if (fault == StreamFault::kNone) return;
  failure_ = std::string(who) + ": " + std::string(describe(fault));
}

void World::spoil(Bytes& bytes) {
  if (options_.canary == Canary::kNone || healing_) return;
  // Whole items only; the caller passes what pump() wrote.
  Bytes result;
  Bytes held;
  std::span<const std::byte> rest(bytes);
  while (!rest.empty()) {
    BatchHeader header;
    size_t size = rest.size();
    if (decode_batch_header(rest, header) == BatchFault::kNone) {
      size = header.size();
      Bytes batch(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(size));
      RecordReader reader(batch, header);
      Record record;
      bool drops = false;
      BatchBuilder builder(header.source, header.first);
      bool twice = false;
      while (reader.next(record) == RecordReader::Step::kRecord) {
        drops = drops || record.kind == Record::Kind::kDrop;
        if (record.kind != Record::Kind::kLine) continue;
        if (options_.canary == Canary::kForgetLine && !twice && random_.chance(0.1)) {
          twice = true;
          continue;
        }
        builder.add_line(record.line);
        if (options_.canary == Canary::kCountTwice && !twice && random_.chance(0.1)) {
          builder.add_drop({DropReason::kNewest, 0, 1, record.line.bytes.size(), wall_, wall_});
          twice = true;
        }
      }
      const LogId id = shipper_->sender().log().id;
      if (options_.canary == Canary::kForgetDropRecord && drops && random_.chance(0.5)) {
        spoilt_ = true;
        batch.clear();
      } else if (twice && !drops && !builder.empty()) {
        spoilt_ = true;
        batch = builder.finish();
        seal_batch(batch, id, check_key(id), header.position);
      } else if (options_.canary == Canary::kReorder && held.empty() && random_.chance(0.2)) {
        held = std::move(batch);
        batch.clear();
      }
      result.insert(result.end(), batch.begin(), batch.end());
      if (!held.empty() && !batch.empty()) {
        spoilt_ = true;
        result.insert(result.end(), held.begin(), held.end());
        held.clear();
      }
    } else {
      MessageHeader message;
      if (decode_message_header(rest, message) == MessageFault::kNone) size = message.size();
      result.insert(result.end(), rest.begin(), rest.begin() + static_cast<ptrdiff_t>(size));
    }
    rest = rest.subspan(size);
  }
  result.insert(result.end(), held.begin(), held.end());
  bytes = std::move(result);
}

void World::move_to_host() {
  if (!connected_) return;
  const size_t size = std::min<size_t>(to_host_.size(), random_.magnitude(1, 20000));
  if (size == 0) return;
  std::vector<Received> found;
  const Bytes bytes(to_host_.begin(), to_host_.begin() + static_cast<ptrdiff_t>(size));
  to_host_.erase(to_host_.begin(), to_host_.begin() + static_cast<ptrdiff_t>(size));
  const StreamFault bad = receiver_->feed(bytes, found);
  for (const Received& one : found) {
    if (one.kind == Received::Kind::kBegun) continue;
    if (one.kind == Received::Kind::kFinal) {
      final_ = true;
      continue;
    }
    const LogId id = receiver_->accounts().back().id;
    Entry entry{one.kind, id, one.source, one.record.seq, 1, 0, one.record.drop.reason, {}};
    if (one.kind == Received::Kind::kLine) {
      entry.content = text_of(one.record.line.bytes);
      entry.bytes = entry.content.size();
    } else {
      entry.seq = one.record.drop.first;
      entry.count = one.record.drop.count;
      entry.bytes = one.record.drop.bytes;
      if (one.kind == Received::Kind::kHead) entry.content = text_of(one.record.line.bytes);
    }
    sink_.push_back(std::move(entry));
  }
  fault(bad, "the receiver");
  if (bad != StreamFault::kNone) return cut_wire();
  if (options_.canary == Canary::kAckBeforeDurable && receiver_->log() != nullptr) {
    receiver_->acknowledge(receiver_->log()->position, AckLevel::kSink);
  }
  to_guest_.insert(to_guest_.end(), receiver_->out().begin(), receiver_->out().end());
  receiver_->out().clear();
}

void World::move_to_guest() {
  if (!connected_) return;
  const size_t size = std::min<size_t>(to_guest_.size(), random_.magnitude(1, 500));
  if (size == 0) return;
  const Bytes bytes(to_guest_.begin(), to_guest_.begin() + static_cast<ptrdiff_t>(size));
  to_guest_.erase(to_guest_.begin(), to_guest_.begin() + static_cast<ptrdiff_t>(size));
  const StreamFault bad = shipper_->feed(bytes);
  fault(bad, "the sender");
  if (bad != StreamFault::kNone) cut_wire();
}

// The sink and the account become durable together; then they are acknowledged.
void World::checkpoint() {
  saved_ = {receiver_->accounts(), sink_.size()};
  if (!connected_ || receiver_->log() == nullptr) return;
  if (final_) {
    receiver_->acknowledge_final(AckLevel::kSink);
    saved_.accounts = receiver_->accounts();
    final_ = false;
  } else if (!receiver_->log()->finished) {
    receiver_->acknowledge(receiver_->log()->position, AckLevel::kSink);
  }
  to_guest_.insert(to_guest_.end(), receiver_->out().begin(), receiver_->out().end());
  receiver_->out().clear();
}

void World::crash_host() {
  cut_wire();
  ++facts.host_crashes;
  receiver_ = std::make_unique<Receiver>(64);
  receiver_->restore(saved_.accounts);
  if (options_.canary != Canary::kKeepSinkTail) sink_.resize(saved_.sink);
}

void World::cut_wire() {
  if (!connected_) return;
  ++facts.cuts;
  connected_ = false;
  to_host_.clear();
  to_guest_.clear();
  shipper_->disconnected();
  receiver_->lost();
  final_ = false;
}

void World::connect() {
  if (connected_) return;
  connected_ = true;
  shipper_->connected(now_);
}

void World::act() {
  const uint64_t what = random_.below(1000);
  if (what < 250) offer();
  if (what < 500) disk_step(false);
  if (what >= 300 && what < 600) move_to_host();
  if (what >= 500 && what < 700) move_to_guest();
  if (what >= 700 && what < 760) checkpoint();
  if (what >= 760 && what < 800) connect();
  if (what >= 800 && what < 806) cut_wire();
  if (what >= 806 && what < 809 && options_.host_crashes) crash_host();
  if (what >= 809 && what < 811 && options_.guest_crashes) crash_guest(false);
  if (what >= 811 && what < 813 && options_.power_loss) crash_guest(true);
  if (what >= 813 && what < 820 && options_.spool) shipper_->spool()->request_sync();
  if (what >= 820 && what < 824 && options_.rot) {
    // Superblocks are spared: without them it is not known how far the last log went.
    const uint64_t size = geometry_.file_size() - kSuperblockArea;
    disk_.flip(kSuperblockArea + random_.below(size), static_cast<unsigned>(random_.below(8)));
  }
  if (what >= 850) {
    now_ += std::chrono::microseconds(random_.magnitude(1, 20000));
    wall_ += random_.below(1000000);
  }
  shipper_->pump(now_, wall_);
  Bytes& out = shipper_->out();
  if (out.empty()) return;
  if (connected_ && to_host_.size() < 40000) {
    spoil(out);
    to_host_.insert(to_host_.end(), out.begin(), out.end());
    out.clear();
  }
}

void World::heal() {
  healing_ = true;
  if (!options_.spool) shipper_->stop(false, now_);
  uint64_t quiet = 0;
  for (int i = 0; i < 200000 && quiet < 200 && failure_.empty(); ++i) {
    connect();
    const size_t before = sink_.size();
    disk_step(false);
    shipper_->pump(now_, wall_);
    to_host_.insert(to_host_.end(), shipper_->out().begin(), shipper_->out().end());
    shipper_->out().clear();
    while (connected_ && !to_host_.empty()) move_to_host();
    checkpoint();
    while (connected_ && !to_guest_.empty()) move_to_guest();
    now_ += std::chrono::milliseconds(100);
    quiet = sink_.size() == before ? quiet + 1 : 0;
  }
}

std::string World::run(int steps) {
  for (int i = 0; i < steps && failure_.empty(); ++i) act();
  heal();
  return judge();
}

std::string World::judge() {
  if (!failure_.empty()) return failure_;
  std::string result;
  for (const auto& id : order_) {
    const LogAccount* account = nullptr;
    for (const LogAccount& one : receiver_->accounts()) {
      if (one.id == LogId{id.first, id.second}) account = &one;
    }
    result = judge_log({id.first, id.second}, logs_[id], account);
    if (!result.empty()) return result;
    ++facts.logs;
  }
  return {};
}

std::string World::judge_log(const LogId& id, const Log& log, const LogAccount* account) {
  std::ostringstream why;
  for (size_t s = 0; s < log.sources.size(); ++s) {
    const auto& numbers = log.sources[s];
    uint64_t next = 0;
    for (const Entry& entry : sink_) {
      if (entry.log != id || entry.source != s) continue;
      why << "log " << id.low % 1000 << " source " << s << " number " << entry.seq << ": ";
      if (entry.seq != next) {
        why << "expected " << next;
        return why.str();
      }
      uint64_t bytes = 0;
      for (uint64_t i = 0; i < entry.count; ++i, ++next) {
        if (next >= numbers.size()) {
          why << "a number that was never given";
          return why.str();
        }
        bytes += numbers[next].size;
      }
      // Losses in front of a source count their bytes at their first number.
      const bool line = entry.kind == Received::Kind::kLine;
      if (line && (!numbers[entry.seq].line || entry.content != numbers[entry.seq].content)) {
        why << "not the line that was taken";
        return why.str();
      }
      if (entry.kind == Received::Kind::kHead &&
          !numbers[entry.seq].content.starts_with(entry.content)) {
        why << "not the head of the line";
        return why.str();
      }
      if (line) {
        ++facts.delivered;
      } else if (entry.kind == Received::Kind::kUnaccounted) {
        facts.unaccounted += entry.count;
        if (!log.crashed || (options_.spool && entry.seq < log.safe[s])) {
          why << entry.count << " unaccounted";
          return why.str();
        }
      } else {
        facts.dropped += entry.count;
        facts.reasons[static_cast<size_t>(entry.reason)] += entry.count;
        const bool expected = entry.reason != DropReason::kCorrupt || options_.rot ||
                              (options_.power_loss && log.crashed && entry.seq >= log.safe[s]);
        if (!expected) {
          why << "corrupt, and nothing was";
          return why.str();
        }
      }
      if (line && bytes != entry.bytes) {
        why << entry.bytes << " bytes instead of " << bytes;
        return why.str();
      }
      why.str({});
    }
    const uint64_t least = !log.crashed ? numbers.size() : options_.spool ? log.safe[s] : 0;
    if (next < least) {
      why << "log " << id.low % 1000 << " source " << s << ": " << next << " of " << least
          << " numbers reached the sink";
      return why.str();
    }
    if (account == nullptr) {
      if (least == 0) continue;
      return "the receiver has no account of a log";
    }
    const SourceAccount& source = account->sources[s];
    facts.duplicates += source.duplicates;
    if (!source.balanced()) return "an account is not balanced";
    if (source.next.seq != next) return "the account and the sink differ";
    uint64_t total = 0;
    for (uint64_t i = 0; i < next; ++i) total += numbers[i].size;
    // A gap of several reasons is cut into ranges by reason, so bytes are compared from end to end.
    if (source.next.bytes != total) return "the bytes of an account are not right";
  }
  return {};
}

}  // namespace virtproxy::logs::test
