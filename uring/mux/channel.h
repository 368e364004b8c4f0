// One channel: the transport it runs over and the session on it.
//
//   Opener ──▶ Admission ──▶ ┌─────────────┐      ┌─────────┐ ◀── ChannelReader ◀── Transport-
//    Service ──────────────▶ │ StreamTable │ ◀──▶ │ Session │ ──▶ ChannelWriter ──▶ Source
//                            └─────────────┘      └─────────┘
//
// The session decides, and the other parts carry that out. ProtocolSelector owns the sessions of
// both protocols and chooses one. Within a turn the parts only note what has to be done. At its end
// the channel admits clients, sends what was delivered, writes one batch and asks for more bytes.
//
// The channel keeps the rules of session.h for events: it calls handle_events() after every call of
// the core that may begin or end a session, and discard_events() after the loss of the transport.
// Streams are opened in admit_clients() only, when no event is left.
//
// A Service or an Opener makes what a stream ends in (endpoint.h). Both outlive the channel.
//
// A channel owns all its memory, so that clients and peers of other channels cannot use it up.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/peer_backoff.h"
#include "core/protocol_selector.h"
#include "uring/mux/admission.h"
#include "uring/mux/channel_context.h"
#include "uring/mux/channel_log.h"
#include "uring/mux/channel_reader.h"
#include "uring/mux/channel_writer.h"
#include "uring/mux/counters.h"
#include "uring/mux/service_registry.h"
#include "uring/mux/stream_table.h"
#include "uring/net/acl.h"
#include "uring/net/resolver_driver.h"
#include "uring/net/sockets.h"
#include "uring/transport/transport_kind.h"
#include "uring/transport/transport_source.h"

