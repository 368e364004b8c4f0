// One end of one stream: sends what its plan says, checks every byte that arrives, and knows how
// the stream must end. Client and service are the same machine with the roles swapped.
//
// Client:  connect, announcement, payload ..., end; the greeting comes before the service's
// payload. Service: accept, read the announcement, greeting, payload ..., end. A killing side
// closes abortively at its drawn point, but never before the greeting has passed, so that both
// sides know the stream and its fate. The other side must then see a reset; where a unix socket is
// involved at either end a cut is also right, for a unix socket cannot always say "reset".

#ifndef VIRTPROXY_TESTS_E2E_TRAFFIC_TRANSFER_H_
#define VIRTPROXY_TESTS_E2E_TRAFFIC_TRANSFER_H_

#include <cstdint>
#include <string>

#include "content.h"
#include "loop.h"
#include "plan.h"

namespace virtproxy::traffic {

class Transfer : public Watcher {
 public:
  enum class Outcome { kNone, kComplete, kKilled, kReset, kCut };

  class Owner {
   public:
    virtual ~Owner() = default;
    // Service: the client has told which stream this is. Client: the service has answered.
    virtual void OnIntroduced(Transfer* transfer) = 0;
    virtual void OnDone(Transfer* transfer) = 0;
    virtual void OnFailed(Transfer* transfer, uint64_t offset, const std::string& what) = 0;
  };

  static constexpr bool kConnecting = true;

  // A client's end.
  Transfer(Loop* loop, Owner* owner, int fd, const Announcement& plan, bool connecting);
  // A service's end.
  Transfer(Loop* loop, Owner* owner, int fd);
  ~Transfer() override;

  void OnEvents(uint32_t events) override;
  void OnTimer() override;

  Side side() const { return side_; }
  const Announcement& plan() const { return plan_; }
  Outcome outcome() const { return outcome_; }
  bool introduced() const { return introduced_; }
  uint64_t sent() const { return sent_; }
  uint64_t received() const { return received_; }
  TimePoint last_progress() const { return last_progress_; }
  // Longest time without a byte: as a receiver until the end, as a sender until all is handed over.
  double longest_receive_gap_ms() const { return receive_gap_ms_; }
  double longest_send_gap_ms() const { return send_gap_ms_; }
  std::string Describe() const;

 private:
  void Begin();
  void Step();
  void Read();
  bool TakePrefix(const char* data, size_t size);
  bool TakePayload(const char* data, size_t size);
  void HandleEnd();
  void HandleError(int error, const char* during);
  void Drain();
  void Write();
  bool FlushPrefix();
  void MaybeKill();
  void MaybeFinish();
  void UpdateInterest();

  bool Alive() const { return fd_ >= 0; }
  bool MaySend() const { return introduced_or_client_ && (sends_at_once_ || ended_); }
  size_t PrefixSize() const {
    return side_ == Side::kClient ? sizeof(Greeting) : sizeof(Announcement);
  }
  uint64_t ReadLimit() const;
  bool CutIsRight() const;
  void Progress();
  void Finish(Outcome outcome);
  void Fail(uint64_t offset, const std::string& what);

  Loop* loop_;
  Owner* owner_;
  Side side_;
  int fd_;
  bool connecting_ = false;
  bool introduced_ = false;
  bool introduced_or_client_ = false;
  bool sends_at_once_ = false;
  bool ended_ = false;  // Everything expected has arrived, and then the end of the stream.
  bool shut_ = false;   // Everything has been sent, and then the end.
  bool kills_ = false;
  Family own_family_;
  Family other_family_ = Family::kTcp;
  Announcement plan_;
  KillPoint kill_;
  Content in_content_{0};
  Content out_content_{0};
  Rhythm write_rhythm_{Style::kMixed, 0};
  Rhythm read_rhythm_{Style::kMixed, 0};
  std::string prefix_out_;
  std::string prefix_in_;
  uint64_t expected_ = 0;
  uint64_t send_limit_ = 0;  // A killing side stops short of its end.
  uint64_t send_total_ = 0;
  uint64_t sent_ = 0;
  uint64_t received_ = 0;
  uint64_t chunk_left_ = 0;
  uint32_t interest_ = 0;
  TimePoint read_again_;
  TimePoint write_again_;
  TimePoint last_progress_;
  TimePoint last_received_;
  TimePoint last_sent_;
  double receive_gap_ms_ = 0;
  double send_gap_ms_ = 0;
  Outcome outcome_ = Outcome::kNone;
};

}  // namespace virtproxy::traffic

#endif  // VIRTPROXY_TESTS_E2E_TRAFFIC_TRANSFER_H_
