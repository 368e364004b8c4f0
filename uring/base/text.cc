#include "uring/base/text.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>

namespace virtproxy {

std::string printable(std::string_view text) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    if (c >= 0x20 && c < 0x7f) {
      result += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    result += "\\x";
    result += kHex[byte >> 4];
    result += kHex[byte & 15];
  }
  return result;
}

std::string in_quotes(std::string_view text) { return "'" + printable(text) + "'"; }

std::string first_extra(const std::vector<std::string>& extras) {
  const auto word = std::find_if(extras.begin(), extras.end(),
                                 [](const std::string& extra) { return extra != "--"; });
  if (word != extras.end()) return *word;
  return extras.empty() ? std::string() : extras.front();
}

std::string extra_fault(const std::string& extra) {
  const bool option = extra.starts_with('-') && extra.size() > 1;
  return (option ? "unknown option: " : "unexpected argument: ") + printable(extra);
}

std::string creation_fault(std::string_view path, int error) {
  const size_t slash = path.rfind('/');
  const bool within = slash != std::string_view::npos && slash > 0;
  const std::string parent(path.substr(0, within ? slash : 0));
  if (error == ENOENT && within) return "the directory " + parent + " is not there";
  if (error == ENOTDIR && within) return parent + " is no directory";
  return std::strerror(error);
}

bool is_other_than_socket(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 && !S_ISSOCK(status.st_mode);
}

std::string connect_fault(const std::string& path, int error) {
  return is_other_than_socket(path) ? "that is no socket" : std::strerror(error);
}

size_t edit_distance(std::string_view one, std::string_view other) {
  std::vector<size_t> row(other.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= one.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= other.size(); ++j) {
      const size_t replaced = diagonal + (one[i - 1] == other[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

std::string_view nearest_word(std::string_view given, const std::vector<std::string_view>& words) {
  constexpr size_t kMostCompared = 64;
  constexpr size_t kMostDistance = 2;
  const std::string_view name = given.substr(0, kMostCompared);
  std::string_view nearest;
  size_t least = kMostDistance + 1;
  for (const std::string_view word : words) {
    const size_t distance = word.starts_with(name) ? 0 : edit_distance(word, name);
    if (distance >= least) continue;
    least = distance;
    nearest = word;
  }
  return nearest;
}

std::string nearest_hint(std::string_view given, const std::vector<std::string_view>& words,
                         std::string_view prefix) {
  const std::string_view nearest = nearest_word(given, words);
  if (nearest.empty()) return {};
  return std::string(": the nearest is ").append(prefix).append(nearest);
}

std::string nearest_option(std::string_view given, const std::vector<std::string_view>& names) {
  const std::string_view name = given.substr(0, given.find('='));
  if (!name.starts_with("--") || name.size() <= 3) return {};
  return nearest_hint(name.substr(2), names, "--");
}

}  // namespace virtproxy
