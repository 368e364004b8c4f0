#include "uring/daemon/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "uring/base/text.h"
#include "uring/daemon/option_table.h"

namespace virtproxy {
namespace {

void declare(CLI::App& app, CommandLine& line) {
  app.set_help_flag();
  for (const OptionRow& row : option_table()) {
    if (!row.in(option_scope::kCommandLine)) continue;
    if (row.is_flag()) {
      app.add_flag_function(row.spelling(), [&line, name = row.name](int64_t count) {
        line.flags[name] = count > 0 ? static_cast<unsigned>(std::min<int64_t>(count, 9)) : 0;
      });
      continue;
    }
    app.add_option_function<std::vector<std::string>>(
           row.spelling(),
           [&line, name = row.name](const std::vector<std::string>& given) {
             line.values[name] = given;
           })
        ->expected(1)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
}

std::vector<std::string_view> names_of_options() {
  std::vector<std::string_view> names;
  for (const OptionRow& row : option_table()) {
    if (row.in(option_scope::kCommandLine)) names.push_back(row.name);
  }
  return names;
}

// The option that is spelled so, or nullptr.
const OptionRow* spelled(std::string_view arg) {
  for (const OptionRow& row : option_table()) {
    if (!row.in(option_scope::kCommandLine)) continue;
    const std::string all = row.spelling();
    for (std::string_view rest = all; !rest.empty();) {
      const std::string_view one = rest.substr(0, rest.find(','));
      if (one == arg) return &row;
      rest.remove_prefix(std::min(rest.size(), one.size() + 1));
    }
  }
  return nullptr;
}

// The first option whose value is empty or another option; empty where there is none. CLI11 takes
// the next argument for the value, whatever it is, and complains of one behind that.
std::string_view without_value(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const bool no_more = arg.ends_with('=');
    const std::string_view name = no_more ? arg.substr(0, arg.size() - 1) : arg;
    const OptionRow* const row = spelled(name);
    if (row == nullptr || row->is_flag()) continue;
    if (no_more || (i + 1 < argc && spelled(argv[i + 1]) != nullptr)) return name;
    ++i;
  }
  return {};
}

// "a value is missing behind NAME", and the form that the value has.
std::string missing_value(std::string_view name) {
  const std::string what = "a value is missing behind " + std::string(name);
  const OptionRow* const row = spelled(name);
  if (row == nullptr) return what;
  return what + ": " + std::string(row->argument.empty() ? row->unit : row->argument);
}

// The first flag that has a value.
std::string_view flag_with_value(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const std::string_view name = arg.substr(0, arg.find('='));
    if (!arg.starts_with("--") || name.size() == arg.size()) continue;
    // --check and the like are in no table.
    const OptionRow* const row = spelled(name);
    if (row == nullptr || row->is_flag()) return name;
  }
  return "a flag";
}

// What CLI11 has to say, as the rest of one line.
std::string explain(const CLI::ParseError& error, const CLI::App& app) {
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    const std::string first = first_extra(app.remaining());
    const std::string fault = extra_fault(first);
    if (!first.starts_with('-') || first == "-") return fault + ": everything is given by options";
    return fault + nearest_option(first, names_of_options());
  }
  const std::string text = printable(error.what());
  // "--channel: 1 required TEXT missing"
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr && text.ends_with(" missing")) {
    return missing_value(text.substr(0, text.find(':')));
  }
  return text;
}

}  // namespace

tl::expected<CommandLine, std::string> parse_command_line(int argc, const char* const* argv) {
  if (const std::string_view name = without_value(argc, argv); !name.empty()) {
    return tl::unexpected(missing_value(name));
  }
  std::vector<std::string> args;
  for (int i = argc - 1; i > 0; --i) args.emplace_back(argv[i]);
  CLI::App app;
  CommandLine line;
  declare(app, line);
  try {
    app.parse(args);
  } catch (const CLI::ParseError& error) {
    return tl::unexpected(explain(error, app));
  } catch (const std::logic_error&) {
    // What the conversion of --FLAG=VALUE throws for a value that is no number.
    return tl::unexpected(std::string(flag_with_value(argc, argv)) +
                          " is a flag: give it without a value");
  }
  return line;
}

}  // namespace virtproxy
