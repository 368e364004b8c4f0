#include "lines/sink_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace virtproxy::bench::lines {
namespace {

constexpr size_t kRead = 256 << 10;
constexpr size_t kMostStreams = 4096;
// Reads of one descriptor before the others have their turn.
constexpr int kReadsPerTurn = 16;
// Replaced files that are kept open to be read again.
constexpr size_t kMostFiles = 256;

[[noreturn]] void fail(const std::string& what, const std::string& which) {
  throw Failure(Outcome::kUsage, fmt::format("{} {}: {}", what, which, std::strerror(errno)));
}

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
}

UniqueFd open_datagram(const Endpoint& endpoint) {
  UniqueFd fd(
      ::socket(endpoint.address.storage.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const std::string file = endpoint.address.file();
  if (!file.empty()) ::unlink(file.c_str());
  const int size = 8 << 20;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0) {
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
  }
  if (::bind(fd.get(), endpoint.address.data(), endpoint.address.length) != 0) {
    fail("cannot bind", endpoint.text);
  }
  return fd;
}

}  // namespace

SinkReader::SinkReader(const Endpoint& endpoint, Framing framing, Begin begin, OnMessage on_message)
    : endpoint_(endpoint), framing_(framing), on_message_(std::move(on_message)), buffer_(kRead) {
  switch (endpoint_.kind) {
    case EndpointKind::kUnixStream:
    case EndpointKind::kTcp:
      listener_ = open_listener(endpoint_.address, {});
      socket_file_ = endpoint_.address.file();
      break;
    case EndpointKind::kUnixDatagram:
    case EndpointKind::kUdp:
      buffer_.resize(MessageSplitter::kLargest);
      listener_ = open_datagram(endpoint_);
      socket_file_ = endpoint_.address.file();
      break;
    case EndpointKind::kPipe: {
      // Reading and writing, so that the open does not wait for a writer and the end does not come
      // between two of them.
      const bool standard = endpoint_.path == "-";
      UniqueFd fd(standard ? ::dup(STDIN_FILENO)
                           : ::open(endpoint_.path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
      if (!fd.valid()) fail("cannot open", endpoint_.text);
      streams_.push_back(std::make_unique<Stream>(std::move(fd), framing_));
      break;
    }
    case EndpointKind::kFile: {
      const std::string directory = directory_of(endpoint_.path);
      notify_ = UniqueFd(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
      if (::inotify_add_watch(notify_.get(), directory.c_str(),
                              IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0) {
        fail("cannot watch", directory);
      }
      file_splitter_ = std::make_unique<MessageSplitter>(framing_);
      open_file(begin == Begin::kEnd);
      break;
    }
  }
}

SinkReader::~SinkReader() {
  if (!socket_file_.empty()) ::unlink(socket_file_.c_str());
}

// Of a file that is not there yet, or was replaced: whether there is one to read now.
bool SinkReader::open_file(bool at_end) {
  UniqueFd fd(::open(endpoint_.path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return false;
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return false;
  if (!files_.empty() && files_.back().inode == status.st_ino) return false;
  const uint64_t begin = at_end ? static_cast<uint64_t>(status.st_size) : 0;
  if (files_.size() == kMostFiles) files_.pop_front();
  files_.push_back({std::move(fd), begin, begin, status.st_ino});
  return true;
}

void SinkReader::end_of(MessageSplitter& splitter) {
  ended_oversized_ += splitter.oversized();
  if (splitter.pending() > 0) {
    // What is left is no message: a sender ends with a whole one, and a frame tells where that is.
    on_message_({}, false);
  }
}

bool SinkReader::read_file(File& file) {
  struct stat status {};
  if (::fstat(file.fd.get(), &status) == 0 &&
      static_cast<uint64_t>(status.st_size) < file.position) {
    taken_back_ = true;
    file.position = static_cast<uint64_t>(status.st_size);
    *file_splitter_ = MessageSplitter(framing_);
  }
  bool any = false;
  for (int i = 0; i < kReadsPerTurn; ++i) {
    const ssize_t got =
        ::pread(file.fd.get(), buffer_.data(), buffer_.size(), static_cast<off_t>(file.position));
    if (got <= 0) break;
    any = true;
    file.position += static_cast<uint64_t>(got);
    file_splitter_->feed({buffer_.data(), static_cast<size_t>(got)},
                         [this](std::string_view message) { on_message_(message, true); });
    if (static_cast<size_t>(got) < buffer_.size()) break;
  }
  return any;
}

bool SinkReader::follow() {
  if (files_.empty() && !open_file(false)) return false;
  if (read_file(files_.back())) return true;
  struct stat status {};
  if (::stat(endpoint_.path.c_str(), &status) != 0 || status.st_ino == files_.back().inode) {
    return false;
  }
  // It was replaced. What was written before that is in the old one, all of it.
  if (read_file(files_.back())) return true;
  end_of(*file_splitter_);
  file_splitter_ = std::make_unique<MessageSplitter>(framing_);
  return open_file(false);
}

void SinkReader::read_again() {
  if (endpoint_.kind != EndpointKind::kFile) return;
  for (File& file : files_) {
    file.position = file.begin;
    file_splitter_ = std::make_unique<MessageSplitter>(framing_);
    while (read_file(file)) continue;
    end_of(*file_splitter_);
  }
  file_splitter_ = std::make_unique<MessageSplitter>(framing_);
}

void SinkReader::accept_all() {
  while (streams_.size() < kMostStreams) {
    UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) return;
    streams_.push_back(std::make_unique<Stream>(std::move(fd), framing_));
  }
}

bool SinkReader::read_stream(Stream& stream, bool& ended) {
  bool any = false;
  for (int i = 0; i < kReadsPerTurn; ++i) {
    const ssize_t got = ::read(stream.fd.get(), buffer_.data(), buffer_.size());
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) ended = true;
    if (got <= 0) break;
    any = true;
    stream.splitter.feed({buffer_.data(), static_cast<size_t>(got)},
                         [this](std::string_view message) { on_message_(message, true); });
    // Standard input may block: it is read once for each time that it is readable.
    if (static_cast<size_t>(got) < buffer_.size() || endpoint_.kind == EndpointKind::kPipe) break;
  }
  return any;
}

bool SinkReader::read_datagrams() {
  bool any = false;
  for (int i = 0; i < 256; ++i) {
    const ssize_t got = ::recv(listener_.get(), buffer_.data(), buffer_.size(), 0);
    if (got < 0) break;
    any = true;
    on_message_({buffer_.data(), static_cast<size_t>(got)}, true);
  }
  return any;
}

bool SinkReader::poll(int timeout_ms) {
  if (endpoint_.kind == EndpointKind::kFile) {
    if (follow()) return true;
    pollfd event{notify_.get(), POLLIN, 0};
    if (::poll(&event, 1, timeout_ms) > 0) {
      // What happened is of no interest: the file is looked at.
      while (::read(notify_.get(), buffer_.data(), buffer_.size()) > 0) continue;
    }
    return follow();
  }
  std::vector<pollfd> events;
  events.reserve(streams_.size() + 1);
  for (const auto& stream : streams_) events.push_back({stream->fd.get(), POLLIN, 0});
  if (listener_.valid()) events.push_back({listener_.get(), POLLIN, 0});
  if (::poll(events.data(), events.size(), timeout_ms) <= 0) return false;
  bool any = false;
  for (size_t i = streams_.size(); i-- > 0;) {
    if (events[i].revents == 0) continue;
    bool ended = false;
    any |= read_stream(*streams_[i], ended);
    if (!ended) continue;
    end_of(streams_[i]->splitter);
    streams_.erase(streams_.begin() + static_cast<ptrdiff_t>(i));
  }
  if (listener_.valid() && events.back().revents != 0) {
    if (endpoint_.datagram()) {
      any |= read_datagrams();
    } else {
      accept_all();
    }
  }
  return any;
}

void SinkReader::finish() {
  while (poll(0)) continue;
  for (const auto& stream : streams_) end_of(stream->splitter);
  streams_.clear();
  if (file_splitter_) end_of(*file_splitter_);
}

uint64_t SinkReader::oversized() const {
  uint64_t sum = ended_oversized_;
  for (const auto& stream : streams_) sum += stream->splitter.oversized();
  return sum;
}

}  // namespace virtproxy::bench::lines
