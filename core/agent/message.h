// The messages of the protocol (PROTOCOL.md, section 2): their kinds, their errors and how they are
// written.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/agent/json.h"

namespace virtproxy::agent {

enum class ErrorCode {
  kBadArgument,
  kTooLarge,
  kBusy,
  kTimeout,
  kNotAllowed,
  kNotFound,
  kIo,  // written io:ERRNO, with the name of the errno
  kFrozen,
  kUnsupported,
  kRateLimited,
  kShuttingDown,
};

struct Error {
  ErrorCode code = ErrorCode::kUnsupported;
  std::string text;  // for people
  std::string io;    // of kIo: the name of the errno, ENOENT
  // libvirt takes this class for "the agent does not have it", and any other for a failure.
  bool command_not_found = false;
};

// Of kIo: io_error().
Error error_of(ErrorCode code, std::string text);
Error io_error(std::string errno_name, std::string text);
// The name of a code on the wire, with the errno of kIo.
std::string error_code_text(const Error& error);

// What a line turned out to be.
struct Message {
  enum class Kind { kRequest, kReturn, kError, kEvent, kBad };

  Kind kind = Kind::kBad;
  std::string name;               // of a request: its method; of an event
  Json body;                      // arguments, return, data, or the object of an error
  Json timestamp;                 // of an event, if it is an object; else null
  std::optional<std::string> id;  // as it was written
  Error error;                    // of kError as the peer reported it; of kBad: what to answer
};

Message parse_message(std::string_view line);

// Lines with their LF.
std::string encode_request(std::string_view method, const Json& arguments, uint64_t id);
std::string encode_return(const Json& value, const std::optional<std::string>& id);
std::string encode_error(const Error& error, const std::optional<std::string>& id);

struct WallTime {
  int64_t seconds = 0;  // since 1970
  int64_t microseconds = 0;
};
std::string encode_event(std::string_view name, const Json& data,
                         const std::optional<WallTime>& time);

}  // namespace virtproxy::agent
