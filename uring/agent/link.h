// One connection of the agent: a port, a stream of the proxy, or a program of this machine. Moves
// bytes between its descriptor and its conversation, and the raw bytes of files beside them.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/agent/conversation.h"
#include "core/agent/method_table.h"
#include "uring/agent/files.h"
#include "uring/agent/port.h"
#include "uring/base/unique_fd.h"

namespace virtproxy::agent {

// A file that is being sent behind its answer.
struct Download {
  UniqueFd fd;
  uint64_t left = 0;
  uint64_t sent = 0;
  uint64_t token = 0;
};

// A request that was taken and not answered yet, for the log.
struct OpenCall {
  std::string method;
  std::string detail;  // the path or name that it is about
};

struct Link {
  static constexpr size_t kReadSize = 64 * 1024;

  Link(uint64_t number, Source from, ConversationConfig config, Conversation::PaceOf pace)
      : id(number), source(from), conversation(std::move(config), pace) {}

  // Bytes for poll(2): what this link waits for.
  short events() const;
  // Bytes that are read ahead of the conversation.
  size_t read_size() const { return port ? kPortReadAhead : kReadSize; }
  // Reads once. False when the connection is gone, or has ended and nothing is left to be answered.
  bool read_some();
  // Whether the peer has closed both directions, of a socket that was read to its end. A peer that
  // has only ended what it sends still waits for an answer.
  bool peer_closed() const;
  // Writes what is there, as far as it is taken. False when the connection is gone.
  bool write_some(Instant now);
  // Gives what was read to the conversation, up to one request. True if anything was taken.
  bool parse(Instant now);
  // Nothing more comes and nothing is left to be written.
  bool finished() const;

  const uint64_t id;
  const Source source;
  Conversation conversation;
  std::optional<PortSpec> port;
  UniqueFd fd;
  std::string who;  // for the log
  std::string unread;
  enum class Input { kOpen, kEnded } input = Input::kOpen;
  enum class After { kGoOn, kClose } after = After::kGoOn;  // once everything is written
  bool subscribed = false;
  OpenFiles files;
  std::map<uint64_t, OpenCall> calls;
  std::optional<Upload> upload;
  uint64_t upload_token = 0;
  std::optional<Download> download;
  // Of a port that is not there, when to try again; of one that nobody has opened at the other end,
  // when to look again.
  std::optional<Instant> retry_at;
  // Since when a port that is known to have no other end has had none.
  std::optional<Instant> alone_since;
  Instant opened_at{};      // of a port: its descriptor
  Duration reopen_after{};  // what the last loss of its descriptor led to
  bool complained = false;  // about a port that is not there
};

}  // namespace virtproxy::agent
