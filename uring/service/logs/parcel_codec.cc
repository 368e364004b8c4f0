#include "uring/service/logs/parcel_codec.h"

#include <utility>

#include "core/logs/varint.h"
#include "uring/service/logs/account_codec.h"

namespace virtproxy {
namespace {

constexpr uint64_t kVersion = 1;
constexpr uint64_t kCredentials = 0x80;  // beside the kind
constexpr size_t kMostName = 255;        // of a VM, bytes

void put(std::string& out, uint64_t value) {
  std::byte bytes[logs::kMaxVarint];
  const std::byte* const end = logs::put_varint(bytes, value);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(end - bytes));
}

void put(std::string& out, const ParcelRecord& record) {
  put(out, static_cast<uint64_t>(record.kind) | (record.has_credentials ? kCredentials : 0));
  for (const uint64_t value : {static_cast<uint64_t>(record.reason), uint64_t{record.source},
                               uint64_t{record.size}, record.seq, record.count, record.bytes,
                               record.time, logs::zigzag(record.last_time - record.time)}) {
    put(out, value);
  }
  if (!record.has_credentials) return;
  for (const uint32_t value :
       {record.credentials.pid, record.credentials.uid, record.credentials.gid}) {
    put(out, value);
  }
}

class Numbers {
 public:
  explicit Numbers(std::string_view bytes) : rest_(std::as_bytes(std::span(bytes))) {}

  uint64_t next(uint64_t most = UINT64_MAX) {
    uint64_t value = 0;
    good_ = good_ && logs::get_varint(rest_, value) && value <= most;
    return good_ ? value : 0;
  }
  bool good() const { return good_; }
  std::string_view rest() const {
    return {reinterpret_cast<const char*>(rest_.data()), rest_.size()};
  }

 private:
  std::span<const std::byte> rest_;
  bool good_ = true;
};

ParcelRecord record_from(Numbers& in) {
  ParcelRecord record;
  const uint64_t kind =
      in.next(kCredentials | static_cast<uint64_t>(ParcelRecord::Kind::kForgotten));
  record.has_credentials = (kind & kCredentials) != 0;
  record.kind = static_cast<ParcelRecord::Kind>(kind & ~kCredentials);
  record.reason = static_cast<logs::DropReason>(in.next(logs::kDropReasons - 1));
  record.source = static_cast<uint16_t>(in.next(logs::kMaxSources - 1));
  record.size = static_cast<uint32_t>(in.next(logs::kMaxLine));
  record.seq = in.next(logs::kMaxNumber);
  record.count = in.next(logs::kMaxNumber);
  record.bytes = in.next(logs::kMaxNumber);
  record.time = in.next();
  record.last_time = record.time + logs::unzigzag(in.next());
  if (!record.has_credentials) return record;
  for (uint32_t* const value :
       {&record.credentials.pid, &record.credentials.uid, &record.credentials.gid}) {
    *value = static_cast<uint32_t>(in.next(UINT32_MAX));
  }
  return record;
}

// The texts follow one another. False if a record tells of what is not there.
bool places_match(Parcel& parcel) {
  size_t offset = 0;
  for (ParcelRecord& record : parcel.records) {
    const bool forgotten = record.kind == ParcelRecord::Kind::kForgotten;
    if (record.kind > ParcelRecord::Kind::kForgotten ||
        (!forgotten && record.source >= parcel.account.sources.size()) ||
        record.size > parcel.text.size() - offset) {
      return false;
    }
    record.offset = static_cast<uint32_t>(offset);
    offset += record.size;
  }
  return offset == parcel.text.size();
}

}  // namespace

std::string encode_parcel(const Parcel& parcel, std::string_view vm) {
  std::string out;
  out.reserve(parcel.text.size() + 40 * parcel.records.size() + 512);
  AccountWriter writer(out);
  writer.put(kVersion);
  writer.put(vm);
  writer.put(parcel.account);
  writer.put(parcel.forgotten);
  writer.put(parcel.received);
  writer.put(parcel.records.size());
  for (const ParcelRecord& record : parcel.records) put(out, record);
  out += parcel.text;
  return out;
}

std::optional<DecodedParcel> decode_parcel(std::string_view bytes) {
  DecodedParcel decoded{{}, std::make_shared<Parcel>()};
  Parcel& parcel = *decoded.parcel;
  AccountReader reader(bytes);
  if (reader.number() != kVersion) return std::nullopt;
  decoded.vm = reader.text(kMostName);
  parcel.account = reader.account();
  parcel.forgotten = reader.id();
  parcel.received = reader.number();
  const uint64_t records = reader.number();
  if (!reader.good() || records > reader.rest().size()) return std::nullopt;
  parcel.records.reserve(records);
  Numbers in(reader.rest());
  for (uint64_t i = 0; i < records && in.good(); ++i) parcel.records.push_back(record_from(in));
  if (!in.good()) return std::nullopt;
  parcel.text = in.rest();
  if (!places_match(parcel)) return std::nullopt;
  return decoded;
}

}  // namespace virtproxy
