#include "uring/agent/options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "uring/base/option_hint.h"
#include "uring/base/small_file.h"
#include "uring/base/text.h"
#include "uring/base/toml.h"

namespace virtproxy::agent {
namespace {

constexpr const char* kDefaultConfig = "/etc/virtagent.toml";
constexpr size_t kMostConfig = size_t{1} << 20;  // bytes
constexpr const char* kDefaultPort = "/dev/virtio-ports/org.qemu.virtagent";

bool is_hook_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
  });
}

std::optional<std::string> add_allow(Rules& rules, const std::string& name) {
  const auto names = allow_names();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    return name + " cannot be allowed; dmesg, set-time, shutdown, fsfreeze and fstrim can";
  }
  rules.permissions.named.insert(name);
  return std::nullopt;
}

std::optional<std::string> add_directory(std::vector<std::string>& to, const std::string& path) {
  if (!path.starts_with('/')) return path + " must be an absolute path";
  to.push_back(path);
  return std::nullopt;
}

std::optional<std::string> add_hook(Rules& rules, const std::string& name,
                                    const std::string& path) {
  if (!is_hook_name(name)) return "the name of a hook has 1 to 64 of a-z, A-Z, 0-9, - and _";
  if (!path.starts_with('/')) return "hook " + name + ": " + path + " must be an absolute path";
  rules.hooks[name] = path;
  return std::nullopt;
}

void finish(Rules& rules) {
  rules.permissions.read = !rules.read.empty();
  rules.permissions.write = !rules.write.empty();
  rules.permissions.hooks = !rules.hooks.empty();
  if (!rules.metadata.empty()) rules.permissions.named.insert("metadata");
}

// key=value: the value is JSON if it is any, else a string.
std::optional<std::string> add_argument(Json& arguments, const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    return text + ": arguments are KEY=VALUE, or one object in JSON";
  }
  const std::string key = text.substr(0, equals);
  const std::string value = text.substr(equals + 1);
  if (arguments.contains(key)) return key + " is given twice";
  const ParsedJson parsed = parse_json(value);
  arguments[key] = parsed.fault == JsonFault::kNone ? parsed.value : Json(value);
  return std::nullopt;
}

// CLI11 takes -1 for a number without a sign, and wraps it.
std::string natural_fault(const std::string& text) {
  const bool natural = !text.empty() && std::all_of(text.begin(), text.end(),
                                                    [](char c) { return c >= '0' && c <= '9'; });
  return natural ? "" : printable(text) + " is no number of 0 or more";
}

// What CLI11 has to say, as the rest of one line.
std::string explain(const CLI::ParseError& error, const CLI::App& app) {
  if (dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr) return printable(error.what());
  // Those of the subcommands as well, in their order.
  const std::string first = first_extra(app.remaining(true));
  const bool option = first.starts_with('-') && first != "-";
  if (!option && app.get_subcommands().empty()) {
    std::vector<std::string_view> names;
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
      names.push_back(command->get_name());
    }
    return "there is no command " + in_quotes(first) + nearest_hint(first, names);
  }
  return extras_fault(app);
}

tl::unexpected<Refusal> refuse(const std::string& text) {
  return tl::unexpected(Refusal{1, "virtagent: " + text + "\n"});
}

// What the program's arguments are read into.
struct Raw {
  std::string client;
  std::string server;
  std::string port;
  std::vector<std::string> listen;
  std::vector<std::string> local;
  std::vector<std::string> allow;
  std::vector<std::string> read;
  std::vector<std::string> write;
  std::vector<std::string> hooks;
  std::optional<uint64_t> max_put;
  std::optional<unsigned> max_freeze;
  std::string config;
  std::string log = "info";
  std::string target;
  std::vector<std::string> arguments;
};

void add_rules(CLI::App& app, Raw& raw) {
  app.add_option("--allow", raw.allow, "dmesg, set-time, shutdown, fsfreeze or fstrim");
  app.add_option("--allow-read", raw.read, "Directory that files may be read in");
  app.add_option("--allow-write", raw.write, "Directory that files may be written in");
  app.add_option("--hook", raw.hooks, "NAME=PROGRAM that va-hook may run");
  app.add_option("--max-put", raw.max_put, "Bytes that va-put takes for one file (1 GiB)")
      ->check(natural_fault, "");
  app.add_option("--max-freeze", raw.max_freeze,
                 "Seconds after which frozen file systems are thawed (60)")
      ->check(CLI::Range(1, 600));
  app.add_option("--config", raw.config, "Configuration file (/etc/virtagent.toml if it is there)");
}

