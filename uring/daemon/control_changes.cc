// The commands of the control socket that change channels, forwards and the level of the log.

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/daemon/control.h"

namespace virtproxy {

void Control::change_channels(const Asker& asker, std::string_view command,
                              const std::string& words) {
  const bool of_channel = command == "channel";
  const size_t space = std::min(words.find(' '), words.size());
  const std::string_view verb = std::string_view(words).substr(0, space);
  std::string rest = words.substr(std::min(space + 1, words.size()));
  ChannelChange change;
  if (verb == "remove") {
    change.kind = ChannelChange::Kind::kRemove;
  } else if (verb == "add") {
    change.kind = ChannelChange::Kind::kAdd;
  } else {
    rest.clear();
  }
  if (rest.starts_with("-c ") || rest.starts_with("-o ") || rest.starts_with("-i ")) {
    change.option = rest[1];
    rest.erase(0, 3);
  } else if (!of_channel) {
    rest.clear();
  }
  if (rest.empty() || of_channel != (change.option == 'c')) {
    return reply(asker, error_answer(of_channel ? "write channel add METHOD:ADDRESS:PORT[:NAME] or "
                                                  "channel remove NAME"
                                                : "write forward add -o SERVICE:ADDRESS:PORT"
                                                  "[:CHANNEL], or remove, or -i",
                                     asker.json));
  }
  change.arg = std::move(rest);
  make(asker, change);
}

void Control::make(const Asker& asker, const ChannelChange& change) {
  actions_.make(change, [asker](const ChannelChange::Result& result) {
    reply(asker,
          result ? note_answer(*result, asker.json) : error_answer(result.error(), asker.json));
  });
}

void Control::answer_config(const Asker& asker) {
  std::string text = print_config(options_);
  // An answer ends with the first empty line.
  for (size_t at = 0; (at = text.find("\n\n", at)) != std::string::npos;) text.erase(at, 1);
  if (!asker.json) return reply(asker, text + "\n");
  reply(asker, verbatim_answer("config", text));
}

void Control::answer_log_level(const Asker& asker, std::string_view level) {
  if (!level.empty()) {
    const auto wanted = parse_log_level(level);
    if (!wanted) {
      const auto text = fmt::format("there is no level {}; there are error, warn, info, debug and trace",
                                    in_quotes(level));
      return reply(asker, error_answer(text, asker.json));
    }
    set_log_level(*wanted);
    log_answer("control: the log level is {}", log_level_name(*wanted));
  }
  const ControlTable table{.columns = {{"log_level"}},
                           .rows = {{std::string(log_level_name(log_level()))}}};
  reply(asker, table, TableShape::kRecord);
}

}  // namespace virtproxy
