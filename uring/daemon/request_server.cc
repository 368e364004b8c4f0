#include "uring/daemon/request_server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "uring/base/log.h"
#include "uring/base/read_append.h"

namespace virtproxy {
namespace {

constexpr size_t kRequestRead = 4096;
// Accepted in one go, so that a flood of clients leaves time for the signals.
constexpr unsigned kAcceptsPerTurn = 8;

}  // namespace

RequestServer::RequestServer(RequestFraming framing, Listening listening, Handler* handler)
    : framing_(framing), listening_(std::move(listening)), handler_(handler) {
  spare_.hold();
}

RequestServer::~RequestServer() {
  for (const Client& client : clients_) close(client.fd);
  listening_.path.remove();
  for (const int fd : listening_.sockets) close(fd);
}

void RequestServer::add_to(std::vector<pollfd>& waits) const {
  for (const int fd : listening_.sockets) {
    if (listens_) waits.push_back({fd, POLLIN, 0});
  }
  for (const Client& client : clients_) {
    // A client whose request is being worked on is looked at only for having gone.
    int16_t events = 0;
    if (client.state == State::kReading) events = POLLIN;
    if (client.state == State::kWriting || client.state == State::kLeaving) events = POLLOUT;
    waits.push_back({client.fd, events, 0});
  }
}

void RequestServer::handle(const std::vector<pollfd>& waits, Instant now) {
  const auto is_ready = [&waits](int fd) {
    return std::any_of(waits.begin(), waits.end(),
                       [fd](const pollfd& wait) { return wait.fd == fd && wait.revents != 0; });
  };
  // Clients first: a descriptor that is accepted below may have the number of one that is dropped.
  for (auto client = clients_.begin(); client != clients_.end();) {
    bool alive = true;
    if (is_ready(client->fd)) {
      client->active_at = now;
      switch (client->state) {
        case State::kReading:
          alive = read_from(*client);
          break;
        case State::kAnswering:
          alive = false;  // it hung up
          break;
        case State::kWriting:
        case State::kLeaving:
          alive = write_to(*client);
          break;
      }
    }
    client = alive ? std::next(client) : drop(client);
  }
  for (const int fd : listening_.sockets) {
    if (is_ready(fd)) accept_clients(fd, now);
  }
  // Without any descriptor, looked at again when something else has happened.
  listens_ = spare_.hold() || !clients_.empty();
}

// Where no descriptor is left for a client, it gets the one in reserve or that of the client that
// has done nothing for longest.
int RequestServer::accept_one(int listener) {
  constexpr int kFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;
  const int fd = accept4(listener, nullptr, nullptr, kFlags);
  if (fd >= 0 || (errno != EMFILE && errno != ENFILE)) return fd;
  if (!spare_.release() && !clients_.empty()) drop(idlest());
  return accept4(listener, nullptr, nullptr, kFlags);
}

void RequestServer::accept_clients(int listener, Instant now) {
  for (unsigned i = 0; i < kAcceptsPerTurn; ++i) {
    // The listener blocks: ask first.
    pollfd wait{listener, POLLIN, 0};
    if (poll(&wait, 1, 0) <= 0) return;
    const int fd = accept_one(listener);
    if (fd < 0) {
      if (errno != EINTR && errno != ECONNABORTED) {
        log_debug("cannot accept a client of the control socket or the metrics: {}",
                  std::strerror(errno));
      }
      return;
    }
    if (clients_.size() >= kMostClients) drop(idlest());
    clients_.push_back({.id = next_id_++, .fd = fd, .active_at = now, .input = {}, .output = {}});
  }
}

bool RequestServer::read_from(Client& client) {
  const ssize_t got = read_append(client.fd, client.input, kRequestRead);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0) return false;
  return next_request(client);
}

std::optional<RequestServer::Ending> RequestServer::ending_of(const std::string& input) const {
  const bool lines = framing_ == RequestFraming::kLines;
  const std::string_view end = lines ? "\n" : "\r\n\r\n";
  const size_t at = input.find(end);
  if (at == std::string::npos || at > kMostRequest) return std::nullopt;
  return Ending{at, at + end.size()};
}

bool RequestServer::next_request(Client& client) {
  const auto ending = ending_of(client.input);
  if (!ending) {
    if (client.input.size() <= kMostRequest) return true;
    client.state = State::kLeaving;
    client.output =
        framing_ == RequestFraming::kLines
            ? "error: a command has at most " + std::to_string(kMostRequest) + " bytes\n\n"
            : "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n";
    client.written = 0;
    return write_to(client);
  }
  std::string request = client.input.substr(0, ending->at);
  client.input.erase(0, ending->next);
  if (request.ends_with('\r')) request.pop_back();
  client.state = State::kAnswering;
  handler_->handle_request(*this, client.id, request);
  return true;
}

void RequestServer::answer(ClientId id, std::string text) {
  const auto client = std::find_if(clients_.begin(), clients_.end(),
                                   [id](const Client& known) { return known.id == id; });
  if (client == clients_.end() || client->state != State::kAnswering) return;
  // It is sent when poll() has found room, by handle(): whoever calls this may be within it.
  client->state = State::kWriting;
  client->output = std::move(text);
  client->written = 0;
}

bool RequestServer::write_to(Client& client) {
  while (client.written < client.output.size()) {
    const ssize_t sent = send(client.fd, client.output.data() + client.written,
                              client.output.size() - client.written, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    client.written += static_cast<size_t>(sent);
  }
  if (client.state == State::kLeaving || framing_ == RequestFraming::kHttp) return false;
  client.output = {};
  client.state = State::kReading;
  return next_request(client);
}

RequestServer::Clients::iterator RequestServer::idlest() {
  return std::min_element(clients_.begin(), clients_.end(), [](const Client& a, const Client& b) {
    return a.active_at < b.active_at;
  });
}

RequestServer::Clients::iterator RequestServer::drop(Clients::iterator client) {
  close(client->fd);
  return clients_.erase(client);
}

}  // namespace virtproxy
