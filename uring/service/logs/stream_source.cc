#include "uring/service/logs/stream_source.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace virtproxy::logs {
namespace {

std::optional<Credentials> peer_of(int fd) {
  int family = 0;
  socklen_t size = sizeof family;
  ucred who{};
  socklen_t length = sizeof who;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0 || family != AF_UNIX ||
      getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) {
    return std::nullopt;
  }
  return Credentials{static_cast<uint32_t>(who.pid), who.uid, who.gid};
}

constexpr Duration kSourceRetry = std::chrono::milliseconds(100);

}  // namespace

// --- StreamInput --------------------------------------------------------------------------------

StreamInput::StreamInput(Loop& loop, const StreamContext& context, UniqueFd fd, Reads reads,
                         std::optional<Credentials> credentials, Client* client)
    : Input(loop, fd.get()),
      context_(context),
      fd_(std::move(fd)),
      credentials_(credentials),
      reads_(reads),
      client_(client),
      splitter_(context.framing, context.target.max_line(), context.target.held()) {}

bool StreamInput::offer(std::span<const std::byte> line) {
  Line offered;
  offered.time = time_;
  offered.credentials = credentials_;
  offered.bytes = line;
  return context_.target.offer(context_.source, offered, splitter_.full_length());
}

// Of what is not taken a copy is kept: the line lies in `bytes`, or in the splitter.
void StreamInput::keep(std::span<const std::byte> bytes) {
  const auto line = splitter_.line();
  std::vector<std::byte> kept(line.begin(), line.end());
  line_size_ = kept.size();
  kept.insert(kept.end(), bytes.begin(), bytes.end());
  kept_ = std::move(kept);
}

bool StreamInput::take(std::span<const std::byte> bytes) {
  while (splitter_.next(bytes)) {
    if (offer(splitter_.line())) continue;
    keep(bytes);
    return false;
  }
  return true;
}

// What was kept.
bool StreamInput::take_kept() {
  if (!kept_) return true;
  const std::vector<std::byte> kept = *std::exchange(kept_, std::nullopt);
  const auto line = std::span(kept).first(line_size_);
  const auto rest = std::span(kept).subspan(line_size_);
  if (offer(line)) return take(rest);
  kept_ = kept;
  return false;
}

// True if the last line has no end, and was taken or there was none.
bool StreamInput::take_last() {
  ended_ = true;
  if (!splitter_.finish() || offer(splitter_.line())) return true;
  keep({});
  return false;
}

Input::Progress StreamInput::read_some() {
  if (!take_kept()) return Progress::kBlocked;
  if (ended_) return Progress::kOver;
  if (context_.target.blocked(context_.source)) return Progress::kBlocked;
  pollfd ready{fd_.get(), POLLIN, 0};
  if (reads_ == Reads::kWhenReady && ::poll(&ready, 1, 0) <= 0) return Progress::kEmpty;
  const auto scratch = context_.target.scratch();
  const ssize_t got = ::read(fd_.get(), scratch.data(), scratch.size());
  if (got < 0) {
    if (errno == EINTR) return Progress::kMore;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Progress::kEmpty;
  }
  if (got <= 0) return take_last() ? Progress::kOver : Progress::kBlocked;
  time_ = context_.target.wall();
  return take(scratch.first(static_cast<size_t>(got))) ? Progress::kMore : Progress::kBlocked;
}

// At the end of the shipper a source is not blocked any more.
void StreamInput::on_over() {
  if (take_kept() && !ended_) take_last();
  fd_.reset();
}

// --- StreamSource -------------------------------------------------------------------------------

class StreamSource::Acceptor final : public Input {
 public:
  Acceptor(StreamSource& source, UniqueFd fd)
      : Input(source.loop_, fd.get()), source_(source), fd_(std::move(fd)) {
    fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
  }

 private:
  Progress read_some() override {
    if (source_.full()) return Progress::kBlocked;
    const int fd = accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      source_.accepted(fd);
      return Progress::kMore;
    }
    const bool none = errno == EAGAIN || errno == EWOULDBLOCK;
    if (none) return Progress::kEmpty;
    const bool short_of = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
    if (!short_of) return Progress::kMore;  // of a connection that is gone already
    source_.retry_.set(loop().now() + kSourceRetry);
    return Progress::kBlocked;
  }
  void on_over() override { fd_.reset(); }

  StreamSource& source_;
  UniqueFd fd_;
};

StreamSource::StreamSource(Loop& loop, const StreamContext& context, Listening listening)
    : loop_(loop),
      context_(context),
      path_(std::move(listening.path)),
      retry_(loop.timers(), this) {
  for (const int fd : listening.sockets) {
    acceptors_.push_back(std::make_unique<Acceptor>(*this, UniqueFd(fd)));
  }
}

StreamSource::StreamSource(Loop& loop, const StreamContext& context, UniqueFd stream)
    : loop_(loop), context_(context), retry_(loop.timers(), this) {
  StreamInput::Client* const client = this;
  streams_.push_back(std::make_unique<StreamInput>(
      loop, context, std::move(stream), StreamInput::Reads::kWhenReady, std::nullopt, client));
}

StreamSource::~StreamSource() = default;

void StreamSource::start() {
  for (const auto& acceptor : acceptors_) acceptor->start();
  for (const auto& stream : streams_) stream->start();
}

void StreamSource::accepted(int fd) {
  StreamInput::Client* const client = this;
  streams_.push_back(std::make_unique<StreamInput>(
      loop_, context_, UniqueFd(fd), StreamInput::Reads::kAnyTime, peer_of(fd), client));
  streams_.back()->start();
  if (draining_) streams_.back()->drain();
}

void StreamSource::stream_over() {
  if (std::exchange(reaping_, true)) return;
  loop_.defer(this);
}

void StreamSource::run_deferred() {
  reaping_ = false;
  std::erase_if(streams_, [](const auto& stream) { return stream->is_over() && stream->idle(); });
  for (const auto& acceptor : acceptors_) acceptor->resume();
}

void StreamSource::expired(Timer&) {
  for (const auto& acceptor : acceptors_) acceptor->resume();
}

void StreamSource::resume() {
  for (const auto& stream : streams_) stream->resume();
}

void StreamSource::drain() {
  draining_ = true;
  path_.remove();
  for (const auto& stream : streams_) stream->drain();
  for (const auto& acceptor : acceptors_) acceptor->drain();
}

void StreamSource::stop() {
  path_.remove();
  retry_.clear();
  for (const auto& acceptor : acceptors_) acceptor->stop();
  for (const auto& stream : streams_) stream->stop();
}

bool StreamSource::is_over() const {
  const auto over = [](const auto& input) { return input->is_over(); };
  return std::all_of(acceptors_.begin(), acceptors_.end(), over) &&
         std::all_of(streams_.begin(), streams_.end(), over);
}

bool StreamSource::idle() const {
  const auto idle = [](const auto& input) { return input->idle(); };
  return !reaping_ && std::all_of(acceptors_.begin(), acceptors_.end(), idle) &&
         std::all_of(streams_.begin(), streams_.end(), idle);
}

}  // namespace virtproxy::logs
