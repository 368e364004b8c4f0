// A change of channels or forwards that somebody asks for.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <tl/expected.hpp>

namespace virtproxy {

struct ChannelChange {
  enum class Kind : uint8_t {
    kReload,  // what the command line and the files of --config have now
    kAdd,
    kRemove,
  };
  // What was done, or one line for each error; nothing has changed then.
  using Result = tl::expected<std::string, std::string>;
  using Finish = std::function<void(const Result&)>;

  Kind kind = Kind::kReload;
  char option = 'c';  // c, o or i
  std::string arg;    // what the command line has behind it; to remove a channel, its name
};

}  // namespace virtproxy
