#include "uring/service/logs/log_sink.h"

#include "uring/service/logs/datagram_sink.h"
#include "uring/service/logs/exec_sink.h"
#include "uring/service/logs/file_sink.h"
#include "uring/service/logs/forward_sink.h"
#include "uring/service/logs/otlp_sink.h"
#include "uring/service/logs/relp_sink.h"
#include "uring/service/logs/stdout_sink.h"
#include "uring/service/logs/syslog_sink.h"

namespace virtproxy {

tl::expected<std::unique_ptr<LogSink>, std::string> open_sink(const SinkSpec& spec,
                                                              AccountFile* accounts,
                                                              MadeFiles& made) {
  switch (spec.kind) {
    case SinkKind::kFile:
      return FileSink::open(spec, *accounts, made);
    case SinkKind::kRelp:
      return std::make_unique<RelpSink>(spec);
    case SinkKind::kSyslogTcp:
    case SinkKind::kSyslogUnix:
      return std::make_unique<SyslogSink>(spec);
    case SinkKind::kForward:
      return std::make_unique<ForwardSink>(spec);
    case SinkKind::kUnixDatagram:
      return std::make_unique<DatagramSink>(spec);
    case SinkKind::kOtlp:
      return std::make_unique<OtlpSink>(spec);
    case SinkKind::kExec:
      return ExecSink::open(spec);
    case SinkKind::kStdout:
      break;
  }
  return StdoutSink::open(spec);
}

}  // namespace virtproxy
