#include "tests/sim/application.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace virtproxy::sim {
namespace {

constexpr uint64_t kNumberSize = 8;
constexpr uint64_t kNumberMark = 0x5eed000000000000;

std::byte content(uint64_t number, uint64_t at) {
  const uint64_t word = at < kNumberSize ? number : mix(number ^ (at / 8 * 0x9e3779b97f4a7c15));
  return static_cast<std::byte>(word >> (8 * (at % 8)));
}

void write_content(uint64_t number, uint64_t at, std::span<std::byte> to) {
  size_t done = 0;
  for (; done < to.size() && (at + done) % 8 != 0; ++done) to[done] = content(number, at + done);
  for (; done + 8 <= to.size(); done += 8) {
    const uint64_t from = at + done;
    const uint64_t word =
        from < kNumberSize ? number : mix(number ^ (from / 8 * 0x9e3779b97f4a7c15));
    std::memcpy(to.data() + done, &word, 8);
  }
  for (; done < to.size(); ++done) to[done] = content(number, at + done);
}

constexpr size_t kMostAtOnce = 65536;

// As in uring/service/connection_break.cc.
constexpr Duration kLongestPause = seconds(5);

// What was reset for a lost session is reset by then.
constexpr Duration kAftermath = milliseconds(200);

// Protocol 1. How long bytes may lie in a line that hides whom they are from.
constexpr Duration kInTransit = seconds(25);
// After what silence a stream whose application has ended its side is closed.
constexpr Duration kQuietTime = milliseconds(100);
constexpr Duration kAnswerTime = seconds(3);
constexpr Duration kAckTimeout = seconds(15);
// Last words can be read for so long, whatever is said to them.
constexpr Duration kTimeToHear = seconds(2);

}  // namespace

std::string network_name(const Address& address) {
  return address.kind == Address::Kind::kTcp ? fmt::format("tcp:{}", address.port) : address.host;
}

Application::Application(Exchange& exchange, uint64_t number, Role role, const Route& route,
                         std::shared_ptr<Socket> socket, const Plan& plan)
    : exchange_(exchange),
      number_(number),
      role_(role),
      route_(route),
      socket_(std::move(socket)),
      plan_(plan),
      began_(World::current().now()),
      willing_since_(began_),
      last_progress_(began_),
      crawls_(plan.read_piece <= 16),
      family_(socket_->family()),
      faulted_(socket_->faulted),
      kept_waiting_at_(socket_->kept_waiting_at),
      taken_back_(socket_->taken_back) {
  socket_->add_waiter(this);
  act_later(began_);
}

Application::~Application() {
  if (socket_) socket_->remove_waiter(this);
}

void Application::file_changed() {
  if (!over()) act_later(World::current().now() + microseconds(5));
}

void Application::act_later(Instant when) {
  if (scheduled_ && scheduled_for_ <= when) return;
  scheduled_ = true;
  scheduled_for_ = when;
  // Applications live as long as their world.
  World::current().at(when, [this, turn = ++schedule_] {
    if (turn != schedule_ || over()) return;
    scheduled_ = false;
    act();
  });
}

void Application::act() {
  if (!receiving_over_) receive();
  if (!over() && !sending_over_) send();
  if (!over() && receiving_over_ && sending_over_) leave();
}

void Application::receive() {
  World& world = World::current();
  if (world.now() < read_not_before_) return act_later(read_not_before_);
  const Canary withholding = partner_ == nullptr ? Canary::kWithholdFirst : Canary::kWithhold;
  if (world.canary() == withholding && exchange_.stands_beside_stalled(*this, world.now())) {
    return act_later(world.now() + milliseconds(10));
  }
  std::array<std::byte, kMostAtOnce> bytes;
  const int64_t got =
      socket_->read(std::span(bytes).first(std::min(plan_.read_piece, bytes.size())));
  if (got == -EAGAIN) return;
  if (got < 0) return on_error(static_cast<int>(-got));
  if (got == 0) return on_end();
  hear(std::span(bytes).first(static_cast<size_t>(got)));
  last_progress_ = world.now();
  if (received_ >= plan_.stall_at) {
    plan_.stall_at = UINT64_MAX;
    read_not_before_ = stalled_until_ = plan_.stall_until;
    stalled_since_ = world.now();
    longest_stall_ = std::max(longest_stall_, Duration(stalled_until_ - stalled_since_));
  } else {
    read_not_before_ = world.now() + plan_.read_pause;
  }
  willing_since_ = std::max(willing_since_, read_not_before_);
  act_later(std::max(read_not_before_, world.now() + microseconds(1)));
}

