// Where the collectors of a process hand in their parcels: LogHub, or what stands in for it in a
// simulation.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/logs/message.h"
#include "uring/base/mailbox.h"
#include "uring/service/logs/parcel.h"

namespace virtproxy {

class LogCollector;

// A collector that waits for releases. It outlives the collector, whose thread alone runs it.
struct ReplyBox {
  Mailbox mailbox;
  LogCollector* collector = nullptr;  // read by tasks of the mailbox alone
};

// What a collector is told of a parcel that is safe everywhere.
struct ParcelRelease {
  logs::LogId log;
  uint64_t position = 0;
  bool finished = false;
  size_t cost = 0;  // bytes of memory
  std::vector<Parcel::Refused> refused;
};

class ParcelHub {
 public:
  // From any thread, once the hub has started. Parcels of a VM keep their order. Each is released
  // through its reply box once it is safe, with its account, and not before.
  virtual void submit(std::shared_ptr<Parcel> parcel) = 0;
  // Memory that the unreleased parcels of one VM should not exceed, bytes. They may by one feed of
  // the receiver: a batch of the largest size.
  virtual size_t vm_budget() const = 0;
  virtual const std::string& vm(size_t index) const = 0;
  // The accounts with which the receiver of a VM goes on.
  virtual std::vector<logs::LogAccount> restored(size_t vm) const = 0;
  // Where a parcel is safe once it is released. The receiver acknowledges it with this level.
  virtual logs::AckLevel level() const = 0;

 protected:
  ~ParcelHub() = default;
};

}  // namespace virtproxy
