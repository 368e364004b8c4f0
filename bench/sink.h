// The far end of the load: accepts connections and plays the role that each one's Request asks for
// (see wire.h). One thread, edge-triggered; connections share one receive and one send buffer, and
// a connection gets one receive and one send per turn so that none starves the others.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "address.h"
#include "counters.h"
#include "poller.h"
#include "ring_queue.h"
#include "wire.h"

namespace virtproxy::bench {

class Sink {
 public:
  // Throws Failure when an address cannot be listened on.
  // `http_connect`: a CONNECT comes first on each connection, and is answered.
  Sink(const std::vector<Address>& addresses, const SocketOptions& options, bool http_connect);
  ~Sink();

  void run();   // until stop()
  void stop();  // from any thread or signal handler

  const Counters& counters() const { return counters_; }

 private:
  struct Connection;
  struct Listener {
    UniqueFd fd;
    bool is_unix;
    std::string file;
  };

  void accept_all(Listener& listener);
  void handle_event(void* owner, uint32_t events);
  void enqueue(Connection& connection);
  void step(Connection& connection);
  void receive(Connection& connection);
  bool open_tunnel(Connection& connection, const std::byte* data, size_t size, size_t& used);
  void take(Connection& connection, std::byte* data, size_t size);
  void start_streaming(Connection& connection);
  bool parse_request(Connection& connection);
  void count_payload(Connection& connection, const std::byte* data, size_t size);
  void send(Connection& connection);
  void send_payload(Connection& connection, uint64_t goal);
  void send_trailer(Connection& connection);
  void send_bytes(Connection& connection, const std::byte* data, size_t size, size_t& done);
  void close(Connection& connection);

  const SocketOptions options_;
  const bool http_connect_;
  Poller poller_;
  std::vector<Listener> listeners_;
  RingQueue<Connection*> runnable_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> free_;
  std::vector<std::byte> receive_buffer_;
  std::vector<std::byte> send_buffer_;
  std::vector<std::byte> pattern_buffer_;
  Counters counters_;
  std::atomic<bool> stopping_{false};
};

}  // namespace virtproxy::bench
