#include "uring/mux/observer.h"

#include <array>

#include "core/assert.h"
#include "uring/net/peer_identity.h"

namespace virtproxy {
namespace {

constexpr std::array<RefusalRow, kRefusalReasons> kRefusals{{
    {RefusalReason::kNotAllowed, "not_allowed", "not on the list (--allow-uid, --allow-gid)"},
    {RefusalReason::kChannelDown, "channel_down", "the channel is down"},
    {RefusalReason::kNoStream, "no_stream",
     "no more streams (--max-streams here or there, or going away)"},
    {RefusalReason::kNoAnswer, "no_answer", "the other end has sent nothing"},
    {RefusalReason::kUnsettled, "unsettled", "the other end keeps changing what it speaks"},
}};

constexpr std::array<std::string_view, kStallReasons> kStalls{
    "connecting", "memory", "credit", "application", "channel", "descriptors"};

}  // namespace

const RefusalRow& refusal_row(RefusalReason reason) {
  const RefusalRow& row = kRefusals[static_cast<size_t>(reason)];
  VP_ASSERT(row.reason == reason);
  return row;
}

std::string reset_text(size_t streams) {
  if (streams == 0) return {};
  if (streams == 1) return "; 1 stream is reset";
  return "; " + std::to_string(streams) + " streams are reset";
}

std::string refusal_text(RefusalReason reason, std::string_view client) {
  std::string text(refusal_row(reason).text);
  if (client.empty()) return text;
  const std::string who(client);
  return reason == RefusalReason::kNotAllowed ? who + " is " + text : text + ": " + who;
}

std::string refusal_subject(const ClientRefused& event) {
  std::string subject(refusal_row(event.reason).name);
  subject.append(":").append(event.service);
  if (event.reason == RefusalReason::kNotAllowed) {
    subject.append(":").append(describe_party(peer_identity_of(event.fd)));
  }
  return subject;
}

std::string_view stall_name(StallReason reason) { return kStalls[static_cast<size_t>(reason)]; }

}  // namespace virtproxy