void Application::hear(std::span<const std::byte> bytes) {
  World& world = World::current();
  while (received_ < kNumberSize && !bytes.empty()) {
    partner_number_ |= static_cast<uint64_t>(bytes.front()) << (8 * received_++);
    bytes = bytes.subspan(1);
    if (received_ < kNumberSize) continue;
    Application* partner = exchange_.find(partner_number_);
    if (partner == nullptr || partner->role_ == role_ || &partner->route_ != &route_ ||
        (partner->partner_ != nullptr && partner->partner_ != this) ||
        (partner_ != nullptr && partner_ != partner)) {
      if (!line_lied()) {
        world.fail("bytes", fmt::format("{}: hears somebody it is not connected to ({:x})",
                                        describe(), partner_number_));
      }
      garbled_ = true;
      break;
    }
    partner_ = partner;
    partner->partner_ = this;
  }
  if (garbled_ || bytes.empty()) return;
  static thread_local std::vector<std::byte> expected;
  expected.resize(bytes.size());
  write_content(partner_number_, received_, expected);
  if (!std::equal(bytes.begin(), bytes.end(), expected.begin())) {
    if (line_lied()) {
      garbled_ = true;
      return;
    }
    const auto wrong = std::mismatch(bytes.begin(), bytes.end(), expected.begin()).first;
    world.fail("bytes", fmt::format("{}: byte {} is wrong", describe(),
                                    received_ + static_cast<uint64_t>(wrong - bytes.begin())));
  }
  received_ += bytes.size();
  if (received_ > partner_->sent_ && !line_lied()) {
    world.fail("bytes", describe() + ": received more than was sent");
  }
}

void Application::on_end() {
  receiving_over_ = true;
  World& world = World::current();
  world.trace("end", number_ & 0xffff, received_);
  complete_ = partner_ != nullptr && partner_->end_at_ == received_;
  if (complete_) return;
  // Bytes are missing: then this must be a connection that is gone, not an end like any other. TCP
  // tells them apart even when the daemon was killed.
  const bool gone = socket_->family() == Family::kUnix && socket_->peer_gone();
  const bool told = failed_to_send_ || gone || spoken_old() || beside_hostile();
  if (!told) world.fail("fate", describe() + ": sees an end though bytes are missing");
  on_error(0);
}

void Application::on_error(int error) {
  World::current().trace("error", number_ & 0xffff, error, received_);
  reset_ = reset_ || error != 0;
  note_break();
  receiving_over_ = sending_over_ = true;
}

// It may have been too busy to look.
void Application::note_break() {
  if (abnormal_at_) return;
  abnormal_at_ = socket_->peer_left_at.value_or(World::current().now());
  abandoned_full_ = socket_->left_full;
}

void Application::send() {
  World& world = World::current();
  if (world.now() < write_not_before_) return act_later(write_not_before_);
  const uint64_t limit = plan_.ending == Plan::Ending::kHalfClose ? plan_.total : plan_.ending_at;
  if (sent_ < limit) {
    std::array<std::byte, kMostAtOnce> bytes;
    const auto piece = std::span(bytes).first(
        std::min<uint64_t>({limit - sent_, plan_.write_piece, bytes.size()}));
    write_content(number_, sent_, piece);
    const int64_t put = socket_->write(piece);
    if (put == -EAGAIN) return;
    if (put < 0) {
      // What was sent to it may still be read.
      world.trace("unsendable", number_ & 0xffff, put);
      failed_to_send_ = reset_ = true;
      sending_over_ = true;
      note_break();
      return;
    }
    sent_ += static_cast<uint64_t>(put);
    last_said_ = world.now();
    write_not_before_ = world.now() + plan_.write_pause;
    if (sent_ < limit) {
      return act_later(std::max(write_not_before_, world.now() + microseconds(1)));
    }
  }
  if (plan_.ending != Plan::Ending::kHalfClose) return end_abruptly();
  sending_over_ = true;
  if (socket_->shutdown(false, true) == 0) {
    end_at_ = sent_;
    ended_at_ = world.now();
    if (!receiving_over_) world.count(Mishap::kHalfClose, route_.channel);
  }
}

