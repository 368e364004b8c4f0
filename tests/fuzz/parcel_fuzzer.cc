// A parcel in the spool of a collecting daemon: any bytes. They are either none that
// encode_parcel() makes, or a parcel whose every record lies within it, and which is the same when
// it is written and read again.

#include <string_view>

#include "core/assert.h"
#include "uring/service/logs/parcel_codec.h"

using namespace virtproxy;

namespace {

void must_be_sound(const DecodedParcel& decoded) {
  const Parcel& parcel = *decoded.parcel;
  VP_ASSERT(decoded.vm.size() <= 255);
  size_t texts = 0;
  for (const ParcelRecord& record : parcel.records) {
    VP_ASSERT(record.kind <= ParcelRecord::Kind::kForgotten);
    VP_ASSERT(static_cast<size_t>(record.reason) < logs::kDropReasons);
    VP_ASSERT(parcel.text_of(record).size() == record.size);
    parcel.source_of(record);
    parcel.log_of(record);
    texts += record.size;
  }
  VP_ASSERT(texts == parcel.text.size());
}

void must_be_same(const Parcel& one, const Parcel& other) {
  VP_ASSERT(one.account == other.account && one.forgotten == other.forgotten);
  VP_ASSERT(one.received == other.received && one.text == other.text);
  VP_ASSERT(one.records.size() == other.records.size());
  for (size_t i = 0; i < one.records.size(); ++i) {
    const ParcelRecord& a = one.records[i];
    const ParcelRecord& b = other.records[i];
    VP_ASSERT(a.kind == b.kind && a.reason == b.reason && a.source == b.source);
    VP_ASSERT(a.offset == b.offset && a.size == b.size && a.seq == b.seq && a.count == b.count);
    VP_ASSERT(a.bytes == b.bytes && a.time == b.time && a.last_time == b.last_time);
    VP_ASSERT(a.has_credentials == b.has_credentials);
    VP_ASSERT(a.credentials.pid == b.credentials.pid && a.credentials.uid == b.credentials.uid &&
              a.credentials.gid == b.credentials.gid);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto decoded = decode_parcel({reinterpret_cast<const char*>(data), size});
  if (!decoded) return 0;
  must_be_sound(*decoded);
  const auto again = decode_parcel(encode_parcel(*decoded->parcel, decoded->vm));
  VP_ASSERT(again && again->vm == decoded->vm);
  must_be_same(*decoded->parcel, *again->parcel);
  return 0;
}