namespace virtproxy {

struct ChannelConfig {
  ChannelSpec spec;
  Acl peers;            // of the channel's own listener
  uint64_t memory = 0;  // bytes, for everything that grows with traffic
  uint32_t max_streams = 0;
  uint32_t window = 0;
  Integrity integrity = Integrity::kAuto;
  ProtocolMode protocol = ProtocolMode::kAuto;
  V1Limits v1;
  HashKey epoch_key{};  // see SessionConfig
  HashKey number_key{};
  uint64_t number_seed = 0;
  uint16_t first_buffer_group = 0;
  void (*release_memory)() = nullptr;  // returns the allocator's free memory to the system
  bool share_stats = false;            // its peer may ask what is known of its streams here
};

class Channel final : private TransportSource::Client,
                      private ChannelReader::Client,
                      private ChannelWriter::Client,
                      private StreamTable::Client,
                      private Loop::Deferred,
                      private Timer::Owner {
 public:
  // An error if the memory does not suffice for that many streams. It names a size that does.
  static tl::expected<void, std::string> check(const ChannelConfig& config);

  // `config` must pass check(). `services` are those that the peer may ask for.
  Channel(Loop& loop, ResolverDriver& resolver_driver, const ChannelConfig& config,
          const ServiceRegistry& services);
  ~Channel();

  // Before start(). The observer must outlive the channel.
  void add_observer(ChannelObserver& observer) { context_.observers.add(observer); }
  // What is visited behind the channel's own statistics, in its thread; it outlives the channel.
  void add_stats(const StatSource& stats) { more_stats_.push_back(&stats); }
  // For what happens to clients before the channel knows them.
  const ObserverList& observers() const { return context_.observers; }
  // Begins to connect, or accepts on what was bound before privileges were given up.
  void start(Listening listening);
  // A client of `opener` wants a stream. It gets one, or is refused, in this turn or a later one.
  void admit(Opener& opener, int client);
  // Opens no new streams; those that are open go on.
  void drain();
  bool drained() const { return streams_.empty() && admission_.empty(); }
  // Resets the streams that are left, and sends that to the peer as far as the transport has room.
  void stop();
  // True if all pending frames were written.
  bool flushed() const { return writer_.idle() && !selector().wants_to_write(loop().now()); }
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
  const StreamTable& streams() const { return streams_; }
  // Resets one stream: its application here and the one at the other end see it as aborted. False
  // where the stream is over already.
  bool reset_stream(StreamKey stream);

  // Drops the link, and with it every stream; another one is got as after any loss. False where there
  // is none.
  bool reset_link();

  // What log lines and statistics call it: its name, or its number.
  const std::string& label() const { return context_.label; }
  Session& session() { return selector().session(); }
  // 1 or 2, of session().
  unsigned protocol() const { return selector().protocol(); }
  ReceivePool& buffers() { return context_.buffers; }
  // Of its forwards it knows those that were added, before start().
  ChannelCounters& counters() { return context_.counters; }
  // Of the two groups of the driver that it uses.
  uint16_t first_buffer_group() const { return config_.first_buffer_group; }

 private:
  void transport_ready(int fd, const TransportTraits& traits) override;
  void transport_unavailable() override;
  void transport_broken(const std::string& reason) override { channel_failed(reason); }
  void peer_closed() override { context_.counters.count_closed_peer(); }
  void peer_refused(const std::string& peer, std::string_view reason) override {
    context_.observers.notify(&ChannelObserver::peer_refused, {peer, reason});
  }
  // The limits of a session do not cover streams that are over. The channel is not read while more
  // of them are left than one turn destroys, so a peer that ends sessions or streams in a tight
  // loop cannot pile them up.
  bool wants_input() override {
    return streams_.keeps_up() && selector().wants_input(loop().now());
  }
  size_t channel_input(std::span<const std::byte> bytes, ReadBuffer* buffer) override;
  uint32_t payload_ahead() override { return session().arriving().left; }
  bool splices() override;
  bool begin_splice() override;
  ssize_t splice_payload(int fd) override;
  void channel_readable() override { wake(); }
  void channel_spliced() override { flush_streams(); }
  void port_present(bool present) override;
  Endpoint& endpoint_sending(StreamKey stream, uint32_t bytes) override {
    return streams_.endpoint_sending(stream, bytes);
  }
  void channel_failed(const std::string& reason) override;
  void channel_written() override { wake(); }
  void channel_settled() override { wake(); }
  bool prepare_pipes() override { return splices() && writer_.prepare_pipes(); }
  void client_returned(const WaitingClient& client) override { admission_.put_back(client); }
  void run_deferred() override;
  void expired(Timer& timer) override;

  // How long a peer that has to send HELLO (--protocol 2) may take before it is dropped or logged.
  static constexpr std::chrono::seconds kGreetingTime{10};
  // So many connections in a row, over so long a time, does the other end close at once before that
  // is reported.
  static constexpr unsigned kHangUps = 3;
  static constexpr std::chrono::seconds kHangUpTime{3};

  ProtocolSelector& selector() { return context_.selector; }
  const ProtocolSelector& selector() const { return context_.selector; }
  Loop& loop() const { return context_.loop; }
  void wake() { context_.wakeup.wake(); }
  void set_timer();
  void recheck_device();
  void begin_session();
  uint64_t wanted_features() const;
  // `fault` is kTransportLost, or kGoingAway where this end stops.
  void end_session(const std::string& reason, Fault fault = Fault::kTransportLost);
  void release_transport();
  Duration grace() const;
  void on_no_greeting();
  void note_loss(bool was_heard);
  void admit_clients();
  void flush_streams();
  void trim();

  // channel_events.cc
  void handle_events(ReadBuffer* buffer);
  void discard_events();
  void handle(const Event& event, ReadBuffer* buffer);
  void on_up();
  void on_down(Fault fault);
  void report_up();

  const ChannelConfig config_;
  const ServiceRegistry& services_;
  ChannelContext context_;
  ChannelLog log_;
  std::vector<const StatSource*> more_stats_;
  StreamTable streams_;
  Admission admission_;
  std::unique_ptr<TransportSource> source_;
  ChannelReader reader_;
  ChannelWriter writer_;
  Timer timer_;
  Timer trim_timer_;
  Timer recheck_timer_;    // of a device, while streams are open
  Timer greeting_timer_;   // of an end that has to greet (--protocol 2) and has not yet
  size_t next_event_ = 0;  // of context_.events, the first that is not handled

  enum class TransportState : uint8_t { kNone, kInUse, kLetGo };
  TransportState transport_state_ = TransportState::kNone;
  const TransportTraits* traits_;  // of the transport that it has, or had last
  File file_;
  ReconnectBackoff reconnect_backoff_;
  Duration backoff_{};              // before the next link
  Instant unheard_since_{};         // the first loss after which nothing was heard
  bool hang_ups_reported_ = false;  // since then
  // The direction in which bytes moved last. If it changes with every message, an application waits
  // for an answer, and a send that skips its completion on success saves a turn. If it does not,
  // the turn after a send finds more to send.
  enum class Moved : uint8_t { kIn, kOut };
  Moved moved_ = Moved::kIn;
  bool busy_ = false;  // since the last trim
  bool draining_ = false;
};

}  // namespace virtproxy
