#include "uring/daemon/options.h"

#include <algorithm>
#include <utility>

#include "uring/base/text.h"
#include "uring/daemon/command_line.h"
#include "uring/daemon/option_table.h"
#include "uring/daemon/options_draft.h"

namespace virtproxy {
namespace {

constexpr std::string_view kProject = "virtproxy";

std::string program_name(int argc, const char* const* argv) {
  if (argc < 1 || argv == nullptr || argv[0] == nullptr) return std::string(kProject);
  const std::string_view path = argv[0];
  const std::string name = printable(path.substr(path.rfind('/') + 1));
  return name.empty() ? std::string(kProject) : name;
}

ListenRules listen_rules(const ChannelSettings& settings) {
  return {settings.mode, settings.owner.user, settings.owner.group, settings.allow_remote};
}

ForwardSpec listener_of(ForwardDraft& draft) {
  ForwardSpec forward = std::move(draft.spec);
  forward.priority = draft.settings.priority;
  forward.when_down = draft.settings.when_down;
  forward.clients = {draft.settings.client_uids, draft.settings.client_gids, {}};
  forward.listen = listen_rules(draft.settings);
  return forward;
}

ForwardSpec service_of(ForwardDraft& draft) {
  ForwardSpec forward = std::move(draft.spec);
  forward.connect_timeout = to_duration(draft.settings.connect_timeout);
  return forward;
}

Options options_of(Draft& draft) {
  Options options;
  options.process = std::move(draft.process);
  options.memory = draft.memory;
  for (ChannelDraft& channel : draft.channels) {
    ChannelOptions& into = options.channels.emplace_back(std::move(channel.options));
    into.peer_timeout = into.settings.peer_timeout;
    into.listen = listen_rules(into.settings);
  }
  for (ForwardDraft& forward : draft.oforwards) {
    options.oforwards.push_back(listener_of(forward));
  }
  for (ForwardDraft& forward : draft.iforwards) options.iforwards.push_back(service_of(forward));
  return options;
}

Task task_of(const CommandLine& line) {
  if (line.count("print-config") > 0) return Task::kPrintConfig;
  if (line.count("check") > 0) return Task::kCheck;
  return line.count("features") > 0 ? Task::kShowFeatures : Task::kRun;
}

// The files as one tree. What cannot be read is among the problems.
ConfigNode read_tree(const std::string& path, const ReadConfig& read_config, Draft& draft) {
  ConfigNode tree;
  const auto files = read_config(path);
  if (!files) {
    draft.problems = files.error();
    return tree;
  }
  for (const ConfigText& file : *files) {
    auto part = parse_toml(file);
    if (part) {
      merge(tree, *std::move(part));
    } else {
      draft.problems.push_back(std::move(part.error()));
    }
  }
  return tree;
}

// One line for each problem. A command line alone has always shown the first one only.
std::string describe(const std::vector<Problem>& problems, const std::string& program, bool all) {
  std::string text;
  size_t shown = 0;
  for (const Problem& problem : problems) {
    if (shown == (all ? kMostProblems : 1)) break;
    if (!problem.origin.in_file()) text += program + ": ";
    text += printable(problem.to_string()) + "\n";
    ++shown;
  }
  if (all && shown < problems.size()) {
    text += program + ": " + std::to_string(problems.size() - shown) + " errors more\n";
  }
  return text;
}

}  // namespace

tl::expected<void, std::string> disable(std::string_view list, DriverFeatures& features,
                                        bool& landlock) {
  std::string of_driver;
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    const std::string_view name = list.substr(0, comma);
    list.remove_prefix(std::min(comma + 1, list.size()));
    if (name == "landlock") {
      landlock = false;
    } else {
      of_driver.append(name).append(",");
    }
  }
  if (const auto known = features.disable(of_driver); !known) {
    std::string names;
    for (const DriverFeatures::Name& each : DriverFeatures::names()) {
      names.append(each.name).append(", ");
    }
    return tl::unexpected("unknown feature " + in_quotes(known.error()) + "; use " + names +
                          "landlock");
  }
  return {};
}

ParseResult parse_options(int argc, const char* const* argv, const ReadConfig& read_config) {
  const std::string program = program_name(argc, argv);
  const auto line = parse_command_line(argc, argv);
  if (!line) {
    return tl::unexpected<ParseExit>(
        ParseExit{1, true, program + ": " + line.error() + "; see '" + program + " --help'\n"});
  }
  if (line->count("help") > 0) {
    return tl::unexpected<ParseExit>(ParseExit{0, false, help_text(program)});
  }
  if (line->count("version") > 0) {
    std::string text = program;
    if (program != kProject) text += " (" + std::string(kProject) + ")";
    return tl::unexpected<ParseExit>(ParseExit{0, false, text + " " VIRTPROXY_VERSION "\n"});
  }
  Draft draft;
  const auto* const config = line->find("config");
  const Task task = task_of(*line);
  ConfigNode tree;
  if (config != nullptr && config->size() > 1) {
    draft.complain({}, "--config is given more than once",
                   "name one file, and put what belongs to it into *.toml of conf.d beside it");
  } else if (config != nullptr) {
    tree = read_tree(config->back(), read_config, draft);
  }
  // A file that cannot be read leaves too little to judge the rest by.
  if (draft.problems.empty()) {
    ::virtproxy::read_config(tree, draft);
    read_options(*line, draft);
    read_config_channels(tree, draft);
    read_arguments(*line, draft);
    const bool readable = draft.problems.empty();
    if (readable && draft.channels.empty() && task != Task::kShowFeatures) {
      if (config == nullptr) {
        draft.complain({}, "no channel specified",
                       "give at least one -c METHOD:ADDRESS:PORT[:NAME]");
      } else {
        draft.complain({printable(config->back())}, "no channel is configured",
                       "give at least one [channel.NAME], or -c beside the file");
      }
    }
    if (!draft.channels.empty() && (readable || config != nullptr)) {
      resolve(*line, draft);
      check(draft);
    }
  }
  if (!draft.problems.empty()) {
    const bool all = config != nullptr;
    return tl::unexpected<ParseExit>(ParseExit{all || task == Task::kCheck ? kConfigError : 1, true,
                                               describe(draft.problems, program, all)});
  }
  Options options = options_of(draft);
  options.task = task;
  options.from_file = config != nullptr;
  if (config != nullptr) options.config = config->back();
  return options;
}

}  // namespace virtproxy
