// The agent's requests and answers: what its conversations report, and what becomes of it.
#include <sys/wait.h>

#include <algorithm>

#include "uring/agent/agent.h"
#include "uring/agent/guest_info.h"

namespace virtproxy::agent {
namespace {

constexpr size_t kMostHookOutput = 64 * 1024;
// How long a call that is passed on may wait for its turn.
constexpr Duration kMostWaiting = std::chrono::seconds(60);

// An end that restarts is back within this, and calls that were made meanwhile wait for it.
constexpr Duration kRestart = std::chrono::seconds(2);
// What is known of a port that has no other end is as old as a look at it, 250 ms. A call is not
// refused before the next one.
constexpr Duration kNextLook = std::chrono::milliseconds(500);

// How long the other end of a port is given: somewhat more than it gives the method.
Duration patience_for(std::string_view method) {
  if (method == "va-hook" || method == "guest-fsfreeze-freeze" || method == "guest-fsfreeze-thaw") {
    return std::chrono::seconds(35);
  }
  if (method == "guest-fstrim") return std::chrono::seconds(305);
  return kCallTimeout;
}

// Of what a peer chose, for the log: one printable word.
std::string word(std::string_view text, size_t most = 128) {
  std::string quoted =
      Json(std::string(cut_utf8(text, most))).dump(-1, ' ', true, Json::error_handler_t::replace);
  const bool plain = quoted.size() == text.size() + 2 && text.find(' ') == std::string_view::npos;
  return plain && !text.empty() ? std::string(text) : quoted;
}

// What a call is about, of its arguments.
std::string detail_of(const Json& arguments) {
  for (const char* key : {"path", "name", "key", "event", "mode", "handle"}) {
    const auto found = arguments.find(key);
    if (found == arguments.end()) continue;
    if (found->is_string())
      return std::string(" ") + key + "=" + word(found->get_ref<const std::string&>());
    if (found->is_number_integer()) return std::string(" ") + key + "=" + to_text(*found);
  }
  return "";
}

}  // namespace

void Agent::act(Link& link) {
  for (auto notices = link.conversation.take_notices(); !notices.empty();
       notices = link.conversation.take_notices()) {
    for (Notice& notice : notices) {
      switch (notice.kind) {
        case Notice::Kind::kRequest:
          on_request(link, std::move(notice));
          break;
        case Notice::Kind::kAbandoned:
          abandon(link, notice.token);
          break;
        case Notice::Kind::kAnswered:
          end_forward(notice.token, std::move(notice.body));
          break;
        case Notice::Kind::kFailed:
          end_forward(notice.token, tl::unexpected(std::move(notice.error)));
          break;
        case Notice::Kind::kEvent:
          on_event(link, notice);
          break;
        case Notice::Kind::kGreeted:
          if (notice.body.is_object()) {
            const auto version = notice.body.find("version");
            const auto methods = notice.body.find("methods");
            log_info("{}: the other end is virtagent {}, {} methods", link.who,
                     version == notice.body.end() || !version->is_string()
                         ? "?"
                         : word(version->get_ref<const std::string&>(), 32),
                     methods == notice.body.end() ? 0 : methods->size());
          } else {
            log_info("{}: the other end answers, and is no virtagent", link.who);
          }
          break;
        case Notice::Kind::kUngreeted:
          if (link.fd && options_.role == Role::kHost) link.conversation.greet(now_);
          break;
        case Notice::Kind::kBadLine:
          if (const auto hidden = bad_lines_.allow(now_)) {
            log_warn("{}: a line was refused: {}{}", link.who, notice.error.text,
                     and_others(*hidden));
          }
          break;
      }
    }
  }
}

void Agent::on_event(Link& link, const Notice& notice) {
  if (link.source != Source::kPort || options_.role != Role::kHost) return;
  const std::string data = to_text(notice.body);
  if (data.size() > 4096) return;
  // A new process there knows nothing of an earlier va-hello.
  if (notice.name == "va-started") link.conversation.greet(now_);
  if (!notify_rate_.take(now_)) return;
  log_info("{}: event {} {}", link.who, word(notice.name), word(data, 512));
  emit(notice.name, notice.body);
}

void Agent::on_request(Link& link, Notice notice) {
  if (link.after == Link::After::kClose) return;
  const std::string method = notice.name;
  // A program of this machine wants the other end's methods, unless it is one of ours.
  const bool ours = find_method(options_.role, method) != nullptr;
  // Not forwarded: until the answer came, its caller could be heard again.
  if (link.source == Source::kLocal && method == "va-put") {
    link.calls[notice.token] = {method, detail_of(notice.body)};
    answer(link, notice.token,
           tl::unexpected(error_of(ErrorCode::kUnsupported,
                                   "va-put is served on the socket of a stream alone")));
    return;
  }
  if (link.source == Source::kLocal && !ours && port_link() != nullptr) {
    link.calls[notice.token] = {method, detail_of(notice.body) + " forwarded"};
    forwards_.push_back(
        {link.id, notice.token, method, std::move(notice.body), now_, now_ + kMostWaiting});
    forward_next();
    return;
  }
  link.calls[notice.token] = {method, detail_of(notice.body)};
  const auto row = guard_.check(method, notice.body, link.source);
  if (!row) return answer(link, notice.token, tl::unexpected(row.error()));
  Reply reply;
  if (method == "va-hello") {
    link.conversation.peer_greeted(now_);
    reply = hello_of(guard_, VIRTPROXY_VERSION, link.source);
    // The host has said hello, and is told what there is here.
    if (options_.role == Role::kGuest && link.port) link.conversation.greet(now_);
  } else if (method == "va-events") {
    link.subscribed = true;
    reply = Json::object();
  } else if (method == "guest-ping" || method == "host-ping") {
    reply = Json::object();
  } else if (method == "guest-info" || method == "va-capabilities" ||
             method == "host-capabilities") {
    reply = capabilities(guard_, VIRTPROXY_VERSION, link.source);
  } else if (options_.role == Role::kGuest) {
    reply = serve_guest(link, notice.token, method, notice.body);
  } else {
    reply = serve_host(link, method, notice.body);
  }
  if (reply) answer(link, notice.token, *reply);
}

void Agent::answer(Link& link, uint64_t token, const Result& result) {
  const auto call = link.calls.find(token);
  if (call != link.calls.end()) {
    log_call(link, call->second, result);
    // What a caller sends behind it is a file, also where that is refused and the caller has not
    // waited for va-continue: nothing in it is a request.
    if (call->second.method == "va-put" && !link.port) link.after = Link::After::kClose;
    link.calls.erase(call);
  }
  link.conversation.answer(token, result, now_);
}

void Agent::log_call(const Link& link, const OpenCall& call, const Result& result) {
  const auto hidden = call_lines_.allow(now_);
  if (!hidden) return;
  // The code of a forwarded call's error is the other end's text.
  std::string outcome = result ? "ok" : word(error_code_text(result.error()));
  if (result && result->is_object() && result->contains("count")) {
    outcome += " bytes=" + to_text((*result)["count"]);
  }
  log_info("call {} {}{}: {}{}", link.who, word(call.method), call.detail, outcome,
           and_others(*hidden));
}

void Agent::abandon(Link& link, uint64_t token) {
  const auto call = link.calls.find(token);
  if (call != link.calls.end()) {
    if (link.fd) {
      log_call(link, call->second,
               tl::unexpected(error_of(ErrorCode::kTimeout, "the caller gave it up")));
    }
    link.calls.erase(call);
  }
  for (Job& job : jobs_) {
    if (job.link != link.id || job.token != token) continue;
    job.link = job.token = 0;
    // File systems that nobody knows to be frozen must not stay so.
    if (job.kind == JobKind::kFreeze) thaw("the caller gave the freeze up");
    if (job.kind != JobKind::kShutdown) job.child.kill();
  }
  std::erase_if(thaw_calls_,
                [&](const ThawCall& each) { return each.link == link.id && each.token == token; });
  for (size_t i = 0; i < forwards_.size(); ++i) {
    Forward& forward = forwards_[i];
    if (forward.link != link.id || forward.token != token) continue;
    const uint64_t made = forward.call;
    forwards_.erase(forwards_.begin() + static_cast<ptrdiff_t>(i));
    for (const auto& each : links_) {
      if (made != 0 && each->port) each->conversation.cancel(made, now_);
    }
    break;
  }
}

// --- calls to the other end -------------------------------------------------------------------

// The port that calls go out on; nothing where there is none.
Link* Agent::port_link() const {
  const auto port = std::find_if(links_.begin(), links_.end(),
                                 [](const auto& each) { return each->port.has_value(); });
  return port == links_.end() ? nullptr : port->get();
}

// When a call is refused, since its port has no other end. Nothing while there may be one.
std::optional<Instant> Agent::unreachable_at(const Forward& forward) const {
  const Link* const port = port_link();
  if (port == nullptr || !port->alone_since) return std::nullopt;
  return std::max(*port->alone_since + kRestart, forward.made_at + kNextLook);
}

// None of them has been sent: what was in flight has failed with the connection.
void Agent::refuse_unreachable() {
  for (size_t i = 0; i < forwards_.size(); ++i) {
    const auto at = unreachable_at(forwards_[i]);
    if (!at || *at > now_) continue;
    const Forward refused = std::move(forwards_[i]);
    forwards_.erase(forwards_.begin() + static_cast<ptrdiff_t>(i--));
    Link& port = *port_link();
    if (refused.call != 0) port.conversation.cancel(refused.call, now_);
    Link* const link = find(refused.link);
    if (link == nullptr) continue;
    const std::string other = options_.role == Role::kGuest ? "host" : "guest";
    answer(*link, refused.token,
           tl::unexpected(
               io_error("ENOTCONN", "no " + other + " is connected to " + port.port->to_string())));
  }
}

void Agent::forward_next() {
  refuse_unreachable();
  for (size_t i = 0; i < forwards_.size(); ++i) {
    if (forwards_[i].deadline > now_ || forwards_[i].call != 0) continue;
    const Forward late = std::move(forwards_[i]);
    forwards_.erase(forwards_.begin() + static_cast<ptrdiff_t>(i--));
    if (Link* const link = find(late.link)) {
      answer(*link, late.token,
             tl::unexpected(error_of(ErrorCode::kTimeout, "calls before it took too long")));
    }
  }
  Link* const port = port_link();
  if (port == nullptr || port->conversation.calling()) return;
  const auto next = std::find_if(forwards_.begin(), forwards_.end(),
                                 [](const Forward& each) { return each.call == 0; });
  if (next == forwards_.end()) return;
  const auto call =
      port->conversation.call(next->method, next->arguments, patience_for(next->method), now_);
  if (call) {
    next->call = *call;
    return;
  }
  const Forward refused = std::move(*next);
  forwards_.erase(next);
  if (Link* const link = find(refused.link))
    answer(*link, refused.token, tl::unexpected(call.error()));
}

void Agent::end_forward(uint64_t call, const Result& result) {
  const auto found = std::find_if(forwards_.begin(), forwards_.end(),
                                  [&](const Forward& each) { return each.call == call; });
  if (found == forwards_.end()) return;
  const Forward done = std::move(*found);
  forwards_.erase(found);
  if (Link* const link = find(done.link)) answer(*link, done.token, result);
}

// --- children ---------------------------------------------------------------------------------

void Agent::start_job(Link& link, uint64_t token, JobKind kind, tl::expected<Child, Error> child,
                      Duration limit) {
  if (!child) {
    if (kind == JobKind::kShutdown) shutdown_failed(child.error().text);
    return answer(link, token, tl::unexpected(child.error()));
  }
  if (kind == JobKind::kHook) child->most = kMostHookOutput;
  jobs_.push_back({link.id, token, kind, std::move(*child), now_ + limit});
}

void Agent::finish_job(Job& job, int status) {
  Link* const link = find(job.link);
  Result result = Json::object();
  switch (job.kind) {
    case JobKind::kMethod:
      result = job.child.result();
      break;
    case JobKind::kFreeze:
      // Without a caller it was given up, and another freeze may have begun since.
      if (link != nullptr) result = finish_freeze(job.child);
      break;
    case JobKind::kHook:
      result = Json{{"exitcode", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)},
                    {"out", job.child.text},
                    {"truncated", job.child.truncated}};
      break;
    case JobKind::kShutdown:
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
      shutdown_failed(fmt::format("{} {}: {}", WIFEXITED(status) ? "status" : "signal",
                                  WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
                                  word(job.child.text, 512)));
      result = tl::unexpected(
          error_of(ErrorCode::kUnsupported,
                   "/sbin/shutdown failed: " + std::string(cut_utf8(job.child.text, 512))));
      break;
  }
  if (link != nullptr) answer(*link, job.token, result);
}

// The next request for a shutdown tries it again.
void Agent::shutdown_failed(const std::string& why) {
  shutting_down_ = false;
  log_error("/sbin/shutdown failed: {}", why);
}

void Agent::emit(std::string_view event, const Json& data) {
  const std::string text = encode_event(event, data, wall_time());
  if (text.size() > kMaxEvent) return;
  for (const auto& link : links_) {
    // A host tells only programs of its own; a guest tells whoever listens.
    const bool told = link->subscribed || (link->port && options_.role == Role::kGuest);
    if (link->fd && told) link->conversation.post_event(text, now_);
  }
}

}  // namespace virtproxy::agent