void add_serving(CLI::App& app, Raw& raw, Rules& rules, Role role) {
  app.add_option("-c,--channel", raw.port, "One port: METHOD:PATH");
  app.add_option("--client", raw.client, "Of two ports the one for own calls: METHOD:PATH");
  app.add_option("--server", raw.server, "Of two ports the other one");
  app.add_option("--listen", raw.listen, "Socket where each call has its own connection: PATH");
  app.add_option("--local", raw.local, "Socket for programs of this machine: PATH");
  if (role == Role::kHost) {
    app.add_option("--metadata", rules.metadata, "Directory of files for host-get-metadata");
    return;
  }
  add_rules(app, raw);
}

// What the operator allows a guest: the configuration file and the command line together.
tl::expected<Rules, Refusal> guest_rules(const Raw& raw) {
  Rules rules;
  const bool have_default = access(kDefaultConfig, F_OK) == 0;
  const std::string config = !raw.config.empty() ? raw.config : have_default ? kDefaultConfig : "";
  if (!config.empty()) {
    const auto text = read_small_file(config, kMostConfig);
    if (!text) {
      return refuse(
          "cannot read " + printable(config) + ": " +
          (text.error() == EFBIG ? "it has more than 1 MiB" : std::strerror(text.error())));
    }
    if (const auto added = add_config(*text, printable(config), rules); !added)
      return refuse(added.error());
  }
  if (raw.max_put) rules.max_put = *raw.max_put;
  if (raw.max_freeze) rules.max_freeze = *raw.max_freeze;
  std::optional<std::string> wrong;
  const auto check = [&](std::optional<std::string> found) {
    if (!wrong) wrong = std::move(found);
  };
  for (const std::string& name : raw.allow) check(add_allow(rules, name));
  for (const std::string& path : raw.read) check(add_directory(rules.read, path));
  for (const std::string& path : raw.write) check(add_directory(rules.write, path));
  for (const std::string& hook : raw.hooks) {
    const size_t equals = hook.find('=');
    check(equals == std::string::npos
              ? "--hook is NAME=PROGRAM"
              : add_hook(rules, hook.substr(0, equals), hook.substr(equals + 1)));
  }
  if (wrong) return refuse(*wrong);
  finish(rules);
  return rules;
}

tl::expected<ServeOptions, Refusal> serve_options(const Raw& raw, Rules rules, Role role) {
  ServeOptions serve;
  serve.role = role;
  serve.rules = std::move(rules);
  std::optional<std::string> wrong;
  const auto check = [&](std::optional<std::string> found) {
    if (!wrong) wrong = std::move(found);
  };
  if (raw.client.empty() != raw.server.empty()) {
    check("--client and --server go together; -c is for one port");
  }
  if (!raw.client.empty() && !raw.port.empty())
    check("-c is for one port, --client and --server for two");
  if (wrong) return refuse(*wrong);
  for (const std::string& text : {raw.port, raw.client, raw.server}) {
    if (text.empty()) continue;
    auto port = parse_port(text);
    if (!port) return refuse(port.error());
    if (const auto fault = port_fault(*port)) return refuse(printable(*fault));
    serve.ports.push_back(std::move(*port));
  }
  serve.listen = raw.listen;
  serve.local = raw.local;
  if (serve.ports.empty() && serve.listen.empty()) {
    if (role == Role::kHost)
      return refuse("give the guest's port with -c, or --listen for streams");
    serve.ports.push_back({PortSpec::Method::kVirtioSerial, kDefaultPort, 0});
  }
  if (!serve.local.empty() && serve.ports.empty() && role == Role::kGuest) {
    return refuse("--local passes calls on to the other end of a port, and there is none; use -c");
  }
  return serve;
}

}  // namespace

