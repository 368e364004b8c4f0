// A channel over a socket that this end connects: unix, TCP or vsock.
#pragma once

#include "uring/net/connector.h"
#include "uring/transport/socket_source.h"

namespace virtproxy {

class SocketConnectSource final : public SocketSource, private Connector::Client {
 public:
  explicit SocketConnectSource(const TransportSetup& setup);
  ~SocketConnectSource() override { stop(); }

  bool idle() const override { return connector_.idle(); }

 private:
  void acquire() override;
  void cancel() override { connector_.cancel(); }
  void connected(int fd) override;
  void connect_failed(Fault fault, const std::string& reason) override;

  Connector connector_;
};

}  // namespace virtproxy
