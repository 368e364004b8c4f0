// Packets of version 1, the protocol of 2010: 1044 bytes each, little-endian, no length in front.
//
//   0       4            8          12         16                  1040
//   +-------+------------+----------+----------+-------------------+-------+
//   | type  | message    | client   | server   | zero              | magic |  CONTROL ACK, CLOSE
//   |       | INIT       | client   | service, 32 bytes | zero     |       |  CONTROL INIT
//   |       | client     | server   | bytes    | data, 1024 bytes  |       |  CLIENT, SERVER
//   +-------+------------+----------+----------+-------------------+-------+
//
// Nothing but the magic at its end tells where a packet is. A boundary counts as proven where a
// sane packet has its magic in place and either the packet before it or the one after it has too,
// or where its unused bytes are all zero and not few.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace virtproxy {

inline constexpr size_t kV1PacketSize = 1044;
inline constexpr size_t kV1DataHead = 16;
inline constexpr uint32_t kV1MostData = 1024;
inline constexpr size_t kV1MagicSize = 4;

enum class V1Type : uint32_t { kControl = 1, kClient = 2, kServer = 3 };
enum class V1Message : uint32_t { kInit = 1, kAck = 2, kClose = 3 };

// The first 16 bytes of a packet, whose meaning its type decides.
struct V1Head {
  uint32_t type = 0;
  std::array<uint32_t, 3> word{};

  bool is_data() const {
    return type == static_cast<uint32_t>(V1Type::kClient) ||
           type == static_cast<uint32_t>(V1Type::kServer);
  }
  bool is_control() const { return type == static_cast<uint32_t>(V1Type::kControl); }
  // CONTROL
  uint32_t message() const { return word[0]; }
  int32_t control_client() const { return static_cast<int32_t>(word[1]); }
  int32_t control_server() const { return static_cast<int32_t>(word[2]); }
  // CLIENT, SERVER
  int32_t data_client() const { return static_cast<int32_t>(word[0]); }
  int32_t data_server() const { return static_cast<int32_t>(word[1]); }
  int32_t bytes() const { return static_cast<int32_t>(word[2]); }
};

V1Head decode_v1_head(const std::byte* packet);
bool has_v1_magic(const std::byte* packet);
// The name in an INIT; nothing when it is empty or has no end.
std::optional<std::string_view> v1_service(const std::byte* packet);

void encode_v1_init(int32_t client, std::string_view service, std::byte* packet);
// ACK or CLOSE.
void encode_v1_control(V1Message message, int32_t client, int32_t server, std::byte* packet);
// What goes before the data, and after it: zeros and the magic, v1_tail_size() bytes.
void encode_v1_data_head(V1Type type, int32_t client, int32_t server, uint32_t bytes,
                         std::byte* head);
constexpr size_t v1_tail_size(uint32_t bytes) { return kV1PacketSize - kV1DataHead - bytes; }
void encode_v1_tail(std::span<std::byte> tail);

struct V1Search {
  bool found = false;
  size_t at = 0;  // where the packet starts, if found; else how many bytes are before any boundary
};

// Finds the first proven boundary in `bytes`. Keeps at most kV1SearchKeeps bytes when there is
// none yet.
V1Search find_v1_packet(std::span<const std::byte> bytes);
inline constexpr size_t kV1SearchKeeps = 2 * kV1PacketSize + kV1MagicSize;

}  // namespace virtproxy
