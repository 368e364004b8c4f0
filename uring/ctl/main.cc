// virtproxyctl: asks a running daemon over its control socket, and does what is around the daemon and
// needs what its sandbox forbids. Every command is a subcommand.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "uring/base/option_hint.h"
#include "uring/ctl/control_client.h"
#include "uring/ctl/doctor.h"
#include "uring/ctl/follow.h"
#include "uring/ctl/guest_iso.h"
#include "uring/ctl/guest_port.h"
#include "uring/ctl/qmp.h"
#include "uring/net/address.h"

namespace {

using virtproxy::ctl::GuestDevice;
using virtproxy::ctl::GuestIso;
using virtproxy::ctl::GuestPort;
using virtproxy::ctl::Qmp;
using Result = tl::expected<std::string, std::string>;  // what to print, or what is wrong

constexpr int kFailure = 1;
constexpr int kUsage = 2;
const std::vector<std::string> kOrders{"age", "sent", "received", "waiting"};  // of streams

struct PortArgs {
  GuestPort port;
  bool isa = false;
  std::optional<uint32_t> cid;
  std::string qmp;
};

tl::expected<GuestPort, std::string> port_of(const PortArgs& args) {
  GuestPort port = args.port;
  if (port.socket.empty()) port.socket = virtproxy::ctl::default_socket(port.vm);
  if (port.agent_socket.empty()) {
    port.agent_socket = virtproxy::ctl::default_agent_socket(port.vm);
  }
  if (args.isa) port.device = GuestDevice::kIsaPort;
  if (args.cid) {
    port.device = GuestDevice::kVsock;
    port.cid = *args.cid;
  }
  if (const auto good = check(port); !good) return tl::unexpected(good.error());
  return port;
}

void declare_port(CLI::App& command, PortArgs& args) {
  command.add_option("--vm", args.port.vm, "Name of the virtual machine")
      ->type_name("NAME")
      ->required();
  command
      .add_option("--socket", args.port.socket,
                  "Socket of QEMU's chardev (default /run/virtproxy/NAME.sock)")
      ->type_name("PATH");
  command
      .add_option("--port-name", args.port.name,
                  "Name of the port in the guest (default virtproxy)")
      ->type_name("NAME");
}

void declare_device(CLI::App& command, PortArgs& args) {
  auto* const isa =
      command.add_flag("--isa", args.isa, "A serial port instead of a virtio-serial port");
  command.add_option("--vsock", args.cid, "vsock instead, with this CID of the guest")
      ->type_name("CID")
      ->excludes(isa);
}

void declare_agent(CLI::App& command, PortArgs& args) {
  auto* const agent = command.add_flag("--agent", args.port.agent,
                                       "One more port of that kind, for virtagent; a virtio-serial "
                                       "port is named org.qemu.virtagent");
  command
      .add_option("--agent-socket", args.port.agent_socket,
                  "Socket of its chardev (default /run/virtproxy/NAME.agent)")
      ->type_name("PATH")
      ->needs(agent);
}

void declare_bus(CLI::App& command, PortArgs& args) {
  command
      .add_option("--bus", args.port.bus,
                  "A virtio-serial bus that the machine has (default: a controller of its own)")
      ->type_name("BUS");
}

void declare_qmp(CLI::App& command, PortArgs& args) {
  command
      .add_option("--qmp", args.qmp, "Socket of QEMU's monitor (-qmp unix:PATH,server=on,wait=off)")
      ->type_name("PATH")
      ->required();
}

// QEMU is a program of its own: what it answers may be of any type.
Result over_qmp(const PortArgs& args,
                tl::expected<void, std::string> (*act)(Qmp&, const GuestPort&)) {
  const auto port = port_of(args);
  if (!port) return tl::unexpected(port.error());
  try {
    auto qmp = Qmp::connect(args.qmp);
    if (!qmp) return tl::unexpected(qmp.error());
    if (const auto done = act(*qmp, *port); !done) return tl::unexpected(done.error());
  } catch (const nlohmann::json::exception&) {
    return tl::unexpected<std::string>("--qmp: what listens there does not answer as QEMU does");
  }
  return port->socket + "\n";
}

// What is sent to the daemon.
struct DaemonArgs {
  std::string control{virtproxy::ctl::kDefaultControl};
  std::string what;  // of far
  std::string argument;
  std::string forward;  // of -o
  std::string service;  // of -i
  std::string sort;
  std::string limit;
  bool json = false;
  bool follow = false;
};

// The commands, and what the one that was given does.
struct Commands {
  DaemonArgs daemon;
  PortArgs port;
  GuestIso iso;
  virtproxy::ctl::Examination examination{.control = std::string(virtproxy::ctl::kDefaultControl)};
  bool sound = true;  // what doctor found
  std::function<Result()> run;

