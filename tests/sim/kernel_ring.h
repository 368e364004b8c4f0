// The kernel's side of one io_uring: takes requests out of the submission queue, carries them out
// on simulated files, and puts completions, sometimes late, into the completion queue.
//
// It keeps the promises that the endpoint code relies on and no others: completions of one
// descriptor come in the order in which they happened, those of different ones in any; a request
// holds its file; vectors and message headers are read while the request is submitted and never
// afterwards; a buffer group may be empty.
#pragma once

#include <liburing.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "tests/sim/file.h"

namespace virtproxy::sim {

class Disk;
class Process;

class KernelRing {
 public:
  KernelRing(Process& process, io_uring* ring, unsigned submissions, unsigned completions);
  ~KernelRing();
  KernelRing(const KernelRing&) = delete;
  KernelRing& operator=(const KernelRing&) = delete;

  const io_uring* handle() const { return ring_; }

  int submit();
  // Submits, and notes whether the process would have slept.
  int wait(bool for_completion);
  unsigned peek(io_uring_cqe** entries, unsigned count);

  int register_files(unsigned count);
  int update_file(unsigned index, int fd);
  int register_buffers(const io_uring_buf_reg& registration);
  int unregister_buffers(int group);

  // Whether a wait would return now.
  bool ready() const;
  size_t pending() const { return requests_.size(); }
  // Requests that were queued and not submitted, as the tail in memory says.
  unsigned queued() const { return sq_tail_ - submitted_; }

  // Of a process that was killed: every request is over, and every later one is at once.
  void kill();

 private:
  class Request;
  // What is used of a submission.
  struct Entry {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t addr;
    uint64_t off;
    uint32_t len;
    uint32_t operation_flags;
    uint64_t user_data;
    uint16_t buf_group;
  };
  struct Result {
    uint64_t user_data;
    int result;
    uint32_t flags;
  };
  struct BufferGroup {
    io_uring_buf_ring* ring = nullptr;
    uint32_t entries = 0;
    uint16_t head = 0;
  };
  struct Outcome {
    int result;
    uint32_t flags = 0;
    bool more = false;  // the request goes on
  };

  void start(const Entry& entry);
  void cancel(uint64_t user_data);
  void set_timer(uint64_t user_data, uint64_t time);
  void retry(uint64_t id);
  bool reader_is_blocked(const Request& request) const;
  std::optional<Outcome> attempt(Request& request);
  static bool receives(const Request& request);
  static Outcome use_disk(const Request& request, Disk& disk);
  std::optional<Outcome> receive(Request& request);
  std::optional<Outcome> send(Request& request);
  std::optional<Outcome> accept(Request& request);
  std::optional<Outcome> poll(Request& request);
  std::optional<int> injected_error(const Request& request);
  void finish(Request& request, Outcome outcome);
  void post(uint64_t user_data, int result, uint32_t flags, File* file);
  void push(const Result& result);
  void put(const Result& result);

  Process& process_;
  io_uring* ring_;
  unsigned submitted_ = 0;  // head of the submission queue
  unsigned sq_tail_ = 0;
  unsigned sq_flags_ = 0;
  unsigned cq_head_ = 0;
  unsigned cq_tail_ = 0;
  unsigned cq_size_;
  std::unique_ptr<io_uring_sqe[]> submissions_;
  std::unique_ptr<unsigned[]> indices_;  // into the submissions; the identity
  std::unique_ptr<io_uring_cqe[]> completions_;
  std::deque<Result> overflow_;
  std::vector<FileRef> files_;
  std::map<int, BufferGroup> groups_;
  std::map<uint64_t, std::shared_ptr<Request>> requests_;  // in the order of submission
  uint64_t started_ = 0;
  uint64_t posted_ = 0;
  uint64_t latest_pushed_ = 0;
  std::map<uint64_t, uint64_t> timers_;  // by user_data, which of those that were set
  uint64_t timers_set_ = 0;
  bool asleep_ = false;
  bool dead_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

}  // namespace virtproxy::sim
