// One channel: the transport it runs over, the session on it, and the connections it carries.
//
//      clients ──▶ Listener ───▶ Connection ◀──▶ ┌─────────┐ ◀── ChannelReader ◀── TransportSource
//     services ◀── Connector ◀── Connection ◀──▶ │ Session │ ──▶ ChannelWriter ──▶
//                                                └─────────┘
//
// The session decides, the others do. ProtocolSelector knows which session it is, of which
// protocol. Within a turn the parts only note what has to be done; at its end the channel admits
// clients, sends what was delivered, writes one batch and asks for more bytes.
//
// The rules of session.h for events are kept here: every call of the core that may begin or end a
// session is followed by handle_events(), and the loss of the link by discard_events(). Nothing
// that an accept, a socket or a timer leads to opens a stream by itself: clients wait in an
// AdmissionQueue, and admit_clients() alone takes them from there, when no event is left. Those
// that come while the protocol is being chosen stay in it until it is, and so do, for a moment,
// those that come before the link was tried for the first time.
//
// An end of version 1 that has no clients sends nothing until it is asked. So where version 1 was
// chosen because nothing had come, only clients can find out whether an end is there: some are
// let in, and if nothing has come within the time for which clients are held, the channel counts
// as down for clients. One at a time is let in to ask again; the others wait for the answer as long
// as a greeting may take.
//
// A channel owns all its memory: what another channel's clients or peer do cannot take it away.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/protocol_selector.h"
#include "uring/base/list.h"
#include "uring/buffers/receive_pool.h"
#include "uring/buffers/slices.h"
#include "uring/io/loop.h"
#include "uring/io/pipes.h"
#include "uring/mux/admission_queue.h"
#include "uring/mux/channel_log.h"
#include "uring/mux/channel_reader.h"
#include "uring/mux/channel_writer.h"
#include "uring/mux/counters.h"
#include "uring/mux/observer.h"
#include "uring/net/forward_spec.h"
#include "uring/net/lingering_close.h"
#include "uring/net/listener.h"
#include "uring/net/sockets.h"
#include "uring/service/connection.h"
#include "uring/transport/channel_spec.h"
#include "uring/transport/transport_source.h"