void Application::end_abruptly() {
  World& world = World::current();
  abrupt_ = true;
  receiving_over_ = sending_over_ = true;
  if (plan_.ending == Plan::Ending::kReset) {
    world.count(Mishap::kApplicationResets, route_.channel);
    socket_->set_linger(true);
  } else {
    world.count(Mishap::kApplicationVanishes, route_.channel);
    if (sent_ == plan_.total && socket_->leaves_bytes_unread()) {
      world.count(Mishap::kAnswersEarly, route_.channel);
    }
  }
  const bool reset = socket_->leaves_bytes_unread() ||
                     (socket_->family() == Family::kTcp && plan_.ending == Plan::Ending::kReset);
  if (!reset) {
    end_at_ = sent_;
    ended_at_ = world.now();
  }
  leave();
}

void Application::leave() {
  World& world = World::current();
  left_at_ = world.now();
  socket_->remove_waiter(this);
  socket_.reset();
  world.trace("left", number_ & 0xffff, sent_, received_, abnormal());
  exchange_.one_left();
}

void Application::hurry() {
  plan_.read_pause = plan_.write_pause = {};
  plan_.stall_at = UINT64_MAX;
  read_not_before_ = write_not_before_ = {};
  stalled_until_ = std::min(stalled_until_, World::current().now());
  plan_.read_piece = std::max<size_t>(plan_.read_piece, 4096);
  plan_.write_piece = std::max<size_t>(plan_.write_piece, 4096);
  willing_since_ = std::max(began_, World::current().now());
  if (!over()) act_later(World::current().now());
}

// A stream with a willing sender and a willing receiver moves. A service speaks as soon as it is
// connected to, so a client is owed something before it has heard anybody.
void Application::check_progress(Instant now, Duration patience) {
  if (over() || receiving_over_ || now < read_not_before_ || beside_hostile()) return;
  if (spoken_old() && lost_touch(now)) return;
  // Since when nobody but the daemons can have kept it waiting.
  Instant owed = std::max({began_, stalled_until_, *kept_waiting_at_,
                           World::current().channel(route_.channel).undisturbed_since()});
  if (owed > now) return;
  Instant since = std::max({owed, last_progress_, willing_since_});
  if (partner_ == nullptr) {
    if (role_ == Role::kService || exchange_.explains_silence(*this)) return;
  } else {
    const bool more =
        partner_->sent_ > received_ || partner_->end_at_ ||
        (!partner_->over() && !partner_->sending_over_ && now >= partner_->write_not_before_);
    if (!more) return;
    owed = std::max(owed, partner_->began_);
    since = std::max({since, owed, partner_->write_not_before_});
    if (spoken_old() && partner_->ended_at_ && partner_->sent_ == received_) {
      if (!partner_->over() && partner_->received_ < sent_) return;
      const Instant quiet_since = std::max(
          {owed, *partner_->ended_at_, last_said_, last_progress_, partner_->last_progress_});
      since = std::max(since, quiet_since + kAnswerTime);
    }
  }
  if (now - owed > patience) {
    Exchange::Judgements& judgements = exchange_.judgements();
    ++judgements.made;
    if (spoken_old()) ++judgements.old;
    if (exchange_.stands_beside_stalled(*this, now - patience)) ++judgements.beside_stalled;
  }
  if (now - since <= patience) return;
  World::current().fail(
      "independence",
      fmt::format("nothing has moved for {:.3f} s between {} and {}",
                  std::chrono::duration<double>(now - since).count(),
                  partner_ == nullptr ? "nobody" : partner_->describe(), describe()));
}

// Whether something explains that this conversation did not end in an orderly way.
bool Application::excused() const {
  const Instant when = *abnormal_at_;
  if (World::current().channel(route_.channel).apart(when - kAftermath, when)) return true;
  if (beside_hostile()) return true;
  if (*faulted_) return true;
  if (spoken_old() && excused_of_old()) return true;
  if (partner_ == nullptr) return exchange_.explains_silence(*this);
  return *partner_->faulted_ || (partner_->abrupt_ && *partner_->left_at_ <= when);
}

