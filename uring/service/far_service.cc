#include "uring/service/far_service.h"

#include <algorithm>
#include <utility>

namespace virtproxy {

FarService::FarService(Loop& loop, std::string channel, Mailbox& mailbox, Ask ask)
    : loop_(loop),
      channel_(std::move(channel)),
      mailbox_(mailbox),
      ask_(std::move(ask)),
      box_(std::make_shared<Box>(Box{this})) {}

FarService::~FarService() { box_->service = nullptr; }

tl::expected<std::unique_ptr<Endpoint>, Fault> FarService::open(StreamHandle& stream,
                                                                std::span<const std::byte>) {
  if (visits_.size() >= kMostVisits) return tl::unexpected(Fault::kNoResources);
  FarStream::Client* const client = this;
  Timer::Owner* const owner = this;
  auto endpoint = std::make_unique<FarStream>(stream, client, std::string());
  Visit& visit = visits_.emplace_back(loop_.timers(), owner, next_id_++);
  visit.stream = endpoint.get();
  visit.timer.set(loop_.now() + kVisitLimit);
  return endpoint;
}

// What follows the line is of no interest.
bool FarService::stream_text(FarStream& stream, std::string_view text) {
  const auto visit = std::find_if(visits_.begin(), visits_.end(),
                                  [&](const Visit& each) { return each.stream == &stream; });
  if (visit == visits_.end()) return false;
  if (visit->state != Visit::State::kReading) return true;
  const size_t end = text.find('\n');
  visit->line += text.substr(0, end);
  if (visit->line.size() > kMostLine) return false;
  if (end == std::string_view::npos) return true;
  if (loop_.now() >= next_at_) {
    pass_on(*visit);
  } else {
    visit->state = Visit::State::kDue;
    visit->timer.set(next_at_);
    next_at_ += kPause;
  }
  return true;
}

void FarService::pass_on(Visit& visit) {
  next_at_ = std::max(next_at_, loop_.now() + kPause);
  visit.state = Visit::State::kAsked;
  visit.timer.set(loop_.now() + kVisitLimit);
  ask_({channel_, visit.line, [box = box_, id = visit.id, &mailbox = mailbox_](std::string text) {
          mailbox.post([box, id, text = std::move(text)] {
            if (box->service != nullptr) box->service->answered(id, text);
          });
        }});
}

void FarService::answered(uint64_t id, std::string text) {
  const auto visit = std::find_if(visits_.begin(), visits_.end(),
                                  [id](const Visit& each) { return each.id == id; });
  if (visit != visits_.end()) visit->stream->send(std::move(text));
}

void FarService::stream_over(FarStream& stream, Fault) {
  visits_.remove_if([&](const Visit& visit) { return visit.stream == &stream; });
}

void FarService::expired(Timer& timer) {
  const auto visit = std::find_if(visits_.begin(), visits_.end(),
                                  [&](const Visit& each) { return &each.timer == &timer; });
  if (visit == visits_.end()) return;
  if (visit->state == Visit::State::kDue) return pass_on(*visit);
  FarStream* const stream = visit->stream;
  stream->leave(Fault::kTimedOut);
}

}  // namespace virtproxy