  // One that the daemon carries out; the word behind it is its argument, if it takes one.
  CLI::App& declare_daemon_command(CLI::App& app, const std::string& name, const std::string& help) {
    CLI::App& command = *app.add_subcommand(name, help);
    command.group("Commands to a running daemon");
    command
        .add_option("--control", daemon.control,
                    "Its control socket (default " + daemon.control + ")")
        ->type_name("PATH");
    command.add_flag("--json", daemon.json, "Print JSON");
    command.callback([this, name] {
      run = [this, name] { return ask(name); };
    });
    return command;
  }

  void declare_forward(CLI::App& command) {
    auto* const listen = command.add_option("-o", daemon.forward, "Listen here for a service")
                             ->type_name("SERVICE:ADDRESS:PORT[:CHANNEL]");
    auto* const offer = command.add_option("-i", daemon.service, "Connect a service's streams to this")
                            ->type_name("SERVICE:ADDRESS:PORT[:CHANNEL]");
    listen->excludes(offer);
    command.parse_complete_callback([this] {
      if (daemon.forward.empty() && daemon.service.empty()) throw CLI::RequiredError("-o or -i");
    });
  }

  // What holds until the next reload or start.
  void declare_changes(CLI::App& app) {
    declare_daemon_command(app, "reload", "Read the configuration files again");
    declare_daemon_command(app, "config", "Print the configuration in effect");
    declare_daemon_command(app, "channel-add", "Add a channel until the next reload")
        .add_option("CHANNEL", daemon.argument, "As -c has it: METHOD:ADDRESS:PORT[:NAME]")
        ->type_name("")
        ->required();
    declare_daemon_command(app, "channel-remove", "Remove a channel; its streams may finish first")
        .add_option("CHANNEL", daemon.argument, "Its name")
        ->type_name("")
        ->required();
    declare_forward(declare_daemon_command(app, "forward-add", "Add a service until the next reload"));
    declare_forward(
        declare_daemon_command(app, "forward-remove", "Remove a service; its streams may finish"));
  }

  void declare_events(CLI::App& app) {
    CLI::App& events = declare_daemon_command(app, "events", "List the last events of the channels");
    events.add_option("CHANNEL", daemon.argument, "Only those of this channel")->type_name("");
    events.add_flag("--follow", daemon.follow, "Go on with those that come");
    events.callback([this] {
      run = [this]() -> Result {
        if (daemon.follow) {
          return virtproxy::ctl::follow_events(daemon.control, daemon.argument, daemon.json);
        }
        return ask("events");
      };
    });
  }

  void declare_top(CLI::App& app) {
    CLI::App& top = *app.add_subcommand("top", "Show the streams, and go on doing so; q ends it");
    top.group("Commands to a running daemon");
    top.add_option("--control", daemon.control,
                   "Its control socket (default " + daemon.control + ")")
        ->type_name("PATH");
    top.add_option("--sort", daemon.sort, "age, sent, received or waiting (default sent)")
        ->type_name("KEY")
        ->check(CLI::IsMember(kOrders));
    top.callback([this] {
      run = [this]() -> Result {
        return virtproxy::ctl::top(daemon.control, daemon.sort.empty() ? "sent" : daemon.sort);
      };
    });
  }

  void declare_doctor(CLI::App& app) {
    CLI::App& doctor = *app.add_subcommand(
        "doctor", "Look for what keeps virtproxy from working here, and say what to do");
    doctor.add_option("CHANNEL", examination.transports, "Channels to look at, as behind -c")
        ->type_name("");
    const CLI::Option* const control =
        doctor
            .add_option("--control", examination.control,
                        "The control socket of a daemon (default " + examination.control + ")")
            ->type_name("PATH");
    doctor.add_option("--log", examination.log,
                      "Explain the lines of a log instead; - reads standard input")
        ->type_name("FILE");
    doctor.callback([this, control] {
      examination.control_must_answer = control->count() > 0;
      run = [this]() -> Result {
        return virtproxy::ctl::examine(examination)
            .map([this](const virtproxy::ctl::Diagnosis& diagnosis) {
              sound = diagnosis.sound;
              return diagnosis.text;
            });
      };
    });
  }

