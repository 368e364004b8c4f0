// What a hostile peer writes: greetings, frames of protocol 2 and packets of protocol 1, most of
// them valid, in an order that no honest peer would choose.
//
// It knows what a peer can know: what the attacked end wrote. Beyond that it knows the key of that
// end's epochs, so that it can predict one before that end has written it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/siphash.h"
#include "core/wire/frame.h"
#include "core/wire/hello.h"
#include "tests/sim/world.h"

namespace virtproxy::sim {

// The end that is attacked.
struct Target {
  unsigned channel = 0;               // its id
  std::vector<std::string> services;  // that it offers
  std::function<HashKey()> epoch_key;  // of the daemon that is there now
};

class HostileBytes {
 public:
  using Bytes = std::vector<std::byte>;

  explicit HostileBytes(Target target) : target_(std::move(target)) {}

  // The channel was opened anew.
  void on_connected();
  // The attacked end wrote this.
  void on_bytes(std::span<const std::byte> bytes);
  // What to write at once.
  Bytes segment();

 private:
  struct Stream {
    uint32_t number;
    uint64_t sent = 0;
    bool ended = false;
  };

  void add_greeting(Bytes& to);
  void add_frame(Bytes& to);
  void add_frame(Bytes& to, FrameHeader header, std::span<const std::byte> payload);
  void add_open(Bytes& to);
  void add_fault(Bytes& to);
  void add_packet(Bytes& to);
  void add_init(Bytes& to, int32_t client);
  void add_data(Bytes& to, int32_t client, int32_t server);
  void add_noise(Bytes& to, size_t most);
  Hello draw_identity();
  std::string draw_service();
  int32_t draw_number(const std::vector<int32_t>& known);
  // The epoch that the attacked end will draw after `draws` others.
  std::optional<uint64_t> predicted(unsigned draws) const;
  // The epoch that it has now, as far as can be known.
  std::optional<uint64_t> expected() const;
  void session_over();
  void count(Mishap mishap) { World::current().count(mishap, target_.channel); }

  const Target target_;
  Bytes unread_;                    // read, not searched yet
  std::vector<uint64_t> epochs_;    // of the attacked end, as read
  uint64_t features_ = 0;           // that it wants
  unsigned epochs_ahead_ = 0;       // drawn by it since, for what was written here
  std::vector<Hello> earlier_;      // greetings of earlier lives
  uint64_t epoch_ = 0;              // the last one greeted with
  bool established_ = false;        // the attacked end is believed to be in a session
  DirectionKey key_;                // of frames in it
  TrailerKind trailer_ = TrailerKind::kNone;
  uint64_t frames_ = 0;
  std::vector<Stream> streams_;
  std::vector<int32_t> its_clients_;  // numbers of protocol 1, as read
  std::vector<int32_t> its_servers_;
};

}  // namespace virtproxy::sim
