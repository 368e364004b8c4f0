// The one packet of the old format: 1044 bytes, little-endian fields at fixed offsets.

#ifndef VIRTPROXY_OLDPEER_PACKET_H_
#define VIRTPROXY_OLDPEER_PACKET_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace oldpeer {

inline constexpr size_t kPacketSize = 1044;
inline constexpr size_t kMaxData = 1024;
inline constexpr size_t kServiceSize = 32;
inline constexpr uint32_t kMagic = 0x1F374059;

enum Type : int32_t { kControl = 1, kClient = 2, kServer = 3 };
enum Message : int32_t { kInit = 1, kAck = 2, kClose = 3 };

// Where the fields are.
enum Offset : size_t {
  kAtType = 0,
  kAtMessage = 4,         // CONTROL
  kAtControlClient = 8,   // INIT, ACK, CLOSE
  kAtControlServer = 12,  // ACK, CLOSE
  kAtService = 12,        // INIT
  kAtDataClient = 4,      // CLIENT, SERVER
  kAtDataServer = 8,
  kAtBytes = 12,
  kAtData = 16,
  kAtMagic = 1040,
};

class Packet {
 public:
  static Packet Init(int32_t client, std::string_view service);
  static Packet Ack(int32_t client, int32_t server);
  static Packet Close(int32_t client, int32_t server);
  static Packet Control(int32_t message, int32_t client, int32_t server);
  static Packet Data(int32_t type, int32_t client, int32_t server, const uint8_t* data,
                     size_t bytes);

  int32_t Get(Offset at) const;
  void Set(Offset at, int32_t value);

  bool HasMagic() const { return static_cast<uint32_t>(Get(kAtMagic)) == kMagic; }
  std::string Service() const;
  const uint8_t* data() const { return bytes_.data() + kAtData; }

  std::array<uint8_t, kPacketSize>& bytes() { return bytes_; }
  const std::array<uint8_t, kPacketSize>& bytes() const { return bytes_; }

  // One line for the log.
  std::string Describe() const;

 private:
  std::array<uint8_t, kPacketSize> bytes_{};
};

}  // namespace oldpeer

#endif  // VIRTPROXY_OLDPEER_PACKET_H_