  Result ask(const std::string& command) const {
    std::string line = command;
    // The daemon has these as two words, and so may the command line.
    if (const size_t at = std::min(command.find("-add"), command.find("-remove"));
        at != std::string::npos) {
      line[at] = ' ';
    }
    if (!daemon.what.empty()) line += " " + daemon.what;
    if (!daemon.argument.empty()) line += " " + daemon.argument;
    if (!daemon.forward.empty()) line += " -o " + daemon.forward;
    if (!daemon.service.empty()) line += " -i " + daemon.service;
    if (!daemon.sort.empty()) line += " --sort " + daemon.sort;
    if (!daemon.limit.empty()) line += " --limit " + daemon.limit;
    if (daemon.json) line += " --json";
    return virtproxy::ctl::ask_daemon(daemon.control, line);
  }

  void declare_daemon_commands(CLI::App& app) {
    declare_daemon_command(app, "status", "Show the process");
    declare_daemon_command(app, "channels", "List the channels");
    declare_daemon_command(app, "forwards", "List the services, with counts and bytes");
    CLI::App& streams = declare_daemon_command(app, "streams", "List the streams");
    streams.add_option("CHANNEL", daemon.argument, "Only those of this channel")->type_name("");
    streams.add_option("--sort", daemon.sort, "age, sent, received or waiting (default age)")
        ->type_name("KEY")
        ->check(CLI::IsMember(kOrders));
    streams.add_option("--limit", daemon.limit, "Lines, at most (default 1000)")->type_name("N");
    declare_daemon_command(app, "why", "Show what each stream and source of log lines that waits is waiting for")
        .add_option("WHAT", daemon.argument, "Only this channel or stream")
        ->type_name("");
    declare_daemon_command(app, "logs", "List the sources and sinks of log lines, with counts")
        .add_option("CHANNEL", daemon.argument, "Only those of this channel")
        ->type_name("");
    CLI::App& far = declare_daemon_command(
        app, "far", "Ask the other end of a channel, where that has share-stats = true");
    far.add_option("WHAT", daemon.what,
                   "status; streams: each as both ends see it; or why: what waits at either end")
        ->type_name("")
        ->check(CLI::IsMember({"status", "streams", "why"}))
        ->required();
    far.add_option("CHANNEL", daemon.argument, "Its channel; of why, also a stream of it")
        ->type_name("");
    declare_events(app);
    declare_top(app);
    declare_daemon_command(app, "kill", "Reset a stream")
        .add_option("STREAM", daemon.argument, "As the command streams names it")
        ->type_name("")
        ->required();
    declare_daemon_command(app, "reset", "Drop a channel's connection, with its streams")
        .add_option("CHANNEL", daemon.argument, "Its name")
        ->type_name("")
        ->required();
    declare_changes(app);
    CLI::App& metrics =
        declare_daemon_command(app, "metrics", "Print the metrics, as Prometheus reads them");
    metrics.remove_option(metrics.get_option("--json"));
    declare_daemon_command(app, "log-level", "Show or change the level of the log")
        .add_option("LEVEL", daemon.argument, "error, warn, info, debug or trace")
        ->type_name("");
    declare_daemon_command(app, "drain", "End the daemon or a channel; open streams may finish first")
        .add_option("CHANNEL", daemon.argument, "Only this channel")
        ->type_name("");
    declare_daemon_command(app, "stop", "End the daemon; open streams are reset");
  }

