#include "core/logs/spool_format.h"

#include <algorithm>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/wire/little_endian.h"

namespace virtproxy::logs {
namespace {

constexpr uint32_t kSuperblockMagic = 0x31504c56;  // "VLP1"
constexpr uint32_t kSegmentMagic = 0x31534c56;     // "VLS1"
constexpr size_t kPrefixSize = 16;                 // magic, length, check

class Writer {
 public:
  explicit Writer(uint32_t magic) {
    put(magic);
    put(uint32_t{0});
    put(uint64_t{0});
  }
  template <typename T>
  void put(T value) {
    bytes_.resize(bytes_.size() + sizeof value);
    store_le(bytes_.data() + bytes_.size() - sizeof value, value);
  }
  void put(const LogId& id) {
    put(id.low);
    put(id.high);
  }
  void put(const std::vector<Mark>& marks) {
    put(static_cast<uint64_t>(marks.size()));
    for (const Mark& mark : marks) {
      put(mark.seq);
      put(mark.bytes);
    }
  }
  void put(const std::string& text) {
    const size_t size = std::min(text.size(), kMaxName);
    put(static_cast<uint8_t>(size));
    const size_t at = bytes_.size();
    bytes_.resize(at + kMaxName);
    if (size > 0) std::memcpy(bytes_.data() + at, text.data(), size);
  }
  // Length and check go into the prefix.
  std::vector<std::byte> finish() {
    store_le(bytes_.data() + 4, static_cast<uint32_t>(bytes_.size()));
    store_le<uint64_t>(bytes_.data() + 8,
                       XXH3_64bits(bytes_.data() + kPrefixSize, bytes_.size() - kPrefixSize));
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
};

// Every read is within the length that the check covers; what is beyond it makes the whole invalid.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, uint32_t magic) {
    if (bytes.size() < kPrefixSize || load_le<uint32_t>(bytes.data()) != magic) return;
    const auto length = load_le<uint32_t>(bytes.data() + 4);
    if (length < kPrefixSize || length > bytes.size()) return;
    rest_ = bytes.subspan(kPrefixSize, length - kPrefixSize);
    sane_ = load_le<uint64_t>(bytes.data() + 8) == XXH3_64bits(rest_.data(), rest_.size());
  }
  template <typename T>
  T get() {
    if (!sane_ || rest_.size() < sizeof(T)) {
      sane_ = false;
      return 0;
    }
    const T value = load_le<T>(rest_.data());
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }
  uint64_t number() {
    const auto value = get<uint64_t>();
    require(value < kMaxNumber);
    return value;
  }
  LogId id() {
    const auto low = get<uint64_t>();
    return {low, get<uint64_t>()};
  }
  Mark mark() {
    const uint64_t seq = number();
    return {seq, number()};
  }
  size_t count(size_t most) {
    const auto value = get<uint64_t>();
    require(value <= most);
    return sane_ ? static_cast<size_t>(value) : 0;
  }
  std::vector<Mark> marks() {
    std::vector<Mark> all(count(kMaxSources));
    for (Mark& one : all) one = mark();
    return all;
  }
  std::string name() {
    const auto size = get<uint8_t>();
    require(size <= kMaxName && rest_.size() >= kMaxName);
    if (!sane_) return {};
    std::string text(reinterpret_cast<const char*>(rest_.data()), size);
    rest_ = rest_.subspan(kMaxName);
    return text;
  }
  void require(bool condition) { sane_ = sane_ && condition; }
  bool sane() const { return sane_ && rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
  bool sane_ = false;
};

}  // namespace

std::optional<SpoolGeometry> spool_geometry(uint64_t size, uint32_t segment_size) {
  if (segment_size < kLeastSegmentSize || segment_size > kMostSegmentSize ||
      segment_size % 4096 != 0 || size < kSuperblockArea || size >= kMaxNumber) {
    return std::nullopt;
  }
  const SpoolGeometry geometry{segment_size, (size - kSuperblockArea) / segment_size};
  if (geometry.segments < kLeastSegments) return std::nullopt;
  return geometry;
}

std::vector<Mark> SegmentHeader::starts() const {
  std::vector<Mark> marks;
  for (const SegmentSource& source : sources) marks.push_back(source.start);
  return marks;
}

std::vector<std::byte> encode(const Superblock& superblock) {
  Writer writer(kSuperblockMagic);
  writer.put(uint32_t{kVersion});
  writer.put(superblock.geometry.segment_size);
  writer.put(superblock.geometry.segments);
  writer.put(superblock.generation);
  writer.put(superblock.tail);
  writer.put(superblock.next);
  writer.put(superblock.acked_position);
  writer.put(superblock.acked);
  writer.put(static_cast<uint64_t>(superblock.logs.size()));
  for (const SpoolLog& log : superblock.logs) {
    writer.put(log.id);
    writer.put(log.boot);
    writer.put(log.first);
    writer.put(log.marks);
  }
  return writer.finish();
}

std::optional<Superblock> decode_superblock(std::span<const std::byte> bytes) {
  Reader reader(bytes, kSuperblockMagic);
  Superblock superblock;
  reader.require(reader.get<uint32_t>() == kVersion);
  superblock.geometry.segment_size = reader.get<uint32_t>();
  superblock.geometry.segments = reader.number();
  superblock.generation = reader.get<uint64_t>();
  superblock.tail = reader.number();
  superblock.next = reader.number();
  superblock.acked_position = reader.number();
  superblock.acked = reader.marks();
  const size_t logs = reader.count(kMaxSpoolLogs);
  uint64_t first = 0;
  for (size_t i = 0; i < logs; ++i) {
    SpoolLog& log = superblock.logs.emplace_back();
    log.id = reader.id();
    log.boot = reader.id();
    log.first = reader.number();
    log.marks = reader.marks();
    reader.require(log.first >= first && !log.marks.empty());
    first = log.first;
  }
  const SpoolGeometry& geometry = superblock.geometry;
  if (!reader.sane() || superblock.tail > superblock.next || first > superblock.next ||
      superblock.next >= kMaxNumber / kMostSegmentSize ||
      geometry.segments >= kMaxNumber / kMostSegmentSize ||
      spool_geometry(geometry.file_size(), geometry.segment_size) != geometry ||
      superblock.next - superblock.tail > geometry.segments) {
    return std::nullopt;
  }
  return superblock;
}

std::vector<std::byte> encode(const SegmentHeader& header) {
  Writer writer(kSegmentMagic);
  writer.put(uint32_t{kVersion});
  writer.put(uint32_t{0});
  writer.put(header.index);
  writer.put(header.log);
  writer.put(header.boot);
  writer.put(header.time);
  writer.put(static_cast<uint64_t>(header.sources.size()));
  for (const SegmentSource& source : header.sources) {
    writer.put(source.start.seq);
    writer.put(source.start.bytes);
    writer.put(source.name);
  }
  writer.put(header.previous);
  writer.put(header.previous_marks);
  std::vector<std::byte> bytes = writer.finish();
  bytes.resize(kSegmentHeaderSize);
  return bytes;
}

std::optional<SegmentHeader> decode_segment_header(std::span<const std::byte> bytes) {
  Reader reader(bytes, kSegmentMagic);
  SegmentHeader header;
  reader.require(reader.get<uint32_t>() == kVersion && reader.get<uint32_t>() == 0);
  header.index = reader.number();
  reader.require(header.index < kMaxNumber / kMostSegmentSize);
  header.log = reader.id();
  header.boot = reader.id();
  header.time = reader.get<uint64_t>();
  const size_t sources = reader.count(kMaxSources);
  reader.require(sources > 0);
  for (size_t i = 0; i < sources; ++i) {
    SegmentSource& source = header.sources.emplace_back();
    source.start = reader.mark();
    source.name = reader.name();
  }
  header.previous = reader.id();
  header.previous_marks = reader.marks();
  if (!reader.sane()) return std::nullopt;
  return header;
}

}  // namespace virtproxy::logs
