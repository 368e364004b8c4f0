#include "uring/daemon/stream_rows.h"

#include "uring/base/units.h"

namespace virtproxy {

std::string to_string(const StreamName& name) {
  return name.channel + "/" + std::to_string(name.key.slot) + "." +
         std::to_string(name.key.generation);
}

std::optional<StreamName> parse_stream_name(std::string_view text) {
  const size_t slash = text.rfind('/');
  if (slash == std::string_view::npos) return std::nullopt;
  const std::string_view key = text.substr(slash + 1);
  const size_t dot = key.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const auto slot = parse_number<uint32_t>(key.substr(0, dot));
  const auto generation = parse_number<uint32_t>(key.substr(dot + 1));
  if (!slot || !generation) return std::nullopt;
  return StreamName{std::string(text.substr(0, slash)), {*slot, *generation}};
}

std::optional<StreamOrder> parse_stream_order(std::string_view name) {
  if (name == "age") return StreamOrder::kAge;
  if (name == "sent") return StreamOrder::kSent;
  if (name == "received") return StreamOrder::kReceived;
  if (name == "waiting") return StreamOrder::kWaiting;
  return std::nullopt;
}

}  // namespace virtproxy
