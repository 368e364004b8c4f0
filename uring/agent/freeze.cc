// Freezing the file systems of the guest. From the first one that may be frozen to the last one
// that may still be, this process touches no file: it would wait for its own thaw.
#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "uring/agent/agent.h"

namespace virtproxy::agent {
namespace {

constexpr Duration kFreezeTime = std::chrono::seconds(30);
constexpr Duration kThawTime = std::chrono::seconds(30);

}  // namespace

Agent::Reply Agent::start_freeze(Link& link, uint64_t token) {
  switch (guard_.file_systems) {
    case FileSystems::kUsable:
      break;
    case FileSystems::kFreezing:
    case FileSystems::kFrozen:
      return tl::unexpected(error_of(ErrorCode::kFrozen, "the file systems are frozen already"));
    case FileSystems::kThawing:
      // A second process would not see those as its own that the first one has frozen.
      return tl::unexpected(
          error_of(ErrorCode::kBusy, "the file systems are being thawed: try again later"));
  }
  if (stop_at_) return tl::unexpected(error_of(ErrorCode::kShuttingDown, "the agent stops"));
  // What comes of a file would be written, and its temporary file removed if it is cut off.
  if (std::any_of(links_.begin(), links_.end(),
                  [](const auto& each) { return each->upload.has_value(); })) {
    return tl::unexpected(
        error_of(ErrorCode::kBusy, "va-put receives a file: freeze once it has ended"));
  }
  auto child = freezer_.freeze(std::chrono::seconds(options_.rules.max_freeze));
  if (!child) return tl::unexpected(child.error());
  guard_.file_systems = FileSystems::kFreezing;
  set_log_file(LogFile::kHeld);
  start_job(link, token, JobKind::kFreeze, std::move(child), kFreezeTime);
  return std::nullopt;
}

// Of the freeze that made the state kFreezing, which lasts until then.
Result Agent::finish_freeze(const Child& child) {
  Result result = child.result();
  if (result && !freezer_.holds()) {
    result =
        tl::unexpected(io_error("ECHILD", "the process that holds file systems frozen has ended"));
  }
  if (!result) {
    begin_thaw("they could not be frozen");
    // If its process has ended, the caller may try again at once.
    watch_freezer();
    return result;
  }
  guard_.file_systems = FileSystems::kFrozen;
  frozen_count_ = result->is_number_integer() ? result->get<int64_t>() : 0;
  thaw_at_ = now_ + std::chrono::seconds(options_.rules.max_freeze);
  emit("va-frozen", {{"file-systems", *frozen_count_}});
  return result;
}

Agent::Reply Agent::start_thaw(Link& link, uint64_t token) {
  if (usable()) return Result(Json(0));
  thaw("the host asked for it");
  thaw_calls_.push_back({link.id, token, now_ + kThawTime});
  return std::nullopt;
}

void Agent::begin_thaw(const char* why) {
  guard_.file_systems = FileSystems::kThawing;
  thaw_reason_ = why;
  freezer_.let_go();
}

void Agent::thaw(const char* why) {
  if (usable() || guard_.file_systems == FileSystems::kThawing) return;
  begin_thaw(why);
  // A freeze that is under way has failed. Its caller is told now: when its process ends, a later
  // freeze may have begun.
  for (Job& job : jobs_) {
    Link* const link = job.kind == JobKind::kFreeze ? find(job.link) : nullptr;
    if (link == nullptr) continue;
    const uint64_t token = std::exchange(job.token, 0);
    job.link = 0;
    job.child.kill();
    answer(*link, token, tl::unexpected(errno_error("they are thawed again", ECANCELED)));
  }
}

void Agent::watch_freezer() {
  // A process that ends while it freezes also ends its job, which has the reason.
  if (usable() || guard_.file_systems == FileSystems::kFreezing || freezer_.holds()) return;
  if (guard_.file_systems == FileSystems::kFrozen) thaw_reason_ = kFrozenLongEnough;
  guard_.file_systems = FileSystems::kUsable;
  freezer_ = Freezer();
  unclosed_.clear();
  set_log_file(LogFile::kWritten);
  const int64_t count = frozen_count_.value_or(0);
  if (frozen_count_) {
    log_info("file systems are thawed: {}", thaw_reason_);
    emit("va-thawed", {{"file-systems", count}});
    frozen_count_.reset();
  }
  for (const ThawCall& call : std::exchange(thaw_calls_, {})) {
    if (Link* const link = find(call.link)) answer(*link, call.token, Json(count));
  }
}

void Agent::expire_thaw_calls() {
  // Taken out first: to answer a caller may end its link, and with it its other calls.
  const auto late = std::partition(thaw_calls_.begin(), thaw_calls_.end(),
                                   [&](const ThawCall& call) { return now_ < call.deadline; });
  const std::vector<ThawCall> over(late, thaw_calls_.end());
  thaw_calls_.erase(late, thaw_calls_.end());
  for (const ThawCall& call : over) {
    Link* const link = find(call.link);
    if (link == nullptr) continue;
    answer(
        *link, call.token,
        tl::unexpected(error_of(ErrorCode::kTimeout, "the file systems are being thawed still")));
  }
}

// The last close of a file that has lost its name removes it from the disk, which waits while that
// is frozen. Nothing is opened meanwhile, so no more files wait here than connections may have
// open.
void Agent::close_file(UniqueFd file) {
  if (!usable()) unclosed_.push_back(std::move(file));
}

void Agent::close_files(Link& link) {
  for (UniqueFd& file : link.files.release()) close_file(std::move(file));
  if (link.download) close_file(std::move(link.download->fd));
  link.download.reset();
}

}  // namespace virtproxy::agent
