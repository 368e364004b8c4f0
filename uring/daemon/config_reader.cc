// From the tree of a configuration file to a draft of options.

#include <algorithm>
#include <array>
#include <span>

#include "uring/base/text.h"
#include "uring/daemon/options_draft.h"

namespace virtproxy {
namespace {

using Type = ConfigNode::Type;
using namespace option_scope;

std::string_view name_of(Type type) {
  switch (type) {
    case Type::kTable:
      return "a table";
    case Type::kArray:
      return "a list";
    case Type::kString:
      return "text";
    case Type::kInteger:
      return "a whole number";
    case Type::kFloat:
      return "a number with a fraction";
    case Type::kBoolean:
      return "true or false";
    case Type::kDate:
      break;
  }
  return "a date";
}

// What the value of a row looks like.
std::string_view form_of(OptionKind kind) {
  switch (kind) {
    case OptionKind::kCount:
      return "write a whole number";
    case OptionKind::kSize:
      return "write a number of bytes, or text such as \"64M\"";
    case OptionKind::kSeconds:
      return "write a number of seconds, or text such as \"500ms\"";
    case OptionKind::kSwitch:
      return "write true or false";
    case OptionKind::kMode:
      return "write text such as \"0660\"";
    case OptionKind::kUsers:
    case OptionKind::kGroups:
    case OptionKind::kCids:
      return "write a list of names or numbers, such as [\"root\", 1000]";
    case OptionKind::kSinks:
      return "write a list of sinks, such as [\"file:/var/log/guests.log\"]";
    case OptionKind::kFeatures:
      return "write a list of names, such as [\"splice\"]";
    case OptionKind::kSources:
      return "write a list of sources, such as [\"unix-dgram:/dev/log\"]";
    default:
      return "write text in double quotes";
  }
}

bool takes(const OptionRow& row, Type type) {
  switch (type) {
    case Type::kString:
      return true;
    case Type::kInteger:
      return row.kind != OptionKind::kMode && row.kind != OptionKind::kSwitch &&
             row.kind != OptionKind::kFeatures && row.kind != OptionKind::kSources &&
             row.kind != OptionKind::kSpool && row.kind != OptionKind::kSinks;
    case Type::kFloat:
      return row.kind == OptionKind::kSeconds;
    case Type::kBoolean:
      return row.kind == OptionKind::kSwitch;
    default:
      return false;
  }
}

// A table of a scope, as messages show it, and its keys that are no options.
struct TableKind {
  unsigned scope;
  std::string_view shown;
  std::span<const std::string_view> own_keys;
};

constexpr std::string_view kRootKeys[] = {"process", "defaults", "channel", "ship", "collect"};
constexpr std::string_view kChannelKeys[] = {"transport", "listen", "offer"};
constexpr std::string_view kListenKeys[] = {"at"};
constexpr std::string_view kOfferKeys[] = {"to"};

constexpr TableKind kRoot{0, "the top of the file", kRootKeys};
constexpr TableKind kProcessTable{kProcess, "[process]", {}};
constexpr TableKind kShipTable{kShip, "[ship]", {}};
constexpr TableKind kCollectTable{kCollect, "[collect]", {}};
constexpr TableKind kDefaultsTable{kDefaults, "[defaults]", {}};
// What a forward may have stands in its channel for all of them.
constexpr TableKind kChannelTable{kDefaults, "[channel.NAME]", kChannelKeys};
constexpr TableKind kListenTable{kListen, "[channel.NAME.listen.SERVICE]", kListenKeys};
constexpr TableKind kOfferTable{kOffer, "[channel.NAME.offer.SERVICE]", kOfferKeys};
constexpr const TableKind* kTables[] = {&kRoot,         &kProcessTable, &kDefaultsTable,
                                        &kChannelTable, &kListenTable,  &kOfferTable,
                                        &kShipTable,    &kCollectTable};

std::vector<std::string_view> keys_of(const TableKind& table) {
  std::vector<std::string_view> keys(table.own_keys.begin(), table.own_keys.end());
  for (const OptionRow& row : option_table()) {
    if (row.in(table.scope) && row.read != nullptr) keys.push_back(row.file_key());
  }
  return keys;
}

class Reader {
 public:
  explicit Reader(Draft& draft) : draft_(draft) {}

