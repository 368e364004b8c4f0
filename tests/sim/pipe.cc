#include "tests/sim/pipe.h"

#include <algorithm>
#include <array>

namespace virtproxy::sim {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kLargestFragment = 32768;

}  // namespace

int64_t Pipe::write(std::span<const std::byte> from) {
  size_t written = 0;
  while (written < from.size()) {
    if (slots_.empty() || slots_.back().room == 0) {
      if (full()) break;
      slots_.push_back({0, kPage});
    }
    Slot& last = slots_.back();
    const size_t count = std::min(from.size() - written, last.room);
    bytes_.append(from.subspan(written, count));
    last.size += count;
    last.room -= count;
    written += count;
  }
  return written > 0 || from.empty() ? static_cast<int64_t>(written) : -EAGAIN;
}

int64_t Pipe::read(std::span<std::byte> to) {
  if (size() == 0) return -EAGAIN;
  const size_t count = std::min(to.size(), size());
  std::copy_n(bytes_.contents().begin(), count, to.begin());
  consume(count);
  return static_cast<int64_t>(count);
}

int64_t Pipe::fill(Socket& from, size_t size) {
  World& world = World::current();
  if (full()) {
    world.count(Mishap::kPipeFull);
    return -EAGAIN;
  }
  std::array<std::byte, kLargestFragment> fragment;
  size_t moved = 0;
  while (moved < size && !full()) {
    // One that has moved bytes does not take the socket's error with it (tcp_splice_read(),
    // unix_stream_read_generic()).
    if (moved > 0 && from.unread() == 0) break;
    const size_t most = static_cast<size_t>(world.random().magnitude(1024, kLargestFragment));
    const int64_t got = from.read(std::span(fragment).first(std::min(most, size - moved)));
    if (got <= 0) return moved > 0 ? static_cast<int64_t>(moved) : got;
    bytes_.append(std::span(fragment).first(static_cast<size_t>(got)));
    slots_.push_back({static_cast<size_t>(got), 0});
    moved += static_cast<size_t>(got);
  }
  world.count_piped(moved);
  return static_cast<int64_t>(moved);
}

int64_t Pipe::drain(Socket& to, size_t size) {
  if (this->size() == 0) return -EAGAIN;
  World& world = World::current();
  size_t moved = 0;
  while (moved < size && this->size() > 0) {
    // Each slot is a write of its own. The error of one behind the first is not told, and gone.
    if (moved > 0 && to.reset_under_way() && world.random().chance(0.5)) to.hasten_reset();
    const size_t most = std::min(size - moved, slots_.front().size);
    const int64_t put = to.write(bytes_.contents().first(most));
    if (put <= 0) return moved > 0 ? static_cast<int64_t>(moved) : put;
    consume(static_cast<size_t>(put));
    moved += static_cast<size_t>(put);
  }
  return static_cast<int64_t>(moved);
}

int64_t Pipe::pour(Pipe& to, size_t size) {
  size_t moved = 0;
  while (moved < size && !slots_.empty() && !to.full()) {
    const size_t count = std::min(size - moved, slots_.front().size);
    to.bytes_.append(bytes_.contents().first(count));
    to.slots_.push_back({count, 0});
    consume(count);
    moved += count;
  }
  return moved > 0 ? static_cast<int64_t>(moved) : -EAGAIN;
}

void Pipe::consume(size_t count) {
  bytes_.consume(count);
  while (count > 0) {
    Slot& first = slots_.front();
    const size_t part = std::min(count, first.size);
    first.size -= part;
    count -= part;
    if (first.size == 0) slots_.pop_front();
  }
}

int64_t splice(File& from, File& to, size_t size) {
  auto* source = dynamic_cast<PipeEnd*>(&from);
  auto* target = dynamic_cast<PipeEnd*>(&to);
  if (source != nullptr && target != nullptr) return source->pipe().pour(target->pipe(), size);
  auto* socket = dynamic_cast<Socket*>(target != nullptr ? &from : &to);
  if (socket == nullptr || (source == nullptr && target == nullptr)) return -EINVAL;
  if (const auto error = injected_error(*socket, target != nullptr)) return *error;
  return target != nullptr ? target->pipe().fill(*socket, size)
                           : source->pipe().drain(*socket, size);
}

}  // namespace virtproxy::sim
