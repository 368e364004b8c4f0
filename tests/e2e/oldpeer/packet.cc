#include "packet.h"

#include <algorithm>
#include <cstring>

namespace oldpeer {
namespace {

Packet OfType(int32_t type) {
  Packet packet;
  packet.Set(kAtType, type);
  packet.Set(kAtMagic, static_cast<int32_t>(kMagic));
  return packet;
}

std::string Numbers(const Packet& packet, Offset client, Offset server) {
  return " client=" + std::to_string(packet.Get(client)) +
         " server=" + std::to_string(packet.Get(server));
}

}  // namespace

Packet Packet::Init(int32_t client, std::string_view service) {
  Packet packet = OfType(kControl);
  packet.Set(kAtMessage, kInit);
  packet.Set(kAtControlClient, client);
  std::memcpy(packet.bytes_.data() + kAtService, service.data(),
              std::min(service.size(), kServiceSize - 1));
  return packet;
}

Packet Packet::Control(int32_t message, int32_t client, int32_t server) {
  Packet packet = OfType(kControl);
  packet.Set(kAtMessage, message);
  packet.Set(kAtControlClient, client);
  packet.Set(kAtControlServer, server);
  return packet;
}

Packet Packet::Ack(int32_t client, int32_t server) { return Control(kAck, client, server); }

Packet Packet::Close(int32_t client, int32_t server) { return Control(kClose, client, server); }

Packet Packet::Data(int32_t type, int32_t client, int32_t server, const uint8_t* data,
                    size_t bytes) {
  Packet packet = OfType(type);
  packet.Set(kAtDataClient, client);
  packet.Set(kAtDataServer, server);
  packet.Set(kAtBytes, static_cast<int32_t>(bytes));
  std::memcpy(packet.bytes_.data() + kAtData, data, std::min(bytes, kMaxData));
  return packet;
}

int32_t Packet::Get(Offset at) const {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = value << 8 | bytes_[at + i];
  return static_cast<int32_t>(value);
}

void Packet::Set(Offset at, int32_t value) {
  for (size_t i = 0; i < 4; ++i) {
    bytes_[at + i] = static_cast<uint8_t>(static_cast<uint32_t>(value) >> (8 * i));
  }
}

std::string Packet::Service() const {
  const auto* text = reinterpret_cast<const char*>(bytes_.data() + kAtService);
  return {text, strnlen(text, kServiceSize)};
}

std::string Packet::Describe() const {
  if (!HasMagic()) return "BAD-MAGIC";
  const int32_t type = Get(kAtType);
  if (type == kClient || type == kServer) {
    return (type == kClient ? "CLIENT" : "SERVER") + Numbers(*this, kAtDataClient, kAtDataServer) +
           " bytes=" + std::to_string(Get(kAtBytes));
  }
  if (type != kControl) return "UNKNOWN-TYPE type=" + std::to_string(type);
  const std::string numbers = Numbers(*this, kAtControlClient, kAtControlServer);
  switch (Get(kAtMessage)) {
    case kInit:
      return "CONTROL INIT client=" + std::to_string(Get(kAtControlClient)) +
             " service=" + Service();
    case kAck:
      return "CONTROL ACK" + numbers;
    case kClose:
      return "CONTROL CLOSE" + numbers;
    default:
      return "CONTROL UNKNOWN message=" + std::to_string(Get(kAtMessage));
  }
}

}  // namespace oldpeer