  void read(const ConfigNode& tree) {
    for (const ConfigNode& item : tree.items) {
      if (std::find(std::begin(kRootKeys), std::end(kRootKeys), item.key) == std::end(kRootKeys)) {
        unknown_key(item, kRoot);
      }
    }
    if (const ConfigNode* process = table_of(tree, "process", "[process]")) {
      read_rows(*process, kProcessTable, draft_.defaults, draft_.given);
    }
    if (const ConfigNode* ship = table_of(tree, "ship", "[ship]")) {
      read_rows(*ship, kShipTable, draft_.defaults, draft_.given);
    }
    if (const ConfigNode* collect = table_of(tree, "collect", "[collect]")) {
      read_rows(*collect, kCollectTable, draft_.defaults, draft_.given);
    }
    if (const ConfigNode* defaults = table_of(tree, "defaults", "[defaults]")) {
      read_rows(*defaults, kDefaultsTable, draft_.defaults, draft_.given);
    }
  }

  void read_channels(const ConfigNode& tree) {
    const ConfigNode* channels = table_of(tree, "channel", "[channel.NAME]");
    if (channels == nullptr) return;
    for (const ConfigNode& item : channels->items) read_channel_table(item);
  }

 private:
  const ConfigNode* table_of(const ConfigNode& parent, std::string_view key,
                             std::string_view shown) {
    const ConfigNode* const item = parent.find(key);
    if (item == nullptr) return nullptr;
    if (item->type == Type::kTable) return item;
    draft_.complain(item->at,
                    std::string(key) + " is " + std::string(name_of(item->type)) + ", not a table",
                    "begin it with " + std::string(shown));
    return nullptr;
  }

  void unknown_key(const ConfigNode& item, const TableKind& table) {
    // Those that are not shown are only counted.
    if (draft_.problems.size() >= kMostProblems) {
      return draft_.complain(item.key_at, "unknown key");
    }
    std::vector<std::string_view> places;
    for (const TableKind* const other : kTables) {
      const auto keys = keys_of(*other);
      if (other == &table || std::find(keys.begin(), keys.end(), item.key) == keys.end()) continue;
      places.push_back(other->shown);
    }
    if (!places.empty()) {
      std::string right = "it belongs in " + std::string(places.front());
      if (places.front() == kRoot.shown) right = "write it as a table of its own, at the top";
      for (size_t i = 1; i < places.size(); ++i) {
        right += (i + 1 < places.size() ? ", " : " or ") + std::string(places[i]);
      }
      return draft_.complain(item.key_at,
                             item.key + " does not belong in " + std::string(table.shown), right);
    }
    const auto keys = keys_of(table);
    const std::string_view name = std::string_view(item.key).substr(0, 64);
    std::string_view nearest =
        *std::min_element(keys.begin(), keys.end(), [&](auto one, auto other) {
          return edit_distance(one, name) < edit_distance(other, name);
        });
    // Only those two are tables of a channel.
    const size_t from_table = std::min(edit_distance("listen", name), edit_distance("offer", name));
    if (&table == &kChannelTable && item.type == Type::kTable && from_table > 2) {
      return draft_.complain(item.key_at, "unknown table " + in_quotes(name),
                             "a channel has the tables listen and offer; its own name is written "
                             "in double quotes if it has a dot, as in [channel.\"vm1.example\"]");
    }
    if (&table == &kRoot && item.type == Type::kTable && edit_distance(nearest, name) > 2) {
      return draft_.complain(
          item.key_at, "unknown table " + in_quotes(name),
          "a file has the tables process, defaults, channel.NAME, ship and collect");
    }
    // The command line may call it otherwise.
    for (const OptionRow& row : option_table()) {
      const bool meant = row.name == item.key || row.aliases == "--" + item.key;
      if (meant && row.in(table.scope) && row.read != nullptr) nearest = row.file_key();
    }
    // Where a table has an address, it is what these mean.
    constexpr std::array<std::string_view, 4> kAddressWords = {"address", "host", "path", "port"};
    constexpr std::array<std::string_view, 3> kAddressKeys = {"transport", "at", "to"};
    if (std::find(kAddressWords.begin(), kAddressWords.end(), name) != kAddressWords.end()) {
      const auto key =
          std::find_first_of(keys.begin(), keys.end(), kAddressKeys.begin(), kAddressKeys.end());
      if (key != keys.end()) nearest = *key;
    }
    draft_.complain(item.key_at, "unknown key " + in_quotes(name),
                    "the nearest known key in " + std::string(table.shown) + " is '" +
                        std::string(nearest) + "'");
  }

