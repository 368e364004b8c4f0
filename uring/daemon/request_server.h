// A listener whose clients send requests and get one answer to each: the control socket and the
// metrics listener.
//
//   request ──▶ handle_request() of the handler ──▶ … ──▶ answer() ──▶ text
//
// It lives in the main thread, beside the signals, and waits with poll(2): no stream passes through
// that thread, so a client that never reads delays none. Bounded in everything: clients, the length
// of a request, one request at a time of each client. While an answer is due or not yet read, the
// next request waits in the client's socket. Where all places are taken, a new client gets that of
// the one that has done nothing for longest: clients that stay away cannot lock an operator out. One
// descriptor is kept in reserve, so that an operator can ask why others wait for one.
#pragma once

#include <poll.h>

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/time.h"
#include "uring/base/spare_descriptor.h"
#include "uring/net/sockets.h"

namespace virtproxy {

// How requests follow each other.
enum class RequestFraming : uint8_t {
  kLines,  // each ends with LF or CR LF
  kHttp,   // one of HTTP/1.x without a body, up to its empty line; then the connection is closed
};

class RequestServer {
 public:
  static constexpr size_t kMostClients = 32;
  static constexpr size_t kMostRequest = 4096;  // bytes

  using ClientId = uint64_t;  // never given out again

  class Handler {
   public:
    // `request` is a line without its end; of HTTP, the head without its empty line. answer() is due,
    // now or later.
    virtual void handle_request(RequestServer& server, ClientId client,
                                std::string_view request) = 0;

   protected:
    ~Handler() = default;
  };

  // Takes the sockets, which listen. `handler` must outlive this object.
  RequestServer(RequestFraming framing, Listening listening, Handler* handler);
  ~RequestServer();
  RequestServer(const RequestServer&) = delete;
  RequestServer& operator=(const RequestServer&) = delete;

  // Appends what is to be waited for.
  void add_to(std::vector<pollfd>& waits) const;
  // What poll(2) made of that; entries of other descriptors are passed over.
  void handle(const std::vector<pollfd>& waits, Instant now);

  // Sends `text` to the client, if it is still there. To be called once for each request.
  void answer(ClientId client, std::string text);
  size_t clients() const { return clients_.size(); }

 private:
  enum class State : uint8_t {
    kReading,    // a request
    kAnswering,  // the handler has it
    kWriting,    // its answer
    kLeaving,    // the same, and the client is dropped behind it
  };
  struct Client {
    ClientId id;
    int fd;
    State state = State::kReading;
    Instant active_at{};
    std::string input;
    std::string output;
    size_t written = 0;  // of output
  };
  using Clients = std::list<Client>;

  void accept_clients(int listener, Instant now);
  int accept_one(int listener);
  // Each is false when the client is gone.
  bool read_from(Client& client);
  bool next_request(Client& client);
  bool write_to(Client& client);
  Clients::iterator idlest();
  Clients::iterator drop(Clients::iterator client);

  // The end of the first request of `input`: where it stops, and where the next one begins.
  struct Ending {
    size_t at;
    size_t next;
  };
  std::optional<Ending> ending_of(const std::string& input) const;

  const RequestFraming framing_;
  Listening listening_;
  Handler* handler_;
  ClientId next_id_ = 1;
  SpareDescriptor spare_;
  bool listens_ = true;  // a new client could be accepted
  Clients clients_;
};

}  // namespace virtproxy