tl::expected<void, std::string> add_config(std::string_view text, const std::string& name,
                                           Rules& rules) {
  // Keys and values of the file may hold anything.
  const auto at = [&](const toml::source_region& source, const std::string& what) {
    return tl::unexpected(name + ":" + std::to_string(source.begin.line) + ": " + printable(what));
  };
  if (const auto deep = find_deep_key(text)) {
    return tl::unexpected(name + ":" + std::to_string(deep->line) + ": a key has more than " +
                          std::to_string(kMaxKeyParts) + " parts; hook.NAME has two");
  }
  const auto result = try_parse_toml(text);
  if (!result) {
    return tl::unexpected(name + ":" + std::to_string(toml_failed_line(text)) +
                          ": not TOML: this line cannot be understood");
  }
  const toml::parse_result& parsed = *result;
  if (!parsed) return at(parsed.error().source(), std::string(parsed.error().description()));
  Rules added = rules;
  for (const auto& [key, value] : parsed.table()) {
    const std::string_view known = key.str();
    if (known == "allow" || known == "allow-read" || known == "allow-write") {
      const toml::array* const list = value.as_array();
      if (list == nullptr)
        return at(value.source(), std::string(known) + " must be a list of strings");
      for (const toml::node& item : *list) {
        const auto string = item.value_exact<std::string>();
        if (!string) return at(item.source(), std::string(known) + " must be a list of strings");
        const auto wrong = known == "allow"        ? add_allow(added, *string)
                           : known == "allow-read" ? add_directory(added.read, *string)
                                                   : add_directory(added.write, *string);
        if (wrong) return at(item.source(), *wrong);
      }
    } else if (known == "hook") {
      const toml::table* const hooks = value.as_table();
      if (hooks == nullptr)
        return at(value.source(), "hook must be a table: hook.NAME = \"/program\"");
      for (const auto& [hook, program] : *hooks) {
        const auto path = program.value_exact<std::string>();
        if (!path)
          return at(program.source(), "hook." + std::string(hook.str()) + " must be a string");
        if (const auto wrong = add_hook(added, std::string(hook.str()), *path)) {
          return at(program.source(), *wrong);
        }
      }
    } else if (known == "max-put") {
      const auto bytes = value.value_exact<int64_t>();
      if (!bytes || *bytes < 0) return at(value.source(), "max-put must be a number of bytes");
      added.max_put = static_cast<uint64_t>(*bytes);
    } else if (known == "max-freeze") {
      const auto seconds = value.value_exact<int64_t>();
      if (!seconds || *seconds < 1 || *seconds > 600) {
        return at(value.source(), "max-freeze must be a number of seconds, 1 to 600");
      }
      added.max_freeze = static_cast<unsigned>(*seconds);
    } else {
      return at(value.source(),
                "there is no key " + std::string(known) +
                    "; allow, allow-read, allow-write, hook.NAME, max-put and max-freeze "
                    "are there");
    }
  }
  rules = std::move(added);
  return {};
}

