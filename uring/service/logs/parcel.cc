#include "uring/service/logs/parcel.h"

#include <algorithm>

namespace virtproxy {

size_t Parcel::cost() const {
  return sizeof *this + text.capacity() + records.capacity() * sizeof(ParcelRecord) +
         account.sources.capacity() * sizeof(logs::SourceAccount);
}

void Parcel::add(const logs::Received& found) {
  using In = logs::Received::Kind;
  using Out = ParcelRecord::Kind;
  ParcelRecord into;
  const logs::Record& record = found.record;
  into.source = found.source;
  switch (found.kind) {
    case In::kBegun:
    case In::kFinal:
      return;
    case In::kLine:
    case In::kHead:
      into.kind = found.kind == In::kLine ? Out::kLine : Out::kHead;
      into.seq = record.seq;
      into.bytes = found.kind == In::kLine ? record.line.bytes.size() : record.full_length;
      into.time = into.last_time = record.line.time;
      into.has_credentials = record.line.credentials.has_value();
      if (into.has_credentials) into.credentials = *record.line.credentials;
      into.offset = static_cast<uint32_t>(text.size());
      into.size = static_cast<uint32_t>(record.line.bytes.size());
      text.append(reinterpret_cast<const char*>(record.line.bytes.data()),
                  record.line.bytes.size());
      break;
    case In::kDrop:
      into.kind = Out::kDrop;
      into.reason = record.drop.reason;
      break;
    case In::kUnaccounted:
      into.kind = Out::kUnaccounted;
      break;
    case In::kForgotten:
      into.kind = Out::kForgotten;
      break;
  }
  if (into.kind >= Out::kDrop) {
    into.seq = record.drop.first;
    into.count = record.drop.count;
    into.bytes = record.drop.bytes;
    into.time = record.drop.first_time;
    into.last_time = record.drop.last_time;
  }
  records.push_back(into);
}

}  // namespace virtproxy
