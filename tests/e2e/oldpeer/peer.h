// The daemon: one loop that reads whatever is ready, one packet at a time.

#ifndef VIRTPROXY_OLDPEER_PEER_H_
#define VIRTPROXY_OLDPEER_PEER_H_

#include <poll.h>

#include <cstdint>
#include <list>
#include <string>
#include <vector>

#include "channel.h"
#include "options.h"
#include "packet.h"
#include "sender.h"
#include "writer.h"

namespace oldpeer {

class Peer {
 public:
  explicit Peer(const Options& options);

  // Opens listeners and the channel; false with a line in the log.
  bool Start();
  // Never returns.
  void Run();

 private:
  enum class State {
    kWaiting,  // A client: no ACK yet; not read.
    kDialing,  // A service, with --background-dial.
    kOpen,
    kEnded,  // Not read any more.
  };

  // One end of a stream. Both numbers are those of the wire; one of them stands for `fd`.
  struct Connection {
    bool is_client = false;  // We accepted it; otherwise we dialed it.
    State state = State::kOpen;
    int fd = -1;
    int32_t client = -1;
    int32_t server = -1;
    uint64_t serial = 0;

    int32_t own() const { return is_client ? client : server; }
  };
  using Connections = std::list<Connection>;

  struct Forward {
    Place place;
    int listener = -1;
  };

  // What a poll entry stands for.
  struct Watch {
    enum Kind { kChannel, kChannelListener, kForward, kConnection, kQueue } kind;
    uint64_t key;
  };

  void Collect();
  bool IsRead(const Connection& connection) const;
  void Dispatch(const pollfd& entry, const Watch& watch);

  void ReadChannel();
  void ForgetConnections();
  void Handle(const Packet& packet);
  void HandleControl(const Packet& packet);
  void HandleInit(const Packet& packet);
  void HandleAck(const Packet& packet);
  void HandleClose(const Packet& packet);
  void HandleData(const Packet& packet);

  void AcceptClient(const Forward& forward);
  void ReadConnection(const pollfd& entry, uint64_t serial);
  void EndConnection(Connections::iterator connection);
  void FinishDial(Connections::iterator connection);
  void AnswerDial(Connections::iterator connection, bool connected);

  int32_t NumberFor(int fd);
  // The connection we gave this number; `is_client` says of which sort.
  Connections::iterator FindOwn(int32_t number, bool is_client);
  void SendAgainForClosed(const Connection& connection);
  void Tell(const std::string& text) const;

  const Options options_;
  const Habits& habits_;
  const Faults& faults_;
  Writer writer_;
  Channel channel_;
  Sender sender_;
  std::vector<Forward> forwards_;
  Connections connections_;  // The newest first.
  uint64_t next_serial_ = 1;
  int64_t next_number_;
  std::vector<pollfd> poll_set_;
  std::vector<Watch> watches_;
};

}  // namespace oldpeer

#endif  // VIRTPROXY_OLDPEER_PEER_H_
