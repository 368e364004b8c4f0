#include "uring/daemon/control.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "uring/base/clock.h"
#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/base/units.h"
#include "uring/daemon/channel_parts.h"
#include "uring/daemon/difference.h"
#include "uring/daemon/event_table.h"
#include "uring/daemon/stream_tables.h"

namespace virtproxy {
namespace {

constexpr std::string_view kHelp =
    "status               the process\n"
    "channels             one line a channel\n"
    "forwards             one line a -o or -i, with counts and bytes\n"
    "streams [CHANNEL]    one line a stream; --sort age, sent, received or waiting; --limit N\n"
    "why [CHANNEL|STREAM] the streams that wait, what each waits for, and for how long\n"
    "far WHAT [CHANNEL]   status, streams or why of the other end, if it has share-stats = true\n"
    "kill STREAM          reset a stream, as streams names it\n"
    "channel add ARG      as -c on the command line; channel remove NAME\n"
    "forward add -o ARG   as on the command line, or -i; forward remove the same\n"
    "reload               read the files of --config again\n"
    "config               the configuration in effect\n"
    "reset CHANNEL        drop the connection of a channel, with its streams\n"
    "events [CHANNEL]     the last events; --after N: those behind number N alone\n"
    "logs [CHANNEL]       sources and sinks of log lines: received, delivered, dropped, waiting\n"
    "metrics              the text of the metrics listener\n"
    "log-level [LEVEL]    the level, or a new one: error, warn, info, debug, trace\n"
    "drain [CHANNEL]      end as SIGTERM does, or one channel: open streams may finish\n"
    "stop                 the same without waiting for open streams\n"
    "With --json behind a command the answer is JSON.\n\n";

uint64_t milliseconds(Duration duration) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

constexpr size_t kMostStreamRows = 65536;
// That wait, also for clients that have gone.
constexpr size_t kMostLists = 2 * RequestServer::kMostClients + Control::kMostFarQuestions;

}  // namespace

Control::Control(const Options& options, std::vector<std::unique_ptr<Worker>>& workers,
                 const EventRing& events, Actions actions)
    : options_(options),
      workers_(workers),
      events_(events),
      actions_(std::move(actions)),
      started_(monotonic_now()),
      mailbox_(std::make_shared<Mailbox>()) {}

void Control::serve_commands(Listening listening) {
  Handler* const handler = this;
  commands_ =
      std::make_unique<RequestServer>(RequestFraming::kLines, std::move(listening), handler);
}

void Control::serve_metrics(Listening listening) {
  Handler* const handler = this;
  metrics_ = std::make_unique<RequestServer>(RequestFraming::kHttp, std::move(listening), handler);
}

void Control::add_to(std::vector<pollfd>& waits) const {
  waits.push_back({mailbox_->fd(), POLLIN, 0});
  if (commands_) commands_->add_to(waits);
  if (metrics_) metrics_->add_to(waits);
}

void Control::handle(const std::vector<pollfd>& waits) {
  const auto mail = std::find_if(waits.begin(), waits.end(), [this](const pollfd& wait) {
    return wait.fd == mailbox_->fd() && wait.revents != 0;
  });
  if (mail != waits.end()) {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t taken = read(mailbox_->fd(), &count, sizeof count);
    mailbox_->run();
  }
  const Instant now = monotonic_now();
  if (commands_) commands_->handle(waits, now);
  if (metrics_) metrics_->handle(waits, now);
}

void Control::handle_request(RequestServer& server, RequestServer::ClientId client,
                             std::string_view request) {
  Asker asker{&server, client};
  if (&server == metrics_.get()) return handle_http(asker, request);
  std::vector<std::string_view> words = split_words(request);
  asker.json = std::erase(words, "--json") > 0;
  if (words.empty()) return reply(asker, error_answer("no command; try help", asker.json));
  const std::string_view command = words.front();
  words.erase(words.begin());
  if (command == "far") return answer_far(asker, words);
  if (command == "channel" || command == "forward") {
    std::string arguments;
    for (const std::string_view word : words) {
      arguments += (arguments.empty() ? "" : " ") + std::string(word);
    }
    return change_channels(asker, command, arguments);
  }
  if (const auto arguments = read_arguments(asker, command, words)) {
    handle_command(asker, command, *arguments);
  }
}

std::optional<Control::Arguments> Control::read_arguments(
    const Asker& asker, std::string_view command, const std::vector<std::string_view>& words) {
  constexpr std::string_view kWithWord[] = {"log-level", "streams", "why",    "kill",
                                            "reset",     "drain",   "events", "logs"};
  const bool takes_word =
      std::find(std::begin(kWithWord), std::end(kWithWord), command) != std::end(kWithWord);
  Arguments arguments;
  for (size_t i = 0; i < words.size(); ++i) {
    std::string* value = nullptr;
    if (command == "streams" && words[i] == "--sort") value = &arguments.sort;
    if (command == "streams" && words[i] == "--limit") value = &arguments.limit;
    if (command == "events" && words[i] == "--after") value = &arguments.after;
    if (value != nullptr && i + 1 < words.size()) {
      *value = words[++i];
    } else if (value == nullptr && takes_word && arguments.word.empty()) {
      arguments.word = words[i];
    } else {
      const auto text =
          value != nullptr
              ? fmt::format("{}: a value is missing behind {}", command, words[i])
              : fmt::format("{}: what is {}? Try help", printable(command), in_quotes(words[i]));
      reply(asker, error_answer(text, asker.json));
      return std::nullopt;
    }
  }
  return arguments;
}

void Control::handle_command(const Asker& asker, std::string_view command,
                             const Arguments& arguments) {
  if (command == "status") return answer_status(asker);
  if (command == "channels") return answer_channels(asker);
  if (command == "forwards") return answer_forwards(asker);
  if (command == "streams") return answer_streams(asker, arguments);
  if (command == "logs") return answer_logs(asker, arguments.word);
  if (command == "why") return answer_why(asker, arguments.word);
  if (command == "events") return answer_events(asker, arguments);
  if (command == "kill") return kill(asker, arguments.word);
  if (command == "log-level") return answer_log_level(asker, arguments.word);
  if (command == "help") return reply(asker, std::string(kHelp));
  if (command == "metrics") {
    return collect_metrics(MetricsFormat::kPrometheus,
                           [asker](const std::string& text) { reply(asker, text + "\n"); });
  }
  if (command == "reload") return make(asker, {});
  if (command == "config") return answer_config(asker);
  if (command == "reset") return reset_channel(asker, arguments.word);
  if (command == "drain" && !arguments.word.empty()) {
    return make(asker, {ChannelChange::Kind::kRemove, 'c', arguments.word});
  }
  if (command == "drain") {
    actions_.drain();
    return reply(asker, note_answer("draining: open streams may finish", asker.json));
  }
  if (command == "stop") {
    actions_.stop();
    return reply(asker, note_answer("stopping: open streams are reset", asker.json));
  }
  reply(asker,
        error_answer("there is no command " + in_quotes(command) + "; try help", asker.json));
}

void Control::answer_status(const Asker& asker) {
  ask_workers<std::vector<ChannelPart>>(
      collect_channels, [this, asker](const std::vector<std::vector<ChannelPart>>& parts) {
        uint64_t up = 0;
        uint64_t streams = 0;
        uint64_t held = 0;
        for (const auto& part : parts) {
          for (const ChannelPart& channel : part) {
            up += channel.words.total("up");
            streams += channel.words.total("streams");
            held += channel.words.total("send_bytes") + channel.words.total("held_bytes");
          }
        }
        const ProcessFacts facts = actions_.facts();
        const ControlTable table{
            .columns = {{"version"},
                        {"pid"},
                        {"state"},
                        {"uptime", ColumnUnit::kSeconds},
                        {"threads"},
                        {"driver"},
                        {"sandbox"},
                        {"channels"},
                        {"channels_up"},
                        {"streams"},
                        {"buffered", ColumnUnit::kBytes},
                        {"memory_limit", ColumnUnit::kBytes},
                        {"descriptors"},
                        {"log_level"},
                        {"log_lines_dropped"}},
            .rows = {{std::string(VIRTPROXY_VERSION), uint64_t(getpid()), facts.state,
                      milliseconds(monotonic_now() - started_), uint64_t{workers_.size()},
                      facts.driver, facts.sandbox, uint64_t{options_.channels.size()}, up, streams,
                      held, options_.memory, uint64_t{facts.descriptors},
                      std::string(log_level_name(log_level())), facts.log_lines_dropped}}};
        reply(asker, table, TableShape::kRecord);
      });
}

void Control::answer_channels(const Asker& asker) {
  ask_workers<std::vector<ChannelPart>>(
      collect_channels, [this, asker](const std::vector<std::vector<ChannelPart>>& parts) {
        ControlTable table{.columns = {{"channel"},
                                       {"state"},
                                       {"protocol"},
                                       {"sessions"},
                                       {"streams"},
                                       {"sent", ColumnUnit::kBytes},
                                       {"received", ColumnUnit::kBytes},
                                       {"in_flight", ColumnUnit::kBytes},
                                       {"transport"}},
                           .rows = {}};
        for (const ChannelSpec& spec : options_.channels) {
          const StatWords& words = words_of_channel(parts, spec.name);
          const uint64_t protocol = words.total("protocol");
          table.rows.push_back({spec.name, std::string(words.total("up") > 0 ? "up" : "down"),
                                protocol > 0 ? ControlCell(protocol) : ControlCell(),
                                words.total("sessions"), words.total("streams"),
                                words.total("sent_bytes"), words.total("received_bytes"),
                                words.total("in_flight"), spec.text});
        }
        reply(asker, table, TableShape::kRows);
      });
}

void Control::answer_forwards(const Asker& asker) {
  ask_workers<std::vector<ChannelPart>>(
      collect_channels, [this, asker](const std::vector<std::vector<ChannelPart>>& parts) {
        ControlTable table{.columns = {{"channel"},
                                       {"service"},
                                       {"role"},
                                       {"opened"},
                                       {"sent", ColumnUnit::kBytes},
                                       {"received", ColumnUnit::kBytes},
                                       {"failed"},
                                       {"address"}},
                           .rows = {}};
        const auto add = [&](const ForwardSpec& forward, std::string role,
                             const std::string& failed) {
          const StatWords& words = words_of_channel(parts, forward.channel);
          const std::string& service = forward.service;
          table.rows.push_back({forward.channel, service, role, words.of(service, "opened"),
                                words.of(service, "sent_bytes"),
                                words.of(service, "received_bytes"), words.of(service, failed),
                                forward.address.to_string()});
        };
        for (const ForwardSpec& forward : options_.oforwards) add(forward, "listen", "refused");
        for (const ForwardSpec& forward : options_.iforwards) {
          add(forward, "offer", "connect_failures");
        }
        reply(asker, table, TableShape::kRows);
      });
}

void Control::list_streams(const Asker& asker, StreamQuery query, StreamList::Finish finish) {
  if (lists_.size() >= kMostLists) {
    return reply(asker, error_answer("others wait for lists: try again", asker.json));
  }
  want_list({std::move(query), std::move(finish)});
}

void Control::want_list(WantedList list) {
  lists_.push_back(std::move(list));
  if (lists_.size() == 1) begin_list();
}

void Control::begin_list() {
  StreamList::make(workers_, mailbox_, lists_.front().query, [this](StreamRows rows) {
    const StreamList::Finish finish = std::move(lists_.front().finish);
    lists_.pop_front();
    if (!lists_.empty()) begin_list();
    finish(std::move(rows));
  });
}

bool Control::refuse_unknown_channel(const Asker& asker, std::string_view name) const {
  if (name.empty() || find_channel(options_, name) != nullptr) return false;
  std::string text = unknown_channel(options_, name);
  if (const size_t slash = name.rfind('/'); slash != name.npos) {
    if (find_channel(options_, name.substr(0, slash)) != nullptr) {
      text = fmt::format("there is no stream {}; the command streams shows their names",
                         in_quotes(name));
    }
  }
  reply(asker, error_answer(text, asker.json));
  return true;
}

void Control::answer_streams(const Asker& asker, const Arguments& arguments) {
  StreamQuery query{
      .channel = arguments.word, .key = std::nullopt, .limit = StreamQuery::kUsualLimit};
  if (refuse_unknown_channel(asker, query.channel)) return;
  if (!arguments.sort.empty()) {
    const auto order = parse_stream_order(arguments.sort);
    if (!order) {
      const auto text =
          fmt::format("--sort {}: use age, sent, received or waiting", in_quotes(arguments.sort));
      return reply(asker, error_answer(text, asker.json));
    }
    query.order = *order;
  }
  if (!arguments.limit.empty()) {
    const auto limit = parse_number<size_t>(arguments.limit);
    if (!limit || *limit == 0 || *limit > kMostStreamRows) {
      const auto text =
          fmt::format("--limit {}: use 1 to {}", in_quotes(arguments.limit), kMostStreamRows);
      return reply(asker, error_answer(text, asker.json));
    }
    query.limit = *limit;
  }
  list_streams(asker, query, [asker](const StreamRows& found) {
    const ControlTable table = streams_table(found);
    std::string text = shown(asker, table, TableShape::kRows);
    if (!asker.json && found.matching > found.rows.size()) {
      text.insert(text.size() - 1, fmt::format("({} of {} streams; --limit N for more)\n",
                                               found.rows.size(), found.matching));
    }
    reply(asker, std::move(text));
  });
}

void Control::answer_why(const Asker& asker, const std::string& of) {
  StreamQuery query{.channel = of,
                    .key = std::nullopt,
                    .only_waiting = true,
                    .order = StreamOrder::kWaiting,
                    .limit = StreamQuery::kUsualLimit};
  if (const auto name = parse_stream_name(of)) {
    query.channel = name->channel;
    query.key = name->key;
    query.only_waiting = false;  // To tell one that does not wait from one that is not there.
  }
  if (refuse_unknown_channel(asker, query.channel)) return;
  list_streams(asker, query, [this, asker, query, of](StreamRows found) {
    if (query.key && found.rows.empty()) {
      return reply(asker, error_answer("there is no stream " + of, asker.json));
    }
    std::erase_if(found.rows, [](const StreamRow& row) { return !row.waits_for; });
    if (query.key && found.rows.empty() && !asker.json) {
      return reply(asker, "stream " + of + " does not wait\n\n");
    }
    ControlTable table = why_table(found);
    collect_log_rows([asker, query, table](const LogRows& logs) mutable {
      if (!query.key) add_waiting_logs(logs, query.channel, table);
      if (table.rows.empty() && !asker.json) return reply(asker, "no stream waits\n\n");
      reply(asker, table, TableShape::kRows);
    });
  });
}

void Control::collect_log_rows(std::function<void(const LogRows&)> finish) {
  ask_workers<LogRows>(
      [](Worker::Channels channels, Instant) {
        LogRows rows;
        for (const auto& channel : channels) {
          rows.begin(channel->label());
          channel->visit_stats(rows);
        }
        return rows;
      },
      [this, finish = std::move(finish)](const std::vector<LogRows>& parts) {
        LogRows all;
        for (const LogRows& part : parts) all.add(part);
        all.begin("");
        actions_.visit_stats(all);
        finish(all);
      });
}

void Control::answer_logs(const Asker& asker, const std::string& channel) {
  if (refuse_unknown_channel(asker, channel)) return;
  collect_log_rows([asker, channel](const LogRows& logs) {
    const ControlTable table = logs_table(logs, channel);
    if (table.rows.empty() && !asker.json) {
      return reply(asker, "no lines are shipped or collected here\n\n");
    }
    reply(asker, table, TableShape::kRows);
  });
}

void Control::answer_events(const Asker& asker, const Arguments& arguments) {
  if (refuse_unknown_channel(asker, arguments.word)) return;
  const auto after = parse_number<uint64_t>(arguments.after.empty() ? "0" : arguments.after);
  if (!after) {
    const auto text =
        fmt::format("--after {}: use the number of an event", in_quotes(arguments.after));
    return reply(asker, error_answer(text, asker.json));
  }
  const ControlTable table = events_table(events_.after(*after), arguments.word);
  if (table.rows.empty() && !asker.json) return reply(asker, "no events\n\n");
  reply(asker, table, TableShape::kRows);
}

void Control::kill(const Asker& asker, const std::string& stream) {
  const auto name = parse_stream_name(stream);
  if (!name || find_channel(options_, name->channel) == nullptr) {
    const auto text =
        fmt::format("kill {}: name a stream as the command streams does", in_quotes(stream));
    return reply(asker, error_answer(text, asker.json));
  }
  ask_workers<bool>(
      [name = *name](Worker::Channels channels, Instant) {
        const auto found = std::find_if(channels.begin(), channels.end(), [&](const auto& channel) {
          return channel->label() == name.channel;
        });
        return found != channels.end() && (*found)->reset_stream(name.key);
      },
      [asker, text = to_string(*name), channel = name->channel](const std::vector<bool>& parts) {
        if (std::find(parts.begin(), parts.end(), true) == parts.end()) {
          return reply(asker, error_answer("there is no stream " + text, asker.json));
        }
        log_answer_facts({.channel = channel}, "control: stream {} is reset", text);
        reply(asker, note_answer("stream " + text + " is reset", asker.json));
      });
}

void Control::reset_channel(const Asker& asker, const std::string& name) {
  if (find_channel(options_, name) == nullptr) {
    return reply(asker, error_answer(unknown_channel(options_, name), asker.json));
  }
  ask_workers<bool>(
      [name](Worker::Channels channels, Instant) {
        const auto found = std::find_if(channels.begin(), channels.end(), [&](const auto& channel) {
          return channel->label() == name;
        });
        return found != channels.end() && (*found)->reset_link();
      },
      [asker, name](const std::vector<bool>& parts) {
        if (std::find(parts.begin(), parts.end(), true) == parts.end()) {
          return reply(asker, error_answer("channel " + name + " is not connected", asker.json));
        }
        log_answer_facts({.channel = name}, "control: channel {} is reset", name);
        reply(asker, note_answer("channel " + name + " is reset", asker.json));
      });
}

std::string Control::shown(const Asker& asker, const ControlTable& table, TableShape shape) {
  return asker.json ? to_json(table, shape) : to_text(table, shape);
}

void Control::reply(const Asker& asker, const ControlTable& table, TableShape shape) {
  reply(asker, shown(asker, table, shape));
}

void Control::reply(const Asker& asker, std::string text) {
  asker.server->answer(asker.client, std::move(text));
}

}  // namespace virtproxy
