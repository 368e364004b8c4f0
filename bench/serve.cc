#include <fmt/format.h>
#include <sys/time.h>

#include "environment.h"
#include "run.h"
#include "sink.h"

namespace virtproxy::bench {

Outcome serve(const std::vector<Address>& addresses, const SocketOptions& options,
              bool http_connect, double duration, const std::vector<int>& cpus) {
  allow_descriptors(1024);
  Sink sink(addresses, options, http_connect);
  install_signals(&sink);
  pin_thread(cpus, 0);
  if (duration > 0) {
    itimerval timer{};
    timer.it_value.tv_sec = static_cast<time_t>(duration);
    timer.it_value.tv_usec =
        static_cast<suseconds_t>((duration - static_cast<double>(timer.it_value.tv_sec)) * 1e6);
    ::setitimer(ITIMER_REAL, &timer, nullptr);
  }
  for (const Address& address : addresses) fmt::print(stderr, "listening on {}\n", address.text);
  sink.run();
  install_signals(nullptr);
  const Counters& counters = sink.counters();
  fmt::print("connections {}, bytes received {}, sent {}, exchanges {}, corrupted {}, refused {}\n",
             counters.connections.get(), counters.stream_received.get(), counters.stream_sent.get(),
             counters.exchanges.get(), counters.mismatches.get(), counters.refused.get());
  return counters.mismatches.get() > 0 ? Outcome::kCorrupted : Outcome::kOk;
}

}  // namespace virtproxy::bench