tl::expected<Options, Refusal> parse_options(int argc, char** argv) {
  CLI::App app("RPC between a host and its guest, in both directions", "virtagent");
  app.set_version_flag("-V,--version", VIRTPROXY_VERSION);
  Raw raw;
  Rules rules;
  ClientOptions client;
  app.add_option("--log", raw.log, "error, warn, info, debug or trace (info)");
  app.fallthrough();
  app.require_subcommand(0, 1);
  CLI::App* const guest = app.add_subcommand("guest", "Serve the host's calls (the default)");
  CLI::App* const host = app.add_subcommand("host", "Serve the guest's calls");
  add_serving(*guest, raw, rules, Role::kGuest);
  add_serving(*host, raw, rules, Role::kHost);
  // `virtagent` alone is `virtagent guest`.
  CLI::App* const bare = app.add_option_group("guest");
  add_serving(*bare, raw, rules, Role::kGuest);
  bare->group("");

  CLI::App* const call = app.add_subcommand("call", "Call a method and print what it returns");
  CLI::App* const get = app.add_subcommand("get", "Copy a file from the guest");
  CLI::App* const put = app.add_subcommand("put", "Copy a file to the guest");
  CLI::App* const events = app.add_subcommand("events", "Print events as they come");
  CLI::App* const unit = app.add_subcommand(
      "drop-in", "Print the drop-in of virtagent.service for what is allowed, and end");
  add_rules(*unit, raw);
  for (CLI::App* each : {call, get, put, events}) {
    each->add_option("target", raw.target, "Path of a socket of streams, or METHOD:PATH")
        ->required();
    each->add_option("--timeout", client.timeout, "Seconds to wait for an answer (5)")
        ->check(CLI::Range(0.001, 86400.0));
  }
  for (CLI::App* each : {get, put}) {
    each->add_option("--stall-timeout", client.stall_timeout,
                     "Seconds without a byte after which a transfer fails (60)")
        ->check(CLI::Range(0.001, 86400.0));
  }
  call->add_option("method", client.method)->required();
  call->add_option("arguments", raw.arguments, "KEY=VALUE..., or one object in JSON");
  get->add_option("remote", client.remote, "Path in the guest")->required();
  get->add_option("file", client.file, "File to write, - for standard output")->required();
  get->add_option("--offset", client.offset, "First byte (0)")->check(natural_fault, "");
  get->add_option("--length", client.length, "Bytes (all)")->check(natural_fault, "");
  put->add_option("file", client.file, "File to read, - for standard input")->required();
  put->add_option("remote", client.remote, "Path in the guest")->required();
  std::string mode;
  put->add_option("--mode", mode, "Permissions of the file in octal (0644)");
  events->add_option("--count", client.count, "End after so many events")->check(natural_fault, "");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      std::ostringstream out;
      app.exit(error, out, out);
      return tl::unexpected(Refusal{0, out.str()});
    }
    const auto commands = app.get_subcommands();
    return refuse(explain(error, app) + "; see 'virtagent " +
                  (commands.empty() ? "" : commands.front()->get_name() + " ") + "--help'");
  }
  Options options;
  const auto level = parse_log_level(raw.log);
  if (!level) return refuse(raw.log + " is no log level; error, warn, info, debug and trace are");
  options.log_level = *level;
  const bool serving = !*call && !*get && !*put && !*events;
  if (serving && !*host) {
    auto allowed = guest_rules(raw);
    if (!allowed) return tl::unexpected(allowed.error());
    rules = std::move(*allowed);
  }
  if (*host) finish(rules);
  if (*unit) {
    options.drop_in = std::move(rules);
    return options;
  }
  if (serving) {
    auto serve = serve_options(raw, std::move(rules), *host ? Role::kHost : Role::kGuest);
    if (!serve) return tl::unexpected(serve.error());
    options.serve = std::move(*serve);
    return options;
  }
  auto target = parse_target(raw.target);
  if (!target) return refuse(target.error());
  if (target->method == PortSpec::Method::kUnixListen) {
    return refuse("a call goes to unix-connect, a device or the path of a socket");
  }
  client.target = std::move(*target);
  client.action = *call  ? ClientOptions::Action::kCall
                  : *get ? ClientOptions::Action::kGet
                  : *put ? ClientOptions::Action::kPut
                         : ClientOptions::Action::kEvents;
  if (client.action != ClientOptions::Action::kCall &&
      client.target.method != PortSpec::Method::kStream) {
    return refuse(
        "get, put and events need a socket of streams; over a port there are call and "
        "guest-file-read");
  }
  if (!mode.empty()) {
    char* end = nullptr;
    const unsigned long value = std::strtoul(mode.c_str(), &end, 8);
    if (*end != '\0' || value > 0777) return refuse(mode + " is no mode; 0644 is one");
    client.mode = static_cast<unsigned>(value);
  }
  if (raw.arguments.size() == 1 && raw.arguments[0].starts_with('{')) {
    const ParsedJson parsed = parse_json(raw.arguments[0]);
    if (parsed.fault != JsonFault::kNone) {
      return refuse("the arguments are no object: " + std::string(json_fault_text(parsed.fault)));
    }
    client.arguments = parsed.value;
  } else {
    for (const std::string& text : raw.arguments) {
      if (const auto wrong = add_argument(client.arguments, text)) return refuse(*wrong);
    }
  }
  options.client = std::move(client);
  return options;
}

}  // namespace virtproxy::agent
