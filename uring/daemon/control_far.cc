// The command `far`, and what the other ends ask with it (FAR.md).

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "uring/base/clock.h"
#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/daemon/channel_parts.h"
#include "uring/daemon/control.h"
#include "uring/daemon/difference.h"
#include "uring/daemon/far_tables.h"
#include "uring/daemon/far_text.h"

namespace virtproxy {
namespace {

constexpr std::string_view kCommands[] = {"status", "streams", "why"};

// A list of the streams of one channel, as either end makes it for `far`.
StreamQuery far_query(const std::string& channel, std::string_view command) {
  const bool why = command == "why";
  return {.channel = channel,
          .key = std::nullopt,
          .only_waiting = why,
          .order = why ? StreamOrder::kWaiting : StreamOrder::kAge,
          .limit = StreamQuery::kUsualLimit};
}

}  // namespace

void Control::answer_far(const Asker& asker, const std::vector<std::string_view>& words) {
  const auto fail = [&](std::string_view text) { reply(asker, error_answer(text, asker.json)); };
  const std::string command(words.empty() ? "" : words[0]);
  if (std::find(std::begin(kCommands), std::end(kCommands), command) == std::end(kCommands) ||
      words.size() > 2) {
    return fail("write far status [CHANNEL], far streams [CHANNEL] or far why [CHANNEL|STREAM]");
  }
  std::string of(words.size() > 1 ? words[1] : "");
  const auto stream = command == "why" ? parse_stream_name(of) : std::nullopt;
  std::string channel = stream ? stream->channel : of;
  if (of.empty() && options_.channels.size() == 1) channel = options_.channels.front().name;
  if (channel.empty())
    return fail("there are several channels: name the one whose other end is meant");
  if (find_channel(options_, channel) == nullptr) return fail(unknown_channel(options_, channel));
  ask_far(
      channel, command, [this, asker, command, channel, stream](const FarAsker::Answer& answer) {
        if (!answer) return reply(asker, error_answer(answer.error(), asker.json));
        const auto table = FarTable::parse(*answer);
        if (!table) {
          const auto text = fmt::format("the other end of channel {} {}", channel, table.error());
          return reply(asker, error_answer(text, asker.json));
        }
        if (command == "status") return reply(asker, far_status_table(*table), TableShape::kRecord);
        show_both_ends(asker, command, channel, stream, *table);
      });
}

// The streams of this end are looked at once the answer is there, so that both views are of one
// time.
void Control::show_both_ends(const Asker& asker, const std::string& command,
                             const std::string& channel, const std::optional<StreamName>& stream,
                             const FarTable& there) {
  // For `why` all of them: a stream that does not wait here may wait there.
  StreamQuery query = far_query(channel, command);
  query.only_waiting = false;
  list_streams(asker, query, [asker, command, stream, there](const StreamRows& here) {
    if (command == "streams")
      return reply(asker, far_streams_table(here, there), TableShape::kRows);
    ControlTable table = far_why_table(here, there);
    if (stream) {
      const ControlCell name = to_string(*stream);
      std::erase_if(table.rows, [&](const auto& row) { return row.front() != name; });
    }
    if (table.rows.empty() && !asker.json) {
      return reply(asker, "no stream waits at either end\n\n");
    }
    reply(asker, table, TableShape::kRows);
  });
}

// A channel that is about to begin has no worker yet.
void Control::ask_far(const std::string& channel, const std::string& line,
                      std::function<void(FarAsker::Answer)> finish) {
  using Part = std::optional<FarAsker::Answer>;
  gather<Part>(
      mailbox_, workers_.size(),
      [&](size_t i, std::shared_ptr<Answer<Part>> answer) {
        workers_[i]->ask_far(channel, line, [answer = std::move(answer)](Part part) {
          answer->give(std::move(part));
        });
      },
      [channel, finish = std::move(finish)](std::vector<Part> parts) {
        for (Part& part : parts) {
          if (part) return finish(*std::move(part));
        }
        finish(tl::unexpected(fmt::format("channel {} is not there", channel)));
      });
}

// --- what another end asks ----------------------------------------------------------------------

void Control::answer_question(const FarQuestion& question) {
  log_debug("channel {}: the other end asks for {}", question.channel, in_quotes(question.line));
  if (question.line != "status" && question.line != "streams" && question.line != "why") {
    return question.answer(far_refusal("no such question: status, streams and why are known"));
  }
  if (far_questions_ >= kMostFarQuestions) return question.answer(far_refusal("busy: try again"));
  ++far_questions_;
  if (question.line == "status") return tell_status(question);
  const auto tell = [this, answer = question.answer](const StreamRows& found) {
    --far_questions_;
    answer(far_answer(streams_for_far(found)));
  };
  want_list({far_query(question.channel, question.line), tell});
}

// Of its channel alone: the others are no business of this other end, and are not to be counted
// whenever it asks.
void Control::tell_status(const FarQuestion& question) {
  const auto collect = [name = question.channel](Worker::Channels channels, Instant) {
    return collect_channel(channels, name);
  };
  ask_workers<std::vector<ChannelPart>>(
      collect, [this, question](const std::vector<std::vector<ChannelPart>>& parts) {
        --far_questions_;
        const StatWords& words = words_of_channel(parts, question.channel);
        const auto channel =
            std::find_if(options_.channels.begin(), options_.channels.end(),
                         [&](const ChannelOptions& each) { return each.name == question.channel; });
        const ProcessFacts facts = actions_.facts();
        const auto uptime =
            std::chrono::duration_cast<std::chrono::milliseconds>(monotonic_now() - started_);
        question.answer(far_answer(
            {.columns = {{"version"},
                         {"state"},
                         {"uptime"},
                         {"driver"},
                         {"channel"},
                         {"sessions"},
                         {"streams"},
                         {"sent"},
                         {"received"},
                         {"in_flight"},
                         {"buffered"},
                         {"memory_limit"}},
             .rows = {{std::string(VIRTPROXY_VERSION), facts.state,
                       static_cast<uint64_t>(uptime.count()), facts.driver, question.channel,
                       words.total("sessions"), words.total("streams"), words.total("sent_bytes"),
                       words.total("received_bytes"), words.total("in_flight"),
                       words.total("send_bytes") + words.total("held_bytes"),
                       channel == options_.channels.end() ? ControlCell()
                                                          : ControlCell(channel->memory)}}}));
      });
}

}  // namespace virtproxy
