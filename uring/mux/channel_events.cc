// How a channel handles the events of its session.
#include "core/assert.h"
#include "uring/mux/channel.h"

namespace virtproxy {

// Handling an event may add events, reset streams that later events name, and discard events. It
// never opens a stream or begins a session.
void Channel::handle_events(ReadBuffer* buffer) {
  VP_ASSERT(next_event_ == 0);
  const Events& events = context_.events;
  while (next_event_ < events.size()) {
    const Event event = events[next_event_++];
    handle(event, buffer);
  }
  discard_events();
}

void Channel::discard_events() {
  context_.events.clear();
  next_event_ = 0;
}

void Channel::handle(const Event& event, ReadBuffer* buffer) {
  switch (event.kind) {
    case Event::Kind::kUp:
      return on_up();
    case Event::Kind::kDown:
      return on_down(event.fault);
    case Event::Kind::kOpened:
      return streams_.opened(event);
    case Event::Kind::kGoingAway:
      return context_.observers.notify(&ChannelObserver::peer_going_away);
    case Event::Kind::kGlitch:
      return context_.observers.notify(&ChannelObserver::glitch_seen, {event.glitch, event.count});
    case Event::Kind::kNoVersion:
      return context_.observers.notify(&ChannelObserver::no_common_version, {event.fault});
    default:
      break;
  }
  StreamHandle* const stream = streams_.find(event.stream);
  if (stream == nullptr) return;
  Endpoint& endpoint = stream->endpoint();
  switch (event.kind) {
    case Event::Kind::kData:
      return endpoint.deliver(event.bytes, buffer);
    case Event::Kind::kEnd:
      return endpoint.peer_ended();
    case Event::Kind::kCredit:
      return streams_.credit_arrived(*stream);
    case Event::Kind::kReset:
      if (event.fault == Fault::kStalled) {
        context_.observers.notify(
            &ChannelObserver::stream_held_back,
            {event.stream, stream->service(), stream->role(), endpoint.fd(), event.count});
      }
      return endpoint.abort(event.fault);
    case Event::Kind::kAborted:
      context_.observers.notify(&ChannelObserver::stream_broken_off,
                                {event.stream, stream->service(), stream->role(), endpoint.fd()});
      return endpoint.peer_broke_off();
    case Event::Kind::kClosed:
      return endpoint.finish();
    default:
      return;
  }
}

void Channel::on_up() {
  admission_.session_began();
  greeting_timer_.clear();
  if (admission_.unanswered()) {
    context_.observers.notify(&ChannelObserver::session_silent, {Silence::kSentNothing});
  } else {
    report_up();
  }
  wake();
}

void Channel::report_up() {
  context_.observers.notify(&ChannelObserver::session_up,
                            {selector().protocol(), selector().description(), source_->peer()});
}

void Channel::on_down(Fault fault) {
  context_.observers.notify(&ChannelObserver::session_down, {fault, fault_text(fault), streams_.open_streams()});
  streams_.detach_all(fault);
  const bool restarted = fault == Fault::kPeerRestarted || fault == Fault::kUpgraded;
  if (restarted || session().uses_trailers()) return;
  // Where the transport reports the loss of a peer, a peer that broke the protocol is disconnected.
  backoff_ = selector().backoff();
  release_transport();
  selector().transport_down(context_.events);
  discard_events();
}

}  // namespace virtproxy
