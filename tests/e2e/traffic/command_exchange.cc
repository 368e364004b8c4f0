// exchange and flood: many streams at once, every byte and every ending checked.

#include <algorithm>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "commands.h"
#include "loop.h"
#include "net.h"
#include "plan.h"
#include "report.h"
#include "transfer.h"

namespace virtproxy::traffic {
namespace {

std::vector<Announcement> DrawPlans(const ExchangeOptions& options) {
  Random random(Mix(options.seed) + 1);
  std::vector<Announcement> plans(options.streams);
  for (size_t i = 0; i < plans.size(); ++i) {
    Announcement& plan = plans[i];
    plan.seed = options.seed;
    plan.stream = static_cast<uint32_t>(i);
    plan.up = plan.down = options.bytes;
    if (options.flood) {
      plan.style = Style::kFlat;
      // Uploads and downloads take turns, so that both kinds are there from the beginning.
      const uint64_t pairs = std::min(options.uploads, options.downloads);
      const bool up = i < 2 * pairs ? i % 2 == 0 : options.uploads > options.downloads;
      (up ? plan.down : plan.up) = 0;
      continue;
    }
    if (options.tiny) plan.style = Style::kTiny;
    if (options.half_close) {
      plan.order = random.OneIn(2) ? Order::kClientFirst : Order::kServiceFirst;
    }
  }
  std::vector<size_t> order(plans.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  for (size_t i = 0; i < options.kill; ++i) {
    std::swap(order[i], order[random.Between(i, order.size() - 1)]);
    plans[order[i]].killer = random.OneIn(2) ? Killer::kClient : Killer::kService;
  }
  return plans;
}

class Exchange : public Transfer::Owner {
 public:
  explicit Exchange(const ExchangeOptions& options)
      : options_(options), plans_(DrawPlans(options)), seen_(options.streams, false) {}

  int Run();

  void OnIntroduced(Transfer* transfer) override;
  void OnDone(Transfer* transfer) override;
  void OnFailed(Transfer* transfer, uint64_t offset, const std::string& what) override;

 private:
  struct Tally {
    uint64_t complete = 0;
    uint64_t killed = 0;
    uint64_t reset = 0;
    uint64_t cut = 0;
    uint64_t sent = 0;
    uint64_t received = 0;
    uint64_t Done() const { return complete + killed + reset + cut; }
  };

  void OpenMore();
  void CheckStalls();
  void Forget(Transfer* transfer);
  void StopWhenDone();
  static Json Summary(const Tally& tally);

  const ExchangeOptions options_;
  const std::vector<Announcement> plans_;
  std::vector<bool> seen_;
  Loop loop_;
  std::optional<Address> target_;
  std::unordered_map<Transfer*, std::unique_ptr<Transfer>> transfers_;
  uint64_t started_ = 0;
  uint64_t opening_ = 0;
  Tally clients_;
  Tally services_;
  double receive_gap_ms_ = 0;
  double send_gap_ms_ = 0;
  std::string failure_;
};

int Exchange::Run() {
  const TimePoint begin = Clock::now();
  std::unique_ptr<Acceptor> acceptor;
  if (!options_.listen.empty()) {
    const int listener = Listen(Address::Parse(options_.listen), 4096);
    acceptor = std::make_unique<Acceptor>(&loop_, listener, [this](int fd) {
      auto transfer = std::make_unique<Transfer>(&loop_, this, fd);
      Transfer* key = transfer.get();
      transfers_.emplace(key, std::move(transfer));
    });
    if (options_.connect.empty()) Json().Set("ready", options_.listen).Print();
  }
  if (!options_.connect.empty()) target_ = Address::Parse(options_.connect);
  Ticker opener(&loop_, std::chrono::milliseconds(10), [this] { OpenMore(); });
  Ticker stalls(&loop_, std::chrono::milliseconds(500), [this] { CheckStalls(); });
  OpenMore();
  loop_.Run();
  if (failure_.empty() && loop_.Signalled()) failure_ = "interrupted by a signal";

  const double seconds = Milliseconds(Clock::now() - begin) / 1000;
  Json json;
  json.Set("role", options_.flood ? "flood" : "exchange")
      .Set("ok", failure_.empty())
      .Set("seed", options_.seed)
      .Set("streams", options_.streams)
      .Set("seconds", seconds);
  if (target_) json.Set("clients", Summary(clients_));
  if (acceptor) json.Set("services", Summary(services_));
  json.Set("longest_gap_ms", receive_gap_ms_).Set("longest_send_gap_ms", send_gap_ms_);
  if (!failure_.empty()) json.Set("failure", failure_);
  json.Print();
  return failure_.empty() ? 0 : 1;
}

Json Exchange::Summary(const Tally& tally) {
  Json json;
  json.Set("complete", tally.complete)
      .Set("killed", tally.killed)
      .Set("saw_reset", tally.reset)
      .Set("saw_cut", tally.cut)
      .Set("sent", tally.sent)
      .Set("received", tally.received);
  return json;
}

void Exchange::OpenMore() {
  while (target_ && started_ < plans_.size() && opening_ < options_.opening) {
    int fd = -1;
    const ConnectState state = StartConnect(*target_, &fd);
    if (state == ConnectState::kTryLater) return;
    auto transfer = std::make_unique<Transfer>(&loop_, this, fd, plans_[started_],
                                               state == ConnectState::kInProgress);
    Transfer* key = transfer.get();
    transfers_.emplace(key, std::move(transfer));
    ++started_;
    ++opening_;
  }
}

void Exchange::OnIntroduced(Transfer* transfer) {
  if (transfer->side() == Side::kClient) {
    --opening_;
    OpenMore();
    return;
  }
  const uint32_t stream = transfer->plan().stream;
  if (stream >= seen_.size() || seen_[stream]) {
    return OnFailed(transfer, 0, stream >= seen_.size() ? "no such stream" : "a stream came twice");
  }
  seen_[stream] = true;
}

void Exchange::OnDone(Transfer* transfer) {
  const bool client = transfer->side() == Side::kClient;
  Tally& tally = client ? clients_ : services_;
  switch (transfer->outcome()) {
    case Transfer::Outcome::kComplete:
      ++tally.complete;
      break;
    case Transfer::Outcome::kKilled:
      ++tally.killed;
      break;
    case Transfer::Outcome::kReset:
      ++tally.reset;
      break;
    case Transfer::Outcome::kCut:
    case Transfer::Outcome::kNone:
      ++tally.cut;
      break;
  }
  tally.sent += transfer->sent();
  tally.received += transfer->received();
  receive_gap_ms_ = std::max(receive_gap_ms_, transfer->longest_receive_gap_ms());
  send_gap_ms_ = std::max(send_gap_ms_, transfer->longest_send_gap_ms());
  if (client && !transfer->introduced()) --opening_;
  Forget(transfer);
  OpenMore();
  StopWhenDone();
}

void Exchange::StopWhenDone() {
  const bool clients_done = !target_ || clients_.Done() == plans_.size();
  const bool services_done = options_.listen.empty() || services_.Done() == plans_.size();
  if (clients_done && services_done) loop_.Stop();
}

void Exchange::OnFailed(Transfer* transfer, uint64_t offset, const std::string& what) {
  if (failure_.empty()) {
    failure_ = "seed=" + std::to_string(options_.seed) + " offset=" + std::to_string(offset) + " " +
               transfer->Describe() + ": " + what;
    Complain("FAILED " + failure_);
  }
  Forget(transfer);
  loop_.Stop();
}

void Exchange::Forget(Transfer* transfer) {
  const auto found = transfers_.find(transfer);
  if (found == transfers_.end()) return;
  loop_.Retire(std::move(found->second));
  transfers_.erase(found);
}

void Exchange::CheckStalls() {
  const TimePoint now = Clock::now();
  std::vector<Transfer*> stalled;
  for (const auto& [transfer, owned] : transfers_) {
    const double idle = Milliseconds(now - transfer->last_progress());
    if (idle > options_.stall_limit * 1000) stalled.push_back(transfer);
  }
  if (stalled.empty()) return;
  for (size_t i = 0; i < stalled.size() && i < 20; ++i) {
    Complain("stalled: " + stalled[i]->Describe());
  }
  OnFailed(stalled[0], stalled[0]->received(),
           "no progress for " + std::to_string(options_.stall_limit) + " s on " +
               std::to_string(stalled.size()) + " ends of streams");
}

}  // namespace

int RunExchange(const ExchangeOptions& options) {
  if (options.connect.empty() && options.listen.empty()) {
    throw UsageError("needs --connect or --listen or both");
  }
  if (options.kill > options.streams) throw UsageError("--kill exceeds --streams");
  if (options.streams == 0) throw UsageError("needs at least one stream");
  if (options.kill > 0 && options.bytes < 2) throw UsageError("--kill needs --bytes 2 or more");
  return Exchange(options).Run();
}

}  // namespace virtproxy::traffic
