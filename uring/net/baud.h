// The speeds of a serial line: those that termios has a constant for, from 300 baud up.
#pragma once

#include <termios.h>

#include <cstdint>
#include <optional>

namespace virtproxy {

struct BaudRate {
  uint32_t baud;
  speed_t speed;
};

inline constexpr BaudRate kBaudRates[] = {
    {300, B300},         {600, B600},         {1200, B1200},       {1800, B1800},
    {2400, B2400},       {4800, B4800},       {9600, B9600},       {19200, B19200},
    {38400, B38400},     {57600, B57600},     {115200, B115200},   {230400, B230400},
    {460800, B460800},   {500000, B500000},   {576000, B576000},   {921600, B921600},
    {1000000, B1000000}, {1152000, B1152000}, {1500000, B1500000}, {2000000, B2000000},
    {2500000, B2500000}, {3000000, B3000000}, {3500000, B3500000}, {4000000, B4000000},
};

constexpr std::optional<speed_t> termios_speed(uint32_t baud) {
  for (const BaudRate& line : kBaudRates) {
    if (line.baud == baud) return line.speed;
  }
  return std::nullopt;
}

}  // namespace virtproxy
