// Changes of channels and forwards while the process runs: a configuration that is read anew, and
// single ones by the control socket.
//
//   files, command line ──▶ Options ──▶ difference() ──▶ sandbox ──▶ listeners ──▶ workers
//
// Everything that can fail comes before the first worker is told anything, in the main thread. So a
// configuration with an error changes nothing. What a worker then does cannot fail, but for memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "uring/base/mailbox.h"
#include "uring/daemon/channel_change.h"
#include "uring/daemon/difference.h"
#include "uring/daemon/landlock.h"
#include "uring/daemon/listener_store.h"
#include "uring/daemon/options.h"
#include "uring/daemon/sandbox.h"
#include "uring/daemon/service_manager.h"
#include "uring/daemon/worker.h"

namespace virtproxy {

// What confines the process, for what a change may add.
struct Confinement {
  std::optional<LandlockRules> landlock;
  bool filtered = false;  // system calls
};

class Reloader {
 public:
  using Result = ChannelChange::Result;
  using Finish = ChannelChange::Finish;
  // Reads the command line and the files again.
  using Read = std::function<ParseResult()>;
  using Workers = std::vector<std::unique_ptr<Worker>>;

  // All of them must outlive this object. `options` are those in effect, which it changes.
  Reloader(Options& options, Workers& workers, ListenerStore& listeners, ServiceManager& manager,
           Read read);

  // Once everything is confined that will be.
  void set_confinement(Confinement confinement) { confinement_ = std::move(confinement); }

  // `finish` is called in the main thread: at once with an error, or once every worker has the change.
  void make(const ChannelChange& change, const Finish& finish);

  // A channel could not begin: it is none any more, so that the next change may try again.
  void forget(const std::string& channel);

  // Readable when run() has something to do.
  int fd() const { return mailbox_->fd(); }
  void run();

 private:
  void reload(const Finish& finish);
  void add(char option, const std::string& arg, const Finish& finish);
  void remove(char option, const std::string& arg, const Finish& finish);
  // Makes `wanted` the options. `what` begins the line of the log.
  void change_to(Options wanted, std::string_view what, const Finish& finish);
  tl::expected<Options, std::string> read_one(char option, const std::string& arg) const;
  void check_confinement(const Options& wanted, const Difference& difference,
                         std::vector<std::string>& errors) const;
  std::vector<std::shared_ptr<WorkerChange>> changes_of(const Options& wanted,
                                                        const Difference& difference,
                                                        std::vector<std::string>& errors);
  size_t worker_for(const std::string& channel) const;
  WantedChannel wanted_channel(const Options& options, const ChannelOptions& channel,
                               const ChannelOptions* before, std::vector<std::string>& errors);
  void keep_listeners(const Options& options);
  std::string privileges_lost() const;

  Options& options_;
  const Options at_start_;
  Workers& workers_;
  ListenerStore& listeners_;
  ServiceManager& manager_;
  const Read read_;
  Confinement confinement_;
  std::shared_ptr<Mailbox> mailbox_;  // a worker may still hold it when this object is gone
  // The channels of each worker, as it said last, and what was given to it since.
  std::vector<std::vector<std::string>> places_;
  uint64_t changes_ = 0;  // given to the workers so far
};

}  // namespace virtproxy
