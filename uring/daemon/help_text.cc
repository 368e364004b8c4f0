// --help, from the option table.

#include <algorithm>
#include <utility>

#include "uring/daemon/option_table.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

constexpr size_t kColumns = 100;
constexpr size_t kDescription = 34;  // column where a description begins

constexpr size_t kMethodHelp = 29;  // column where the help of a channel method begins

// One line for each kind of channel, and more where its help has several.
std::string channel_methods() {
  std::string text;
  for (const TransportKind& kind : transport_kinds()) {
    std::string line = "  " + std::string(kind.name) + ":" + std::string(kind.form);
    for (std::string_view help = kind.help; !help.empty();) {
      const size_t end = std::min(help.find('\n'), help.size());
      line.resize(kMethodHelp, ' ');
      line += help.substr(0, end);
      help.remove_prefix(std::min(end + 1, help.size()));
      if (!help.empty()) text += std::exchange(line, {}) + "\n";
    }
    text += line + "\n";
  }
  return text;
}

std::string help_footer(const std::string& program) {
  return "Channel methods:\n" + channel_methods() +
         "\n"
         "Addresses:\n"
         "  HOST:PORT    name or IPv4 address, and number or service name: 127.0.0.1:9080, "
         "localhost:http\n"
         "  [IPv6]:PORT  [::1]:9080\n"
         "  *:PORT       listeners only: every local address, as does an empty host; needs "
         "--allow-remote\n"
         "  PATH:-       a unix socket; @NAME:- one in the abstract namespace\n"
         "  :NAME        after any of these: the name or number of the channel. Channels without a "
         "number get\n"
         "               0, 1, 2 in order; a forward without one belongs to channel 0\n"
         "\n"
         "Examples:\n"
         "  On the host, reach the guest's web and ssh servers through QEMU's chardev socket:\n"
         "    " +
         program +
         " -c unix-connect:/var/lib/libvirt/qemu/vp.sock:- \\\n"
         "        -o http:127.0.0.1:9080 -o ssh:127.0.0.1:9022\n"
         "  In the guest:\n"
         "    " +
         program +
         " -c virtserial-open:/dev/virtio-ports/test2:- \\\n"
         "        -i http:127.0.0.1:80 -i ssh:127.0.0.1:22\n"
         "  Two guests, one host, one service of each:\n"
         "    " +
         program +
         " -c unix-connect:/run/vm1.sock:- -c unix-connect:/run/vm2.sock:- \\\n"
         "        -o ssh:127.0.0.1:9022:0 -o ssh:127.0.0.1:9023:1 --threads 2\n"
         "  The second of them with a name:\n"
         "    " +
         program +
         " -c unix-connect:/run/vm2.sock:-:vm2 -o ssh:127.0.0.1:9023:vm2\n"
         "\n"
         "Values:\n"
         "  SIZE is in bytes, or with K, M, G or T; SECONDS may have ms, s or m\n"
         "\n"
         "Exit codes:\n"
         "  0   stopped cleanly by SIGTERM or SIGINT, or help or version printed\n"
         "  1   every failure, with one line on standard error\n"
         "  78  a configuration file or --check found errors, with one line for each\n"
         "  it dies by SIGABRT where its own logic is wrong, by SIGSYS in the sandbox\n"
         "\n"
         "Environment:\n"
         "  VIRTPROXY_DISABLE  ring features to do without, as --disable\n";
}

// Words of `text` from column `kDescription` on; the line has `used` columns already.
std::string described(std::string_view text, size_t used) {
  const std::string indent(kDescription, ' ');
  std::string result;
  if (used >= kDescription) {
    result += "\n" + indent;
  } else {
    result += std::string(kDescription - used, ' ');
  }
  size_t column = kDescription;
  while (!text.empty()) {
    const size_t space = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, space);
    text.remove_prefix(std::min(space + 1, text.size()));
    if (column > kDescription && column + 1 + word.size() > kColumns) {
      result += "\n" + indent;
      column = kDescription;
    } else if (column > kDescription) {
      result += ' ';
      ++column;
    }
    result += word;
    column += word.size();
  }
  return result + "\n";
}

}  // namespace

std::string help_text(const std::string& program) {
  std::string text =
      "Carries many socket connections over one channel between a host and a guest.\n"
      "Usage: " +
      program + " [OPTIONS]\n";
  std::optional<OptionGroup> group;
  for (const OptionRow& row : option_table()) {
    if (!row.in(option_scope::kCommandLine)) continue;
    if (group != row.group) {
      text += "\n" + std::string(group_title(row.group)) + ":\n";
      group = row.group;
    }
    std::string line = "  " + row.spelling();
    if (!row.is_flag()) line += " " + std::string(row.argument.empty() ? row.unit : row.argument);
    // A line of its own for a spelling that leaves no gap.
    std::string help(row.help);
    if (const std::string shown = row.shown_default(); !shown.empty()) {
      help += " (default " + shown + ")";
    }
    text += line + described(help, line.size() + 1 >= kDescription ? kDescription : line.size());
  }
  return text + "\n" + help_footer(program);
}

}  // namespace virtproxy
