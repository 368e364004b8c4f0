// An ISO image that installs virtproxy in a guest without a network: the static program, the unit,
// the udev rule and a script.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace virtproxy::ctl {

struct GuestIso {
  std::string output;   // the image; replaced if it is there
  std::string program;  // virtproxy-static; empty: the one beside this program
  std::string args;     // of the guest's daemon, for guest.env
};

// Writes the image by xorriso or genisoimage, whichever is installed.
tl::expected<void, std::string> write_guest_iso(const GuestIso& iso);

}  // namespace virtproxy::ctl
