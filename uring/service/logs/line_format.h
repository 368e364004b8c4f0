// Records as text, one line each. Bytes of a line that could end it, or act on a terminal, are
// escaped: a guest cannot write a line of its own, and not one of another VM.
//
//   rfc5424  <PRI>1 TIME VM SOURCE PID - [virtproxy@32473 …] MESSAGE
//            PRI is that of the line, 13 where it has none; it is left out of MESSAGE. Bytes below
//            0x20 but TAB, and 0x7f, are \xNN, and a backslash in front of an x is \x5c: so each
//            text has one meaning. 32473 is the number that RFC 5612 reserves for examples.
//   text     TIME VM SOURCE[PID]: MESSAGE
//            For people: short, the message as with rfc5424.
//   json     {"vm":…,"source":…,"log":…,"seq":…,"time":…,"received":…,…,"message":…}
//            A line that is not UTF-8 is in "message_base64" instead.
//
// What is not a line, a drop record for example, has MSGID drop, unaccounted or forgotten, in
// JSON an object of that name, and as text a ! in place of the colon. COLLECTING.md lists all
// fields.
#pragma once

#include <string>
#include <string_view>

#include "uring/service/logs/parcel.h"
#include "uring/service/logs/sink_spec.h"

namespace virtproxy {

class LineWriter {
 public:
  explicit LineWriter(LineFormat format) : format_(format) {}

  // Appends the record without an end of line. `vm` is a channel's label.
  void append(std::string& out, std::string_view vm, const Parcel& parcel,
              const ParcelRecord& record);

 private:
  void append_rfc5424(std::string& out, std::string_view vm, const Parcel& parcel,
                      const ParcelRecord& record);
  void append_text(std::string& out, std::string_view vm, const Parcel& parcel,
                   const ParcelRecord& record);
  void append_json(std::string& out, std::string_view vm, const Parcel& parcel,
                   const ParcelRecord& record);
  // 2026-11-30T01:02:03.123456Z, with `digits` of the second, at most 9. Returns its end, at most
  // kMostOfTime behind `at`.
  char* put_time(char* at, logs::UnixTime time, size_t digits);
  void append_time(std::string& out, logs::UnixTime time, size_t digits);
  void keep_second(uint64_t second);

  // Of a line, the text that is the same for all lines of a source in one log.
  void prepare_names(std::string_view vm, std::string_view source, const logs::LogId& log);

  struct Names {
    std::string vm;
    std::string source;
    logs::LogId log;
    std::string header;      // HOSTNAME and APP-NAME with the spaces around them
    std::string parameters;  // the structured data up to the name of the log
  };

  static constexpr size_t kMostOfTime = 40;
  // Of what stands in front of a message, all but the texts of Names: at most a time, seven numbers
  // of 20 digits, and the words around them.
  static constexpr size_t kMostBesideNames = 384;

  LineFormat format_;
  Names names_;
  std::string head_;              // room for what stands in front of a message
  uint64_t second_ = UINT64_MAX;  // whose text is kept
  std::string second_text_;
};

// True for well-formed UTF-8 (RFC 3629).
bool is_utf8(std::string_view text);

// The priority that a line begins with, <0> to <191> without zeros in front, and what follows.
struct Priority5424 {
  unsigned value = 13;  // user.notice
  std::string_view rest;
};
Priority5424 split_priority(std::string_view line);

// 32 hexadecimal digits, the upper half first.
std::string text_of(const logs::LogId& id);

}  // namespace virtproxy