  void declare(CLI::App& app) {
    declare_daemon_commands(app);
    declare_doctor(app);
    CLI::App& qemu =
        *app.add_subcommand("qemu-args", "Print the arguments that give QEMU the channel");
    declare_port(qemu, port);
    declare_device(qemu, port);
    declare_agent(qemu, port);
    declare_bus(qemu, port);
    qemu.callback([this] {
      run = [this]() -> Result {
        return port_of(port).map([](const GuestPort& good) { return qemu_args(good) + "\n"; });
      };
    });

    CLI::App& xml = *app.add_subcommand("libvirt-xml", "Print the devices for a domain of libvirt");
    declare_port(xml, port);
    declare_device(xml, port);
    declare_agent(xml, port);
    xml.callback([this] {
      run = [this]() -> Result {
        return port_of(port).map([](const GuestPort& good) { return libvirt_xml(good); });
      };
    });

    CLI::App& attach = *app.add_subcommand(
        "attach", "Add the port to a running QEMU; prints the path of its socket");
    declare_port(attach, port);
    declare_bus(attach, port);
    declare_qmp(attach, port);
    attach.callback([this] { run = [this] { return over_qmp(port, virtproxy::ctl::attach); }; });

    CLI::App& detach = *app.add_subcommand("detach", "Remove what attach has added");
    declare_port(detach, port);
    declare_qmp(detach, port);
    detach.callback([this] {
      run = [this] {
        return over_qmp(port, virtproxy::ctl::detach).map([](const std::string&) {
          return std::string();
        });
      };
    });

    CLI::App& image = *app.add_subcommand(
        "guest-iso", "Write an ISO image that installs virtproxy in a guest without a network");
    image.add_option("--output", iso.output, "The image to write")->type_name("FILE")->required();
    image
        .add_option("--static", iso.program,
                    "The program for the guest (default: virtproxy-static beside this one)")
        ->type_name("PATH");
    image.add_option("--args", iso.args, "Arguments of the guest's daemon: '-i ssh:127.0.0.1:22'")
        ->type_name("ARGS");
    image.callback([this] {
      run = [this]() -> Result { return write_guest_iso(iso).map([] { return std::string(); }); };
    });
  }
};

// The option of a command, with this name or NAME=VALUE. nullptr: no command has it.
const CLI::Option* option_of(const std::vector<const CLI::App*>& commands, const std::string& arg) {
  for (const CLI::App* const command : commands) {
    const CLI::Option* const found = command->get_option_no_throw(arg.substr(0, arg.find('=')));
    if (found != nullptr) return found;
  }
  return nullptr;
}

// Options may stand in front of their command, where CLI11 takes none of them.
void move_command_first(std::vector<std::string>& args,
                        const std::vector<const CLI::App*>& commands) {
  size_t at = 0;
  while (at < args.size() && args[at].starts_with('-')) {
    const CLI::Option* const option = option_of(commands, args[at]);
    if (option == nullptr) return;
    at += option->get_expected_min() > 0 && args[at].find('=') == std::string::npos ? 2 : 1;
  }
  if (at == 0 || at >= args.size()) return;
  const bool two_words = args[at] == "channel" || args[at] == "forward";
  const auto first = args.begin() + static_cast<ptrdiff_t>(at);
  std::rotate(args.begin(), first, first + (two_words && args.end() - first > 1 ? 2 : 1));
}

int fail(int code, const std::string& text) {
  // What --json asked for is for a program.
  const char* const prefix = text.starts_with('{') ? "" : "virtproxyctl: ";
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::fprintf(stderr, "%s%s\n", prefix, line.c_str());
  }
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Operates virtproxy, and connects it with QEMU and libvirt.", "virtproxyctl");
  app.set_version_flag("-V,--version", "virtproxyctl " VIRTPROXY_VERSION,
                       "Print the version and exit");
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.get_formatter()->column_width(28);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 failed, or a value was refused, 2 a command line that cannot be "
      "read.");
  Commands commands;
  commands.declare(app);
  const auto all = std::as_const(app).get_subcommands([](const CLI::App*) { return true; });
  std::vector<std::string> args(argv + std::min(argc, 1), argv + argc);
  move_command_first(args, all);
  // "channel add" stands for "channel-add".
  if (args.size() > 1 && (args[0] == "channel" || args[0] == "forward") &&
      (args[1] == "add" || args[1] == "remove")) {
    args[0] += "-" + args[1];
    args.erase(args.begin() + 1);
  }
  // CLI11 would only say that a command is missing.
  const auto is_given = [&](const CLI::App* command) { return command->get_name() == args[0]; };
  if (!args.empty() && (args[0] == "channel" || args[0] == "forward")) {
    return fail(kUsage,
                args[0] + " takes add or remove; see virtproxyctl " + args[0] + " add --help");
  }
  if (!args.empty() && !args[0].starts_with('-') &&
      std::none_of(all.begin(), all.end(), is_given)) {
    std::vector<std::string_view> names;
    for (const CLI::App* const command : all) names.push_back(command->get_name());
    return fail(kUsage, "there is no command '" + virtproxy::printable(args[0]) + "'" +
                            virtproxy::nearest_hint(args[0], names) + "; see virtproxyctl --help");
  }
  try {
    std::reverse(args.begin(), args.end());  // as CLI11 takes them
    app.parse(args);
  } catch (const CLI::Success& done) {
    return app.exit(done);
  } catch (const CLI::ExtrasError&) {
    return fail(kUsage, virtproxy::extras_fault(app) + "; see virtproxyctl --help");
  } catch (const CLI::ParseError& error) {
    return fail(kUsage, virtproxy::printable(error.what()) + "; see virtproxyctl --help");
  }
  const Result result = commands.run();
  if (!result) return fail(kFailure, result.error());
  if (std::fputs(result->c_str(), stdout) < 0 || std::fflush(stdout) != 0) {
    return fail(kFailure, "cannot write to standard output");
  }
  return commands.sound ? 0 : kFailure;
}
