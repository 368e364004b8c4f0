#include "peer.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <ctime>

#include "log.h"
#include "net.h"

namespace oldpeer {
namespace {

constexpr int kRetryMs = 20;
// With queues: clients and services are not read while this much waits for the channel.
constexpr size_t kChannelQueue = 256 * 1024;

void SleepMs(int64_t ms) {
  timespec left{ms / 1000, ms % 1000 * 1'000'000};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

}  // namespace

Peer::Peer(const Options& options)
    : options_(options),
      habits_(options_.habits),
      faults_(options_.faults),
      writer_(habits_.nonblocking_writes),
      channel_(options_, &writer_),
      sender_(options_, &channel_, &writer_),
      next_number_(options_.number_base) {}

void Peer::Tell(const std::string& text) const {
  if (options_.log) Say(text);
}

bool Peer::Start() {
  std::signal(SIGPIPE, habits_.die_of_sigpipe ? SIG_DFL : SIG_IGN);
  if (!channel_.Start()) return false;
  for (const Place& place : options_.oforwards) {
    const int listener = Listen(place, static_cast<int>(options_.backlog));
    if (listener < 0) {
      Say(WithErrno("cannot listen on " + place.address + ":" + place.port));
      return false;
    }
    forwards_.push_back({place, listener});
  }
  Say("ready");
  return true;
}

void Peer::Run() {
  sender_.CommitDueFaults();
  while (true) {
    Collect();
    const bool was_up = channel_.up();
    const int count =
        poll(poll_set_.data(), poll_set_.size(), channel_.connecting() ? kRetryMs : -1);
    if (count < 0) continue;
    if (channel_.connecting() && channel_.TryConnect()) sender_.CommitDueFaults();
    for (size_t i = 0; i < poll_set_.size(); ++i) {
      if (poll_set_[i].revents != 0) Dispatch(poll_set_[i], watches_[i]);
    }
    if (was_up && !channel_.up() && habits_.forget_on_reconnect) ForgetConnections();
  }
}

bool Peer::IsRead(const Connection& connection) const {
  if (connection.state == State::kWaiting) return faults_.data_before_ack;
  return connection.state == State::kOpen && writer_.Queued(channel_.fd()) < kChannelQueue;
}

void Peer::Collect() {
  poll_set_.clear();
  watches_.clear();
  const auto add = [this](int fd, int16_t events, Watch::Kind kind, uint64_t key) {
    if (fd < 0) return;
    poll_set_.push_back({fd, events, 0});
    watches_.push_back({kind, key});
  };
  if (channel_.up()) add(channel_.fd(), POLLIN, Watch::kChannel, 0);
  add(channel_.listener(), POLLIN, Watch::kChannelListener, 0);
  for (size_t i = 0; i < forwards_.size(); ++i) {
    if (habits_.hold_clients && !channel_.up()) break;
    add(forwards_[i].listener, POLLIN, Watch::kForward, i);
  }
  for (const Connection& connection : connections_) {
    if (connection.state == State::kDialing) {
      add(connection.fd, POLLOUT, Watch::kConnection, connection.serial);
    } else if (IsRead(connection)) {
      add(connection.fd, POLLIN, Watch::kConnection, connection.serial);
    }
  }
  writer_.AddTo(&poll_set_);
  watches_.resize(poll_set_.size(), {Watch::kQueue, 0});
}

void Peer::Dispatch(const pollfd& entry, const Watch& watch) {
  switch (watch.kind) {
    case Watch::kChannel:
      if (channel_.up() && channel_.fd() == entry.fd) ReadChannel();
      break;
    case Watch::kChannelListener:
      if (!channel_.up() && channel_.Accept()) sender_.CommitDueFaults();
      break;
    case Watch::kForward:
      AcceptClient(forwards_[watch.key]);
      break;
    case Watch::kConnection:
      ReadConnection(entry, watch.key);
      break;
    case Watch::kQueue:
      writer_.Flush(entry.fd);
      break;
  }
}

// ---- From the channel.

void Peer::ReadChannel() {
  std::vector<Packet> packets;
  if (!channel_.Read(&packets)) return channel_.Lose();
  for (const Packet& packet : packets) {
    Tell("received " + packet.Describe());
    Handle(packet);
  }
}

void Peer::ForgetConnections() {
  for (const Connection& connection : connections_) {
    if (connection.fd >= 0) writer_.CloseNow(connection.fd);
  }
  connections_.clear();
}

void Peer::Handle(const Packet& packet) {
  if (!packet.HasMagic()) return;
  switch (packet.Get(kAtType)) {
    case kControl:
      HandleControl(packet);
      break;
    case kClient:
    case kServer:
      HandleData(packet);
      break;
    default:
      break;
  }
}

void Peer::HandleControl(const Packet& packet) {
  switch (packet.Get(kAtMessage)) {
    case kInit:
      HandleInit(packet);
      break;
    case kAck:
      HandleAck(packet);
      break;
    case kClose:
      HandleClose(packet);
      break;
    default:
      if (!habits_.ignore_unknown_control && channel_.up()) channel_.Drop();
      break;
  }
}

void Peer::HandleInit(const Packet& packet) {
  const int32_t client = packet.Get(kAtControlClient);
  const std::string service = packet.Service();
  const auto& known = options_.iforwards;
  const auto place = std::find_if(known.begin(), known.end(),
                                  [&service](const Place& at) { return at.name == service; });
  if (place == known.end()) {
    Tell("unknown service " + service);
    if (habits_.refuse_unknown_service) sender_.Send(Packet::Close(client, -1));
    return;
  }
  if (faults_.slow_dial) SleepMs(*faults_.slow_dial);
  Connection connection;
  connection.fd = habits_.background_dial ? StartDial(*place) : Dial(*place);
  connection.client = client;
  connection.serial = next_serial_++;
  connections_.push_front(connection);
  if (connection.fd >= 0 && habits_.background_dial) {
    connections_.front().state = State::kDialing;
  } else {
    AnswerDial(connections_.begin(), connection.fd >= 0);
  }
}

void Peer::FinishDial(Connections::iterator connection) {
  const bool connected = DialError(connection->fd) == 0;
  SetNonblocking(connection->fd, false);
  AnswerDial(connection, connected);
}

void Peer::AnswerDial(Connections::iterator connection, bool connected) {
  const int32_t client = connection->client;
  if (!connected) {
    Tell("cannot connect to the service");
    if (connection->fd >= 0) close(connection->fd);
    connections_.erase(connection);
    const bool refuse = habits_.refuse_failed_dial;
    sender_.Send(refuse ? Packet::Close(client, -1) : Packet::Ack(client, -1));
    return;
  }
  writer_.Adopt(connection->fd);
  connection->state = State::kOpen;
  const int32_t server = connection->server = NumberFor(connection->fd);
  if (faults_.never_ack) return;
  sender_.Send(Packet::Ack(client, server));
  if (faults_.ack_twice) sender_.Send(Packet::Ack(client, server));
}

void Peer::HandleAck(const Packet& packet) {
  const int32_t server = packet.Get(kAtControlServer);
  if (server <= 0) return;
  const auto client = FindOwn(packet.Get(kAtControlClient), true);
  if (client == connections_.end()) return;
  client->server = server;
  if (client->state == State::kWaiting) client->state = State::kOpen;
}

// The number that is named is closed; the record that is removed is the first one with that number,
// whichever direction it belongs to. When those are two different connections, the second one is
// never read again: that is how one stream's end makes another hang.
void Peer::HandleClose(const Packet& packet) {
  const bool is_client = packet.Get(kAtControlClient) != -1;
  const int32_t number = packet.Get(is_client ? kAtControlClient : kAtControlServer);
  if (number < 0) return;
  const auto named = FindOwn(number, is_client);
  auto found = named;
  if (habits_.shared_lookup) {
    found = std::find_if(connections_.begin(), connections_.end(), [&](const Connection& other) {
      return (is_client ? other.client : other.server) == number;
    });
  }
  if (named != connections_.end() && named->fd >= 0) {
    SendAgainForClosed(*named);
    writer_.Close(named->fd);
    named->fd = -1;
    named->state = State::kEnded;
  }
  if (found == connections_.end()) return;
  if (found != named) Tell("removed the record of another connection");
  connections_.erase(found);
}

void Peer::HandleData(const Packet& packet) {
  const bool to_service = packet.Get(kAtType) == kClient;
  const int32_t number = packet.Get(to_service ? kAtDataServer : kAtDataClient);
  const int32_t bytes = packet.Get(kAtBytes);
  if (bytes < 1 || bytes > static_cast<int32_t>(kMaxData)) return;
  int fd = number;
  if (habits_.large_numbers || !habits_.unchecked_numbers) {
    const auto connection = FindOwn(number, !to_service);
    fd = connection == connections_.end() ? -1 : connection->fd;
  }
  if (!writer_.Write(fd, packet.data(), static_cast<size_t>(bytes))) {
    Tell(WithErrno("writing to number " + std::to_string(number)));
  }
}

// ---- From clients and services.

void Peer::AcceptClient(const Forward& forward) {
  const int fd = accept(forward.listener, nullptr, nullptr);
  if (fd < 0) return;
  writer_.Adopt(fd);
  Connection connection;
  connection.is_client = true;
  connection.state = State::kWaiting;
  connection.fd = fd;
  connection.client = NumberFor(fd);
  connection.serial = next_serial_++;
  connections_.push_front(connection);
  sender_.Send(Packet::Init(connection.client, forward.place.name));
  if (faults_.same_client_number_twice) {
    sender_.Send(Packet::Init(connection.client, forward.place.name));
  }
}

// The original goes by the descriptor that was found readable. When that was closed and given out
// anew in the same turn, it reads the new one, which has nothing yet, and waits there.
void Peer::ReadConnection(const pollfd& entry, uint64_t serial) {
  const auto connection =
      std::find_if(connections_.begin(), connections_.end(), [&](const Connection& other) {
        return habits_.stale_readiness ? other.fd == entry.fd : other.serial == serial;
      });
  if (connection == connections_.end() || connection->fd < 0) return;
  if (connection->state == State::kDialing) return FinishDial(connection);
  std::array<uint8_t, kMaxData> data;
  const ssize_t count = read(connection->fd, data.data(), data.size());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count > 0) {
    sender_.Send(Packet::Data(connection->is_client ? kClient : kServer, connection->client,
                              connection->server, data.data(), static_cast<size_t>(count)));
  } else if (habits_.half_close && count == 0 && (entry.revents & (POLLHUP | POLLERR)) == 0) {
    Tell("end of input of number " + std::to_string(connection->own()));
    connection->state = State::kEnded;
  } else {
    EndConnection(connection);
  }
}

void Peer::EndConnection(Connections::iterator at) {
  const Connection connection = *at;
  connections_.erase(at);
  writer_.Close(connection.fd);
  Packet packet = connection.is_client ? Packet::Close(-1, connection.server)
                                       : Packet::Close(connection.client, -1);
  if (faults_.close_both) packet = Packet::Close(connection.client, connection.server);
  sender_.Send(packet);
  if (faults_.data_after_close) {
    const uint8_t late[] = {'l', 'a', 't', 'e'};
    sender_.Send(Packet::Data(connection.is_client ? kClient : kServer, connection.client,
                              connection.server, late, sizeof late));
  }
  SendAgainForClosed(connection);
}

void Peer::SendAgainForClosed(const Connection& connection) {
  if (!faults_.ack_for_closed || connection.is_client) return;
  sender_.Send(Packet::Ack(connection.client, connection.server));
}

int32_t Peer::NumberFor(int fd) {
  return habits_.large_numbers ? static_cast<int32_t>(next_number_++) : fd;
}

Peer::Connections::iterator Peer::FindOwn(int32_t number, bool is_client) {
  return std::find_if(connections_.begin(), connections_.end(), [&](const Connection& other) {
    return other.is_client == is_client && other.own() == number;
  });
}

}  // namespace oldpeer