  // The value of an option as the command line would have it. Nothing, and a problem, for one of
  // another type.
  std::optional<std::vector<std::string>> values_of(const OptionRow& row, const ConfigNode& item) {
    std::vector<std::string> values;
    const auto wrong = [&](const ConfigNode& value) {
      draft_.complain(value.at,
                      std::string(row.file_key()) + " is " + std::string(name_of(value.type)),
                      std::string(form_of(row.kind)));
      return std::nullopt;
    };
    if (item.type != Type::kArray) {
      if (!takes(row, item.type)) return wrong(item);
      return std::vector<std::string>{item.text};
    }
    if (!row.is_list()) return wrong(item);
    for (const ConfigNode& each : item.items) {
      if (!takes(row, each.type)) return wrong(each);
      values.push_back(each.text);
    }
    // An empty access list would let everybody in.
    if (values.empty() && row.kind != OptionKind::kFeatures && row.kind != OptionKind::kSources) {
      draft_.complain(item.at, std::string(row.file_key()) + " is an empty list",
                      row.kind == OptionKind::kSinks
                          ? "name at least one, or leave the key out"
                          : "name at least one, or leave the key out to admit all");
      return std::nullopt;
    }
    return values;
  }

  void read_rows(const ConfigNode& table, const TableKind& kind, ChannelSettings& settings,
                 Given& given) {
    for (const ConfigNode& item : table.items) {
      if (std::find(kind.own_keys.begin(), kind.own_keys.end(), item.key) != kind.own_keys.end()) {
        continue;
      }
      const OptionRow* const row = find_key(item.key, kind.scope);
      if (row == nullptr) {
        unknown_key(item, kind);
        continue;
      }
      const auto values = values_of(*row, item);
      if (!values) continue;
      if (auto fault = row->read(*row, row->file_key(), *values, draft_.process, settings)) {
        draft_.complain(item.at, std::move(fault->what), std::move(fault->right));
        continue;
      }
      given[row] = item.at;
    }
  }

  // Text, or one or more of it in a list.
  std::vector<const ConfigNode*> texts_of(const ConfigNode& table, const Origin& at,
                                          std::string_view key, std::string_view form,
                                          bool several) {
    const ConfigNode* const item = table.find(key);
    std::vector<const ConfigNode*> texts;
    if (item == nullptr) {
      draft_.complain(at, std::string(key) + " is missing", "write " + std::string(form));
      return texts;
    }
    if (several && item->type == Type::kArray) {
      for (const ConfigNode& each : item->items) texts.push_back(&each);
    } else {
      texts.push_back(item);
    }
    const auto is_text = [](const ConfigNode* each) { return each->type == Type::kString; };
    if (texts.empty()) {
      draft_.complain(item->at, std::string(key) + " is an empty list",
                      "write " + std::string(form));
    } else if (!std::all_of(texts.begin(), texts.end(), is_text)) {
      draft_.complain(
          item->at,
          std::string(key) + (several ? " is neither text nor a list of it" : " is not text"),
          "write " + std::string(form));
      texts.clear();
    }
    return texts;
  }