namespace virtproxy {

struct ChannelConfig {
  ChannelSpec spec;
  std::vector<ForwardSpec> oforwards;
  std::vector<ForwardSpec> iforwards;
  Acl peers;            // of the channel's own listener
  uint64_t memory = 0;  // bytes, for everything that grows with traffic
  uint32_t max_streams = 0;
  uint32_t window = 0;
  Integrity integrity = Integrity::kAuto;
  ProtocolMode protocol = ProtocolMode::kAuto;
  V1Limits v1;
  Duration connect_timeout{};  // of services, unless the forward has its own
  HashKey epoch_key{};         // see SessionConfig
  HashKey number_key{};
  uint64_t number_seed = 0;
  uint16_t first_buffer_group = 0;
  void (*release_memory)() = nullptr;  // returns the allocator's free memory to the system
};

// The listeners of one channel, bound before privileges were given up.
struct ChannelListenSockets {
  std::vector<Listening> forwards;  // in the order of ChannelConfig::oforwards
  Listening transport;              // of a method that listens
};

class Channel final : private TransportSource::Client,
                      private Listener::Client,
                      private ChannelReader::Client,
                      private ChannelWriter::Client,
                      private LingeringClose::Client,
                      private Loop::Deferred,
                      private Timer::Owner {
 public:
  // Whether the memory suffices for that many streams; the error says what would be right.
  static tl::expected<void, std::string> check(const ChannelConfig& config);

  // `config` must pass check().
  Channel(Loop& loop, ResolverDriver& resolver_driver, const ChannelConfig& config);
  ~Channel();

  // Before start(). The observer must outlive the channel.
  void add_observer(ChannelObserver& observer) { observers_.add(observer); }
  // Accepts on what was bound, and begins to connect.
  void start(ChannelListenSockets listen_sockets);
  // No new streams; those that are open go on.
  void drain();
  bool drained() const {
    return open_connections_ == 0 && departed_.empty() && ended_.empty() && closing_.empty() &&
           lingering_.empty() && fds_to_reset_.empty() && admission_.empty();
  }
  // Resets what is left and tells the peer, as far as the channel takes it at once.
  void stop();
  // Whether everything there was to say has left.
  bool flushed() const { return writer_.idle() && !selector_.wants_to_write(loop_.now()); }
  void disconnect();
  // Nothing of the channel is known to the kernel any more.
  bool idle() const;

  struct Stats {
    Session::Stats session;
    size_t connections = 0;
    size_t closing = 0;
    unsigned connecting = 0;
    size_t send_buffers = 0;  // holding bytes for the channel
    uint64_t held = 0;        // bytes kept for sockets that were full
    size_t waiting = 0;       // connections without a receive buffer
    size_t pipes = 0;         // in use
  };
  Stats stats();
  void visit_stats(StatVisitor& visitor);

  // What log lines and statistics call it: its name, or its number.
  const std::string& label() const { return config_.spec.name; }
  Loop& loop() { return loop_; }
  ResolverDriver& resolver_driver() { return resolver_driver_; }
  Session& session() { return selector_.session(); }
  ReceivePool& pool() { return pool_; }
  SlicePool& slices() { return slices_; }
  PipePool& pipes() { return pipes_; }
  // The sum of what the send queues of all connections hold, kept by them.
  uint64_t& held_bytes() { return held_bytes_; }
  // Whether payload may pass by way of pipes, at all and towards the channel.
  bool splices() override;
  bool splices_out() { return splices() && writer_.takes_pipes(); }
  Events& events() { return events_; }

  // From connections.
  void want_write() { wake(); }
  void want_flush(Connection* connection);
  void wait_for_buffer(Connection* connection);
  void no_longer_waits(Connection* connection);
  bool buffers_are_short(BufferSize size) const {
    return !waiting_[static_cast<size_t>(size)].empty();
  }
  void close_with_reset(int fd);
  void connect_ended() { --connecting_; }
  // Also for what happens to the stream of a connection.
  const ObserverList& observers() const { return observers_; }
  ChannelCounters& counters() { return counters_; }
  void closing(Connection* connection);
  // Nothing of a connection that is closing() is known to the kernel any more, perhaps.
  void settled(Connection* connection);
  // Closes the socket of an application that was sent the end and may still be sending.
  void close_lingering(int fd);

 private:
  void transport_ready(int fd, const TransportTraits& traits) override;
  void transport_unavailable() override;
  void transport_broken(const std::string& reason) override { channel_failed(reason); }
  void accepted(int fd, const ForwardSpec& forward) override;
  // Connections that are over are within no session's limits. The channel is not read while
  // connections of an earlier session are left, while many that ended wait for the kernel to let go
  // of others, or while more can be destroyed than one turn destroys. So a peer that ends sessions or
  // streams in a tight loop cannot pile them up.
  bool wants_input() override {
    return departed_.empty() && ended_.size() <= kMostEnded && settled_.size() <= kReapedPerTurn &&
           selector_.wants_input(loop_.now());
  }
  size_t channel_input(std::span<const std::byte> bytes, ReadBuffer* buffer) override;
  uint32_t payload_ahead() override { return session().arriving().left; }
  bool may_splice() override;
  ssize_t splice_payload(int fd) override;
  void channel_readable() override { wake(); }
  void channel_spliced() override { flush_connections(); }
  void port_present(bool present) override;
  Connection& connection_of(StreamKey stream) override;
  void channel_failed(const std::string& reason) override;
  void channel_written() override { wake(); }
  void channel_settled() override { wake(); }
  void lingering_closed() override { wake(); }
  void run_deferred() override;
  void expired(Timer& timer) override;

  void wake();
  void set_timer();
  void recheck_device();
  void begin_session();
  uint64_t wanted_features() const;
  void end_session(const std::string& reason);
  void release_transport();
  Duration grace() const;
  void handle_events(ReadBuffer* buffer);
  void discard_events();
  void handle(const Event& event, ReadBuffer* buffer);
  void on_up();
  void on_down(Fault fault);
  void on_opened(const Event& event);
  void admit_clients();
  void admit(const AcceptedClient& client);
  void refuse(const AcceptedClient& client, RefusalReason reason);
  RefusalReason why_no_stream() const;
  void take_back(Connection& connection);
  Instant hold_limit() const;
  bool holds_clients() const {
    return selector_.choosing() || awaits_first_transport() || awaits_answer();
  }
  bool awaits_answer() const {
    if (!unanswered()) return false;
    return mute_ ? open_connections_ > 0 && loop_.now() < answer_due()
                 : open_connections_ >= kMostProbes;
  }
  Instant answer_due() const { return asked_at_ + grace(); }
  // Nothing has come over this link, and version 1 was chosen for that reason.
  bool unanswered() const { return !heard_ && selector_.chosen_by_silence(); }
  RefusalReason why_held() const;
  void report_up();
  void give_up_on_silence();
  void on_no_greeting();
  bool awaits_first_transport() const { return first_transport_timer_.armed(); }
  Connection* find(StreamKey stream);
  Connection& add(StreamKey stream, std::string_view service, StreamRole role);
  void reset_all(Fault fault);
  void detach_all(Fault fault);
  void let_go_of_ended();
  void abort_departed();
  void bury(std::unique_ptr<Connection> connection);
  // Clients that ask an end that has sent nothing, at once.
  static constexpr size_t kMostProbes = 64;
  // Connections that the channel has let go of and the kernel has not, and those that wait for their
  // turn. The kernel completes 20 operations at a time (IO_LOCAL_TW_DEFAULT_MAX), in the order in
  // which they became ready, and those of other channels stand behind them: few may be under way.
  static constexpr size_t kMostUnsettled = 8;
  static constexpr size_t kMostEnded = 64;
  static constexpr unsigned kReapedPerTurn = 128;
  size_t unsettled() const { return closing_.size() - settled_.size(); }
  void close_fds_to_reset();
  void start_connects();
  void hand_out_buffers();
  bool nobody_waits() const { return waiting_[0].empty() && waiting_[1].empty(); }
  void flush_connections();
  void reap();
  void trim();

  Loop& loop_;
  ResolverDriver& resolver_driver_;
  const ChannelConfig config_;
  ProtocolSelector selector_;
  ReceivePool pool_;
  SlicePool slices_;
  PipePool pipes_;
  uint64_t held_bytes_ = 0;
  TransportSource source_;
  ChannelReader reader_;
  ChannelWriter writer_;
  Timer timer_;
  Timer trim_timer_;
  Timer recheck_timer_;     // of a device, while streams are open
  Timer first_transport_timer_;  // armed until the first session, or what stands in its way
  Timer held_timer_;        // until the next held client has waited long enough
  Timer silence_timer_;     // of an end that was asked and has sent nothing yet
  Timer greeting_timer_;    // of an end that has to greet (--protocol 2) and has not yet
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<BoundPath> bound_;
  Events events_;
  size_t next_event_ = 0;  // the first that is not handled

  // By the slot of the stream's key.
  std::vector<std::unique_ptr<Connection>> connections_;
  size_t open_connections_ = 0;
  // Of sessions that are over, each with the reason; aborted some each turn.
  struct Departed {
    std::unique_ptr<Connection> connection;
    Fault fault;
  };
  std::vector<Departed> departed_;
  std::deque<std::unique_ptr<Connection>> ended_;     // closing; to be let go of
  std::vector<std::unique_ptr<Connection>> closing_;  // let go of
  std::vector<Connection*> settled_;  // of closing_, can be destroyed
  std::vector<std::unique_ptr<LingeringClose>> lingering_;
  std::vector<int> fds_to_reset_;  // sockets still to be reset
  unsigned resets_in_turn_ = 0;
  std::vector<Connection*> flushing_;
  AdmissionQueue admission_;
  // For a receive buffer of one of the sizes, first come first served.
  std::array<List<Connection, &Connection::buffer_link>, 2> waiting_;
  struct PendingConnect {
    StreamKey stream;
    const ForwardSpec* forward;
  };
  std::deque<PendingConnect> pending_connects_;
  unsigned connecting_ = 0;  // in progress

  enum class TransportState : uint8_t { kNone, kInUse, kLetGo };
  TransportState transport_state_ = TransportState::kNone;
  const TransportTraits* traits_ = &transport_traits::kSocket;
  File file_;
  Duration reconnect_backoff_{};
  unsigned bad_transports_ = 0;  // in a row that ended in a fault of the peer
  Instant up_since_{};
  unsigned short_transports_ = 0;  // in a row that the peer closed at once
  Instant transport_since_{};
  bool heard_ = false;  // something has come over this link
  bool mute_ = false;   // it was asked, and nothing has come
  Instant asked_at_{};  // by the last client that was let in meanwhile
  ObserverList observers_;
  ChannelLog log_;
  ChannelCounters counters_;
  // Which way bytes went last. Where that changes with every message, somebody waits for an answer,
  // and sends that skip their completion on success save a turn. Where it does not, the turn after
  // a send finds more to send.
  enum class Moved : uint8_t { kIn, kOut };
  Moved moved_ = Moved::kIn;
  bool awake_ = false;
  bool busy_ = false;  // since the last trim
  bool draining_ = false;
};

}  // namespace virtproxy