bool Application::beside_hostile() const {
  return World::current().channel(route_.channel).hostile_since(began_);
}

// Who breaks off has its say: what its kernel had passed on arrives before the reset. It is not
// waited for when the reader stands still, or reads so slowly that it looks like that.
bool Application::heard_what_was_owed() const {
  if (partner_ == nullptr || !partner_->abrupt_) return true;
  const ChannelRecord& record = World::current().channel(route_.channel);
  const Instant when = *abnormal_at_;
  if (record.apart(*partner_->left_at_ - kAftermath, when) || *faulted_ || *partner_->faulted_) {
    return true;
  }
  if (beside_hostile() || (spoken_old() && excused_of_old())) return true;
  if (crawls_ || longest_stall_ >= kLongestPause - seconds(1)) return true;
  if (record.hindered_since(*partner_->left_at_)) return true;
  if (record.crowded_since(*partner_->left_at_)) return true;
  return received_ + *partner_->taken_back_ >= partner_->sent_;
}

bool Application::spoken_old() const {
  const ChannelRecord& record = World::current().channel(route_.channel);
  return record.old() || record.last_spoken_old() >= began_;
}

bool Application::line_lied() const {
  const ChannelRecord& record = World::current().channel(route_.channel);
  return beside_hostile() || (spoken_old() && record.falsified_since(began_ - kInTransit));
}

// Whether, on a line that hides it, the other end was another one, or bytes that may have been of
// this stream were lost: it is over at one end, and the other one need not know.
bool Application::lost_touch(Instant when) const {
  const ChannelRecord& record = World::current().channel(route_.channel);
  if (!record.hides()) return false;
  // The last words of an end that is gone may open a stream.
  const Instant from = partner_ == nullptr ? began_ - kInTransit : began_;
  return record.apart(from, when) || record.spoilt_since(began_ - kInTransit);
}

bool Application::held_back() const {
  return abandoned_full_ && World::current().channel(route_.channel).stalled_at(*abnormal_at_);
}

// What protocol 1 cannot do better.
bool Application::excused_of_old() const {
  const Instant when = *abnormal_at_;
  if (garbled_ || half_closed() || lost_touch(when)) return true;
  // Closed for holding the channel back.
  if (held_back() || (partner_ != nullptr && partner_->held_back())) return true;
  // The answer is behind too much, or lost.
  return World::current().channel(route_.channel).hides() && role_ == Role::kClient &&
         partner_ == nullptr && when - began_ >= kAckTimeout;
}

bool Application::heard_out(const Application& other) const {
  return other.ended_at_ && *other.ended_at_ <= *abnormal_at_ && received_ == other.sent_;
}

// A TCP connection that is closed while something is still said to it is reset, and that overtakes
// what was not read yet of its last words. There was time to read them.
bool Application::missed_words_of(const Application& other) const {
  return spoken_old() && reset_ && family_ == Family::kTcp && other.ended_at_ &&
         *abnormal_at_ - *other.ended_at_ >= kTimeToHear;
}

// An end of either side ends both directions. Before that, everything which the side that ended
// first had said is heard, by whoever has not ended; and whoever has is given time for the answer.
bool Application::half_closed() const {
  const Instant when = *abnormal_at_;
  if (partner_ != nullptr && (missed_words_of(*partner_) || heard_out(*partner_))) return true;
  if (!ended_at_ || *ended_at_ > when) return false;
  if (role_ == Role::kService) return true;
  return when - *ended_at_ >= (received_ == 0 ? kAnswerTime : kQuietTime);
}

void Application::check_end() const {
  World& world = World::current();
  if (!over()) world.fail("liveness", describe() + " has not ended");
  if (!abnormal()) {
    if (!abrupt_ && !complete_) world.fail("fate", describe() + ": neither end nor reset");
    return;
  }
  if (!excused()) world.fail("fate", describe() + ": reset for no reason");
  if (!heard_what_was_owed()) {
    world.fail("fate", fmt::format("{}: of what {} had sent before it broke off, some is missing",
                                   describe(), partner_->describe()));
  }
}

