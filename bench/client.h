// The near end of the load: one thread, edge-triggered, that opens the connections, keeps them busy
// as the plan says and checks what comes back. It does not measure anything but latency; the
// supervisor (run.h) reads its counters and tells it which phase the run is in.
//
// A connection with something to do sits in the run queue and gets one send and one receive per
// turn; the kernel is asked for news after every 64 turns at the latest.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "connection.h"
#include "histogram.h"
#include "pacer.h"
#include "plan.h"
#include "poller.h"
#include "ring_queue.h"
#include "run_state.h"
#include "transfer.h"

namespace virtproxy::bench {

class Client {
 public:
  // `sink` is null when the sink runs in another process.
  Client(const Plan& plan, RunState& state, const Counters* sink);

  void run();
  void wake() { poller_.wake(); }

  // Valid after run() has returned.
  const Histogram& latency() const { return latency_; }
  const std::vector<Connection>& connections() const { return connections_; }
  size_t stuck() const { return active_; }
  std::string describe_stuck() const;
  // Open-loop arrivals that were due but had not been sent when the measurement ended.
  uint64_t backlog() const { return backlog_; }

 private:
  using State = Connection::State;

  // client.cc: phases, opening, the run queue
  void follow_phase();
  void begin_load();
  void end_load();
  void release(Connection& connection);
  void dispatch_arrivals();
  void retry_connects();
  void close_drained_streams();
  int64_t next_timeout() const;
  void open_more();
  const Address& address_of(const Connection& connection) const;
  void begin_connect(Connection& connection);
  void connect_failed(Connection& connection, int error);
  void count_opened();
  void handle_event(Connection& connection, uint32_t events);
  void enqueue(Connection& connection);
  void set_state(Connection& connection, State state);
  void finish(Connection& connection);
  void fail(Connection& connection, Outcome outcome, std::string_view text);
  bool draining() const { return phase_ == Phase::kDrain; }
  bool churns() const { return plan_.mode == Mode::kChurn; }

  // client_io.cc: what a connection does in its turn
  void step(Connection& connection);
  void complete_connect(Connection& connection);
  void greet(Connection& connection);
  void receive_tunnel(Connection& connection);
  void send_request(Connection& connection);
  void receive_greeting(Connection& connection);
  bool send_go(Connection& connection);
  void check_parked(Connection& connection);
  void start_exchange(Connection& connection, int64_t due);
  void step_exchange(Connection& connection);
  void receive_answer(Connection& connection);
  void complete_exchange(Connection& connection);
  void await_close(Connection& connection);
  void step_stream(Connection& connection);
  void send_payload(Connection& connection);
  void close_writing_when_due(Connection& connection);
  void receive_stream(Connection& connection);
  void complete_stream(Connection& connection);
  bool reads_tail(const Connection& connection) const;
  bool settle(Connection& connection, const Transfer& transfer, std::string_view during);
  void note_drained(Connection& connection, size_t moved, size_t asked);
  void verify(Connection& connection, uint64_t position, size_t size);

  const Plan& plan_;
  RunState& state_;
  const Counters* const sink_;
  Poller poller_;
  Pacer pacer_;
  Histogram latency_;
  std::vector<Connection> connections_;
  RingQueue<Connection*> runnable_;
  RingQueue<Connection*> parked_;  // open-loop: whoever takes the next arrival
  RingQueue<Connection*> retries_;
  std::vector<std::byte> receive_buffer_;
  std::vector<std::byte> send_buffer_;
  Phase phase_ = Phase::kOpening;
  int64_t retry_at_ = 0;
  int64_t connect_deadline_ = 0;
  size_t opening_ = 0;  // index of the next connection to open
  size_t opened_ = 0;
  size_t active_ = 0;
  size_t done_ = 0;
  uint64_t backlog_ = 0;
};

}  // namespace virtproxy::bench
