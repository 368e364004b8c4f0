// Prints the dictionary of a fuzzer, made from the option table: fuzz-dictionary options|config

#include <cstdio>
#include <set>
#include <string>
#include <string_view>

#include "uring/daemon/option_table.h"
#include "uring/transport/transport_kind.h"

using namespace virtproxy;

namespace {

void print(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '"' || c == '\\') escaped += '\\';
    if (c == '\n') {
      escaped += "\\x0a";
    } else {
      escaped += c;
    }
  }
  std::printf("\"%s\"\n", escaped.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  const bool config = argc == 2 && std::string_view(argv[1]) == "config";
  std::set<std::string> words;
  for (const OptionRow& row : option_table()) {
    if (config && row.read != nullptr) words.insert(std::string(row.file_key()) + " = ");
    if (!config && row.in(option_scope::kCommandLine)) words.insert("--" + std::string(row.name));
    if (row.show == nullptr) continue;
    for (const std::string& value : row.show(row, {}, {})) words.insert(value);
  }
  for (const TransportKind& kind : transport_kinds()) {
    for (const std::string_view name : {kind.name, kind.alias}) {
      if (!name.empty()) words.insert(std::string(name) + ":");
    }
  }
  for (const char* word : {"127.0.0.1:80", "[::1]:80", "/x:-", "@x", "any:5", "bulk", "commit"}) {
    words.insert(word);
  }
  if (config) {
    for (const char* word :
         {"[process]\n", "[defaults]\n", "[channel.a]\n", "[channel.b]\n", "[channel.a.listen.s]\n",
          "[channel.a.offer.s]\n", "[[channel.a.listen.s]]\n", "transport = \"", "at = \"",
          "to = \"", "\"\n", " = true\n", " = [\"", "\", \"", "\"\"\"", "'''", " = {", "0x"}) {
      words.insert(word);
    }
  }
  for (const std::string& word : words) print(word);
  return 0;
}
