#include "sender.h"

#include <random>
#include <string>

#include "log.h"

namespace oldpeer {
namespace {

// Numbers nobody was ever given.
constexpr int32_t kNobodysClient = 900'001;
constexpr int32_t kNobodysServer = 900'002;

}  // namespace

void Sender::Tell(const std::string& text) const {
  if (log_) Say(text);
}

void Sender::Write(const void* data, size_t size) {
  if (!writer_->Write(channel_->fd(), data, size)) Tell(WithErrno("writing to the channel"));
}

void Sender::Plain(const Packet& packet) {
  Tell("sent " + packet.Describe());
  Write(packet.bytes().data(), kPacketSize);
  ++sent_;
}

void Sender::Alter(Packet* packet) {
  const int32_t type = packet->Get(kAtType);
  const bool is_data = type == kClient || type == kServer;
  if (faults_.bad_bytes_field && is_data && sent_ >= faults_.fault_after.value_or(0)) {
    packet->Set(kAtBytes, static_cast<int32_t>(*faults_.bad_bytes_field));
    faults_.bad_bytes_field.reset();
  }
  if (IsDue(faults_.bad_magic_after)) {
    packet->Set(kAtMagic, 0x0BADC0DE);
    faults_.bad_magic_after.reset();
  }
}

void Sender::Send(Packet packet) {
  if (!channel_->up()) {
    Tell("no channel for " + packet.Describe());
    if (channel_->fd() >= 0) Write(packet.bytes().data(), kPacketSize);
    return;
  }
  if (IsDue(faults_.drop_in_mid_packet)) {
    faults_.drop_in_mid_packet.reset();
    Tell("fault: half of " + packet.Describe());
    Write(packet.bytes().data(), kPacketSize / 2);
    channel_->Drop();
    return;
  }
  Alter(&packet);
  Plain(packet);
  CommitDueFaults();
}

void Sender::CommitDueFaults() {
  if (!channel_->up()) return;
  if (IsDue(faults_.stray_byte_after)) {
    faults_.stray_byte_after.reset();
    Tell("fault: stray byte");
    Write("\x5A", 1);
  }
  if (committed_ || sent_ < faults_.fault_after.value_or(0)) return;
  committed_ = true;
  if (faults_.garbage) {
    std::mt19937 noise(1044);
    std::string bytes(static_cast<size_t>(*faults_.garbage), '\0');
    for (char& byte : bytes) byte = static_cast<char>(noise());
    Tell("fault: garbage bytes=" + std::to_string(bytes.size()));
    Write(bytes.data(), bytes.size());
  }
  if (faults_.unknown_control) {
    Plain(Packet::Control(static_cast<int32_t>(*faults_.unknown_control), 0, 0));
  }
  if (faults_.unknown_type) {
    const uint8_t byte = 0;
    Plain(Packet::Data(static_cast<int32_t>(*faults_.unknown_type), 0, 0, &byte, 1));
  }
  if (faults_.init_unknown) Plain(Packet::Init(kNobodysClient, *faults_.init_unknown));
  if (faults_.stray_data) {
    const uint8_t text[] = {'s', 't', 'r', 'a', 'y'};
    for (const int32_t type : {kClient, kServer}) {
      Plain(Packet::Data(type, kNobodysClient, kNobodysServer, text, sizeof text));
    }
    Plain(Packet::Close(kNobodysClient, -1));
    Plain(Packet::Close(-1, kNobodysServer));
  }
}

}  // namespace oldpeer
