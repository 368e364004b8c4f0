// The roles the program can play. Each returns the exit code.

#ifndef VIRTPROXY_TESTS_E2E_TRAFFIC_COMMANDS_H_
#define VIRTPROXY_TESTS_E2E_TRAFFIC_COMMANDS_H_

#include <cstdint>
#include <string>

namespace virtproxy::traffic {

struct ExchangeOptions {
  std::string connect;  // Plays the clients when given ...
  std::string listen;   // ... and the service when given.
  uint64_t streams = 200;
  uint64_t bytes = 20 << 20;
  uint64_t seed = 0;
  uint64_t kill = 0;
  uint64_t opening = 64;
  double stall_limit = 60;
  bool half_close = false;
  bool tiny = false;
  // flood: this many one-way streams instead, flat out.
  bool flood = false;
  uint64_t uploads = 0;
  uint64_t downloads = 0;
};
int RunExchange(const ExchangeOptions& options);

struct HoldOptions {
  std::string address;
  uint64_t streams = 1;
  bool push = false;
};
// Services: accept and never read; accept and send for ever; listen with a full backlog.
int RunSinkNever(const HoldOptions& options);
int RunPour(const HoldOptions& options);
int RunNeverAccept(const HoldOptions& options);
// Clients that never read; with `push` they write until nothing goes any more.
int RunSourceStuck(const HoldOptions& options);

int RunEcho(const std::string& listen);
// Connections proven with one echoed byte and then held.
int RunIdle(const HoldOptions& options);

struct ProbeOptions {
  std::string connect;
  double seconds = 5;
  uint64_t size = 64;
  uint64_t ping_interval_us = 1000;
  uint64_t open_interval_us = 5000;
  double timeout = 10;
  bool until_signal = false;
};
int RunProbe(const ProbeOptions& options);

}  // namespace virtproxy::traffic

#endif  // VIRTPROXY_TESTS_E2E_TRAFFIC_COMMANDS_H_