std::string Application::describe() const {
  std::string text =
      fmt::format("{} {} of {} ({}, sent {} of {}, received {}",
                  role_ == Role::kClient ? "client" : "service", number_ & 0xffff, route_.service,
                  over()                               ? "gone"
                  : socket_->family() == Family::kUnix ? "unix"
                                                       : "tcp",
                  sent_, plan_.total, received_);
  if (partner_ != nullptr) text += fmt::format(", partner {}", partner_->number_ & 0xffff);
  if (plan_.ending == Plan::Ending::kReset) text += ", resets";
  if (plan_.ending == Plan::Ending::kVanish) text += ", vanishes";
  if (sending_over_) text += ", said all";
  if (complete_) text += ", heard all";
  if (abnormal_at_) {
    text += fmt::format(", broken at {:.6f}", std::chrono::duration<double>(*abnormal_at_).count());
  }
  if (left_at_) {
    text += fmt::format(", left at {:.6f}", std::chrono::duration<double>(*left_at_).count());
  }
  return text + ")";
}

Application& Exchange::add(Application::Role role, const Route& route,
                           std::shared_ptr<Socket> socket, const Plan& plan) {
  ++running_;
  const uint64_t number = kNumberMark | (applications_.size() + 1);
  applications_.push_back(
      std::make_unique<Application>(*this, number, role, route, std::move(socket), plan));
  return *applications_.back();
}

bool Exchange::explains_silence(const Application& unheard) const {
  World& world = World::current();
  const Route& route = unheard.route_;
  if (unheard.role_ == Application::Role::kClient &&
      (world.refused_since(network_name(route.service_end), unheard.began_) ||
       world.channel(route.channel).last_full() >= unheard.began_)) {
    return true;
  }
  // Its partner may have gone before it could say who it is.
  return std::any_of(applications_.begin(), applications_.end(), [&](const auto& other) {
    if (&other->route_ != &route || other->role_ == unheard.role_ || other->partner_ != nullptr) {
      return false;
    }
    if (unheard.missed_words_of(*other)) return true;
    if (!other->abrupt_ && !*other->faulted_) return false;
    const bool client_first = unheard.role_ == Application::Role::kClient
                                  ? unheard.began_ <= other->began_
                                  : other->began_ <= unheard.began_;
    if (!client_first || *other->faulted_) return client_first;
    return !unheard.abnormal_at_ || *other->left_at_ <= *unheard.abnormal_at_;
  });
}

bool Exchange::stands_beside_stalled(const Application& application, Instant since) const {
  const Instant now = World::current().now();
  return std::any_of(applications_.begin(), applications_.end(), [&](const auto& other) {
    return other->stalled_until_ > now && other->stalled_since_ <= since && !other->over() &&
           other->partner_ != nullptr && other->partner_->sent_ > other->received_ &&
           other->route_.channel == application.route_.channel &&
           other->on_host() == application.on_host();
  });
}

size_t Exchange::running(unsigned channel) const {
  return static_cast<size_t>(
      std::count_if(applications_.begin(), applications_.end(), [&](const auto& application) {
        return !application->over() && application->route_.channel == channel;
      }));
}

Application* Exchange::find(uint64_t number) {
  const uint64_t at = (number & ~kNumberMark) - 1;
  const bool known = (number & kNumberMark) == kNumberMark && at < applications_.size();
  return known ? applications_[at].get() : nullptr;
}

void Exchange::hurry() {
  for (const auto& application : applications_) application->hurry();
}

void Exchange::check_progress(unsigned channel, Duration patience) {
  const Instant now = World::current().now();
  for (const auto& application : applications_) {
    if (application->route_.channel == channel) application->check_progress(now, patience);
  }
}

void Exchange::check_ends() const {
  for (const auto& application : applications_) application->check_end();
}

std::string Exchange::describe_running() const {
  std::string text;
  for (const auto& application : applications_) {
    if (!application->over()) text += "  running: " + application->describe() + "\n";
  }
  return text;
}

Exchange::Totals Exchange::totals() const {
  Totals totals;
  for (const auto& application : applications_) {
    totals.complete += application->complete_ ? 1 : 0;
    totals.abnormal += application->abnormal() ? 1 : 0;
    totals.bytes += application->received_;
  }
  return totals;
}

}  // namespace virtproxy::sim