  void read_channel_table(const ConfigNode& item) {
    const auto keys = keys_of(kChannelTable);
    if (item.type != Type::kTable && std::find(keys.begin(), keys.end(), item.key) != keys.end()) {
      return draft_.complain(item.key_at, item.key + " stands in [channel], which names no channel",
                             "begin the table with a name, such as [channel.vm1]");
    }
    const auto name = parse_channel_name(item.key);
    if (!name) return draft_.complain(item.key_at, name.error(), "as in [channel.vm1]");
    if (*name != item.key) {
      return draft_.complain(item.key_at,
                             "channel number " + in_quotes(item.key) + " begins with 0",
                             "write " + *name);
    }
    if (item.type != Type::kTable) {
      return draft_.complain(item.at, "channel " + item.key + " is not a table",
                             "begin it with [channel." + item.key + "]");
    }
    ChannelDraft channel;
    channel.at = item.key_at;
    channel.has_name = true;
    channel.options.name = *name;
    channel.options.settings = draft_.defaults;
    read_rows(item, kChannelTable, channel.options.settings, channel.given);
    const auto transport =
        texts_of(item, item.key_at, "transport", "transport = \"METHOD:ADDRESS\"", false);
    channel.usable = !transport.empty() && read_transport(*transport.front(), channel, draft_);
    if (channel.usable) channel.at = transport.front()->at;
    read_forwards(item, kListenTable, channel, draft_.oforwards);
    read_forwards(item, kOfferTable, channel, draft_.iforwards);
    // A channel that cannot be used keeps its name, so that its forwards are not a second problem.
    draft_.channels.push_back(std::move(channel));
  }

  void read_forwards(const ConfigNode& item, const TableKind& kind, const ChannelDraft& channel,
                     std::vector<ForwardDraft>& into) {
    const bool listens = kind.scope == kListen;
    const std::string_view key = listens ? "listen" : "offer";
    const std::string_view address = listens ? "at" : "to";
    const ConfigNode* const services = table_of(item, key, kind.shown);
    if (services == nullptr) return;
    for (const ConfigNode& service : services->items) {
      if (auto fault = service_fault(service.key)) {
        draft_.complain(service.key_at, *std::move(fault),
                        "as in [channel.NAME." + std::string(key) + ".ssh]");
        continue;
      }
      // [[channel.NAME.listen.SERVICE]] more than once: listeners that differ in more than where.
      const bool several = listens && service.type == Type::kArray && !service.items.empty();
      const std::span<const ConfigNode> tables = several
                                                     ? std::span<const ConfigNode>(service.items)
                                                     : std::span<const ConfigNode>(&service, 1);
      for (const ConfigNode& table : tables) {
        if (table.type != Type::kTable) {
          draft_.complain(table.at,
                          std::string(key) + " " + in_quotes(service.key) + " is not a table",
                          "begin it with " + std::string(kind.shown));
          continue;
        }
        ForwardDraft forward;
        forward.spec.service = service.key;
        forward.channel = channel.options.name;
        forward.settings = channel.options.settings;
        read_rows(table, kind, forward.settings, forward.given);
        const auto texts =
            texts_of(table, service.key_at, address,
                     std::string(address) + " = \"HOST:PORT\" or \"unix:/PATH\"", listens);
        for (const ConfigNode* const text : texts) {
          const AddressUse use = listens ? AddressUse::kListen : AddressUse::kConnect;
          forward.at = text->at;
          if (read_address(*text, text->text, use, forward, draft_)) into.push_back(forward);
        }
      }
    }
  }

  Draft& draft_;
};

}  // namespace

void read_config(const ConfigNode& tree, Draft& draft) { Reader(draft).read(tree); }

void read_config_channels(const ConfigNode& tree, Draft& draft) {
  Reader(draft).read_channels(tree);
}

}  // namespace virtproxy
