#include "uring/mux/observer.h"

#include <array>

#include "core/assert.h"

namespace virtproxy {
namespace {

constexpr std::array<RefusalRow, kRefusalReasons> kRefusals{{
    {RefusalReason::kNotAllowed, "not_allowed", "not on the list (--allow-…)"},
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

std::string_view stall_name(StallReason reason) { return kStalls[static_cast<size_t>(reason)]; }

}  // namespace virtproxy
