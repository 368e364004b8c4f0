// Configuration files: what they say, how they and the command line combine, and that the printed
// configuration is read back as the same.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/unit/temporary_folder.h"
#include "uring/daemon/config_files.h"
#include "uring/daemon/options.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

namespace fs = std::filesystem;
using Args = std::vector<std::string>;
using Files = std::vector<ConfigText>;

ParseResult parse(const Files& files, const Args& more = {}) {
  std::vector<const char*> argv{"virtproxy"};
  if (!files.empty()) argv.insert(argv.end(), {"--config", "v.toml"});
  for (const std::string& arg : more) argv.push_back(arg.c_str());
  return parse_options(static_cast<int>(argv.size()), argv.data(),
                       [&](const std::string&) { return files; });
}

Options parse_ok(const Files& files, const Args& more = {}) {
  auto result = parse(files, more);
  if (result) return *std::move(result);
  ADD_FAILURE() << result.error().text;
  return {};
}

Options parse_ok(const std::string& text, const Args& more = {}) {
  return parse_ok(Files{{"v.toml", text}}, more);
}

std::string errors(const Files& files, const Args& more = {}) {
  const auto result = parse(files, more);
  EXPECT_FALSE(result);
  if (result) return "no error";
  EXPECT_EQ(result.error().code, kConfigError);
  return result.error().text;
}

const std::string kVm1 = R"([channel.vm1]
transport = "unix-connect:/run/vm1.sock"
)";

TEST(ConfigTest, OneFileIsNamed) {
  EXPECT_EQ(
      errors({{"v.toml", kVm1}}, {"--config", "other.toml"}),
      "virtproxy: --config is given more than once: name one file, and put what belongs to it "
      "into *.toml of conf.d beside it\n");
}

TEST(ConfigTest, EveryTable) {
  const Options options = parse_ok(R"(
[process]
threads = 3
memory = "512M"
drain-timeout = "1500ms"
user = "nobody"
sandbox = false
log-level = "debug"
log-format = "json"
disable = ["splice", "landlock"]

[defaults]
window = "2M"
stall-timeout = 2.5
connect-timeout = 3

[channel.vm1]
transport = "unix-listen:/run/vm1.sock"
memory = "64M"
max-streams = 100
integrity = "commit"
protocol = 2
hold = 131072
ack-timeout = 4
channel-allow-uid = ["nobody", 7]
mode = "0600"

[channel.vm1.listen.ssh]
at = "127.0.0.1:9022"
priority = "interactive"

[channel.vm1.listen.db]
at = ["unix:/run/vm1/db.sock", "@db"]
mode = "0660"
owner = "7:8"
allow-gid = ["root"]
allow-uid = "1,2"

[channel.vm1.offer.syslog]
to = "127.0.0.1:514"
connect-timeout = "500ms"

[channel.far]
transport = "tcp-listen:*:5000"
allow-remote = true
peer-timeout = 0
window = 65536
[channel.far.offer."a b"]
to = "/run/ab.sock:-"
[channel."host.example"]
transport = "isa-serial:/dev/ttyS1:115200"
)");
  EXPECT_EQ(options.process.threads, 3U);
  EXPECT_EQ(options.memory, 512U << 20);
  EXPECT_EQ(options.process.drain_timeout, 1.5);
  EXPECT_EQ(options.process.user->uid, 65534U);
  EXPECT_FALSE(options.process.sandbox);
  EXPECT_EQ(options.process.log_level, LogLevel::kDebug);
  EXPECT_EQ(options.process.log_format, LogFormat::kJson);
  EXPECT_EQ(options.process.disabled, (Args{"splice", "landlock"}));
  EXPECT_TRUE(options.from_file);

  ASSERT_EQ(options.channels.size(), 3U);
  const ChannelOptions& vm1 = options.channels[0];
  EXPECT_EQ(vm1.name, "vm1");
  EXPECT_EQ(vm1.id, 0U);
  EXPECT_EQ(vm1.transport, find_transport("unix-listen"));
  EXPECT_EQ(vm1.address.host, "/run/vm1.sock");
  EXPECT_EQ(vm1.memory, 64U << 20);
  EXPECT_EQ(vm1.max_streams, 100U);
  EXPECT_EQ(vm1.settings.window, 2U << 20);
  EXPECT_EQ(vm1.settings.integrity, Integrity::kCommit);
  EXPECT_EQ(vm1.settings.protocol, ProtocolMode::kV2);
  EXPECT_EQ(vm1.settings.hold, 131072U);
  EXPECT_EQ(vm1.settings.ack_timeout, 4.0);
  EXPECT_EQ(vm1.settings.stall_timeout, 2.5);
  EXPECT_EQ(vm1.settings.peer_uids, (std::vector<uid_t>{65534, 7}));
  EXPECT_EQ(vm1.listen.mode, 0600U);
  EXPECT_EQ(vm1.listen.owner, 65534U);

  ASSERT_EQ(options.oforwards.size(), 3U);
  const ForwardSpec& ssh = options.oforwards[0];
  EXPECT_EQ(ssh.service, "ssh");
  EXPECT_EQ(ssh.channel, "vm1");
  EXPECT_EQ(ssh.priority, Priority::kInteractive);
  EXPECT_EQ(ssh.listen.mode, 0600U);
  EXPECT_FALSE(ssh.clients.guards_unix());
  for (const ForwardSpec* db : {&options.oforwards[1], &options.oforwards[2]}) {
    EXPECT_EQ(db->service, "db");
    EXPECT_EQ(db->address.kind, Address::Kind::kUnix);
    EXPECT_EQ(db->listen, (ListenRules{0660, 7, 8, false}));
    EXPECT_EQ(db->clients, (Acl{{1, 2}, {0}, {}}));
  }
  EXPECT_EQ(options.oforwards[1].address.host, "/run/vm1/db.sock");
  EXPECT_EQ(options.oforwards[2].address.host, "@db");

  ASSERT_EQ(options.iforwards.size(), 2U);
  EXPECT_EQ(options.iforwards[0].connect_timeout, std::chrono::milliseconds(500));
  EXPECT_EQ(options.iforwards[1].service, "a b");
  EXPECT_EQ(options.iforwards[1].connect_timeout, std::chrono::seconds(3));
  EXPECT_EQ(options.iforwards[1].id, 1U);

  const ChannelOptions& far = options.channels[1];
  EXPECT_TRUE(far.listen.allow_remote);
  EXPECT_EQ(far.peer_timeout, 0.0);
  EXPECT_EQ(far.settings.window, 65536U);
  // Half of what the first one leaves.
  EXPECT_EQ(far.memory, 224U << 20);
  EXPECT_EQ(options.channels[2].name, "host.example");
  EXPECT_EQ(options.channels[2].address.port, 115200U);
}

TEST(ConfigTest, TheCommandLineTakesThePlaceOfDefaultsAndAdds) {
  const std::string file = "[process]\nthreads = 2\n[defaults]\nwindow = \"2M\"\nhold = \"1M\"\n" +
                           kVm1 + "window = \"4M\"\n[channel.vm2]\n" +
                           "transport = \"unix-connect:/run/vm2.sock\"\n" +
                           "[channel.vm1.listen.ssh]\nat = \"127.0.0.1:22\"\n";
  const Options options = parse_ok(
      file, {"--threads", "5", "--window", "8M", "-c", "unix-connect:/run/vm3.sock:-", "-o",
             "web:127.0.0.1:80:vm2", "-i", "db:127.0.0.1:81:2", "--priority", "ssh=bulk"});
  EXPECT_EQ(options.process.threads, 5U);
  ASSERT_EQ(options.channels.size(), 3U);
  EXPECT_EQ(options.channels[0].settings.window, 4U << 20);
  EXPECT_EQ(options.channels[1].settings.window, 8U << 20);
  EXPECT_EQ(options.channels[2].settings.window, 8U << 20);
  EXPECT_EQ(options.channels[2].settings.hold, 1U << 20);
  EXPECT_EQ(options.channels[2].name, "2");
  ASSERT_EQ(options.oforwards.size(), 2U);
  EXPECT_EQ(options.oforwards[0].priority, Priority::kBulk);
  EXPECT_EQ(options.oforwards[1].channel, "vm2");
  EXPECT_EQ(options.iforwards[0].channel, "2");
}

TEST(ConfigTest, LaterFilesTakeThePlaceOfEarlierOnes) {
  const Options options =
      parse_ok(Files{{"v.toml", "[process]\nthreads = 2\nmemory = \"64M\"\n" + kVm1},
                     {"conf.d/1.toml", "[process]\nthreads = 3\n[channel.vm1]\nhold = \"1M\"\n"},
                     {"conf.d/2.toml", "[channel.vm1.offer.a]\nto = \"127.0.0.1:1\"\n"},
                     {"conf.d/3.toml", "[channel.vm1.offer.a]\nto = \"127.0.0.1:2\"\n"}});
  EXPECT_EQ(options.process.threads, 3U);
  EXPECT_EQ(options.memory, 64U << 20);
  EXPECT_EQ(options.channels.at(0).settings.hold, 1U << 20);
  ASSERT_EQ(options.iforwards.size(), 1U);
  EXPECT_EQ(options.iforwards[0].address.port, 2U);
}

TEST(ConfigTest, AFileMayBeginWithAByteOrderMarkAndSayTrueAsText) {
  const Options options = parse_ok(
      "\xef\xbb\xbf"
      R"([channel.a]
transport = "tcp-listen:0.0.0.0:80"
allow-remote = "true"
)");
  EXPECT_TRUE(options.channels.front().settings.allow_remote);
}

TEST(ConfigTest, AnErrorNamesTheFileItIsIn) {
  EXPECT_EQ(
      errors({{"v.toml", kVm1 + "[process]\nthreads = 0\n"},
              {"conf.d/1.toml", "[channel.vm2]\ntransport = \"unix-connect:/run/vm1.sock\"\n"},
              {"conf.d/2.toml", "[defaults]\n\nhold = 1\n"}}),
      "v.toml:4:11: threads 0 is out of range; use 1 to 256\n"
      "conf.d/2.toml:3:8: hold 1 is out of range; use 64K to 1G\n"
      "conf.d/1.toml:2:13: /run/vm1.sock is already used by unix-connect:/run/vm1.sock:-; "
      "one peer takes one channel, so give each its own address\n");
  EXPECT_EQ(errors({{"v.toml", "x"}, {"conf.d/1.toml", "[y"}}),
            "v.toml:1:2: not TOML: Error while parsing key-value pair: encountered end-of-file; "
            "write KEY = VALUE under a [TABLE], with text in double quotes\n"
            "conf.d/1.toml:1:3: not TOML: Error while parsing table header: encountered "
            "end-of-file; write KEY = VALUE under a [TABLE], with text in double quotes\n");
}

TEST(ConfigTest, ErrorsOfTheCommandLineStandAmongThem) {
  EXPECT_EQ(errors({{"v.toml", "[defaults]\nhold = 1\n" + kVm1}},
                   {"--threads", "0", "-o", "a:127.0.0.1:80:vm2"}),
            "v.toml:2:8: hold 1 is out of range; use 64K to 1G\n"
            "virtproxy: --threads 0 is out of range: use 1 to 256\n"
            "virtproxy: error parsing arg: a:127.0.0.1:80:vm2: there is no channel 'vm2': the "
            "channels given have index 0 (vm1)\n");
}

TEST(ConfigTest, MoreThanAHundredErrorsAreCounted) {
  std::string file = kVm1;
  for (int i = 0; i < 130; ++i) file += "key" + std::to_string(i) + " = 1\n";
  const std::string text = errors({{"v.toml", file}});
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 101);
  EXPECT_TRUE(text.ends_with("virtproxy: 30 errors more\n")) << text.substr(text.size() - 100);
}

TEST(ConfigTest, ACheckOfACommandLineExitsWith78Too) {
  const char* const argv[] = {"virtproxy", "--check", "-c", "nonsense:/x:-"};
  const auto result = parse_options(4, argv);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, kConfigError);
  const char* const good[] = {"virtproxy", "--check", "-c", "unix-connect:/x:-"};
  EXPECT_EQ(parse_options(4, good)->task, Task::kCheck);
}

TEST(ConfigTest, NumbersOfChannelsInAFile) {
  const Options options = parse_ok(
      "[channel.b]\ntransport = \"unix-connect:/b\"\n[channel.0]\ntransport = \"unix-connect:/0\"\n"
      "[channel.a]\ntransport = \"unix-connect:/a\"\n");
  ASSERT_EQ(options.channels.size(), 3U);
  EXPECT_EQ(options.channels[0].name, "b");
  EXPECT_EQ(options.channels[0].id, 1U);
  EXPECT_EQ(options.channels[1].name, "0");
  EXPECT_EQ(options.channels[1].id, 0U);
  EXPECT_EQ(options.channels[2].id, 2U);
}

TEST(ConfigTest, MemoryOfAllChannelsIsWhatTheyHaveOfTheirOwn) {
  EXPECT_EQ(parse_ok(kVm1 + "memory = \"64M\"\n").memory, 64U << 20);
  const Options both = parse_ok(kVm1 +
                                "memory = \"64M\"\n[channel.b]\ntransport = "
                                "\"unix-connect:/b\"\n");
  EXPECT_EQ(both.memory, 320U << 20);
  EXPECT_EQ(both.channels.at(1).memory, 256U << 20);
}

// What print_config() gives has to be read as the same, and to print the same.
void check_round_trip(const Options& options) {
  const std::string printed = print_config(options);
  const Options again = parse_ok(printed);
  EXPECT_EQ(print_config(again), printed);
  ProcessSettings process = options.process;
  process.memory = again.process.memory;
  EXPECT_EQ(again.process, process) << printed;
  EXPECT_EQ(again.memory, options.memory) << printed;
  ASSERT_EQ(again.channels.size(), options.channels.size());
  for (size_t i = 0; i < again.channels.size(); ++i) {
    const ChannelOptions& one = options.channels[i];
    const ChannelOptions& other = again.channels[i];
    EXPECT_EQ(other.name, one.name);
    EXPECT_EQ(other.id, one.id) << printed;
    EXPECT_EQ(other.transport, one.transport);
    EXPECT_EQ(other.address, one.address) << printed;
    EXPECT_EQ(other.memory, one.memory);
    EXPECT_EQ(other.max_streams, one.max_streams);
    EXPECT_EQ(other.listen, one.listen);
    if (one.address.kind == Address::Kind::kTcp) {
      EXPECT_EQ(other.peer_timeout, one.peer_timeout);
    }
    // What guards nothing in the channel is not printed there.
    ChannelSettings settings = one.settings;
    settings.max_streams = one.max_streams;
    settings.peer_timeout = other.settings.peer_timeout;
    settings.client_uids.clear();
    settings.client_gids.clear();
    settings.peer_uids = other.settings.peer_uids;
    settings.peer_gids = other.settings.peer_gids;
    settings.peer_cids = other.settings.peer_cids;
    EXPECT_EQ(other.settings, settings) << printed;
    for (const auto member : {&Options::oforwards, &Options::iforwards}) {
      std::vector<std::string> of_one;
      std::vector<std::string> of_other;
      const auto add = [&](const Options& from, std::vector<std::string>& to) {
        for (const ForwardSpec& forward : from.*member) {
          if (forward.id != one.id) continue;
          const bool guarded = forward.address.kind == Address::Kind::kUnix;
          to.push_back(forward.service + " " + forward.address.to_string() + " " + forward.channel +
                       " " + std::to_string(static_cast<int>(forward.priority)) + " " +
                       std::to_string(guarded ? forward.clients.uids.size() : 0) + " " +
                       std::to_string(guarded ? forward.clients.gids.size() : 0) + " " +
                       std::to_string(guarded ? forward.listen.mode.value_or(01000) : 0) + " " +
                       std::to_string(guarded ? forward.listen.owner.value_or(0) : 0) + " " +
                       std::to_string(forward.listen.allow_remote) + " " +
                       std::to_string(forward.connect_timeout.value_or(Duration{}).count()));
        }
        std::sort(to.begin(), to.end());
      };
      add(options, of_one);
      add(again, of_other);
      EXPECT_EQ(of_other, of_one) << printed;
    }
  }
}

TEST(ConfigTest, ThePrintedConfigurationIsTheSame) {
  const std::vector<Args> lines = {
      {"-c", "unix-connect:/run/vm1.sock:-"},
      {"-c",
       "unix-listen:@a:-:vm.1",
       "-c",
       "tcp-listen:[::]:80:7",
       "--allow-remote",
       "-o",
       "x:/run/a b\"c\\:-:vm.1",
       "-o",
       "x:@y:-:vm.1",
       "-o",
       "x:127.0.0.1:1:vm.1",
       "--allow-uid",
       "0,7",
       "--allow-gid",
       "root",
       "--channel-allow-uid",
       "nobody",
       "--socket-mode",
       "660",
       "--user",
       "nobody",
       "--socket-owner",
       ":0",
       "--peer-timeout",
       "0"},
      {"-c", "vsock-listen:any:5000", "-c", "vsock-connect:host:5000", "-c",
       "isa-serial:/dev/ttyS1:-", "-c", "isa-serial:/dev/serial/by-path/pci-0000:00:14.0:9600",
       "-c", "virtserial-open:/dev/vport0p1:-", "--channel-allow-cid", "3,4", "-i",
       "svc:localhost:http", "-i", "svc:[fe80::1%lo]:80:1", "--connect-timeout", "1500ms"},
      {"-c",
       "unix-connect:/a:-",
       "-c",
       "unix-connect:/b:-",
       "--memory",
       "100M",
       "--max-streams",
       "5",
       "--window",
       "123457",
       "--hold",
       "65537",
       "--stall-timeout",
       "0.123",
       "--ack-timeout",
       "7m",
       "--drain-timeout",
       "0",
       "--threads",
       "2",
       "--protocol",
       "1",
       "--integrity",
       "checksum",
       "--sandbox",
       "off",
       "--log-level",
       "warn",
       "-v",
       "--log-format",
       "json",
       "--disable",
       "splice,landlock",
       "-o",
       "ssh:127.0.0.1:22",
       "-o",
       "ssh:127.0.0.1:23:1",
       "--priority",
       "ssh=bulk",
       "-i",
       "a=b.c:127.0.0.1:1",
       "-i",
       "a b:127.0.0.1:2"},
  };
  for (const Args& line : lines) check_round_trip(parse_ok(Files{}, line));
  check_round_trip(parse_ok(R"([defaults]
mode = "0640"
allow-uid = [5]
[channel.a]
transport = "unix-listen:/run/a:-"
memory = "16M"
channel-allow-gid = [6]
[[channel.a.listen.s]]
at = "unix:/run/s"
[[channel.a.listen.s]]
at = ["unix:/run/t", "127.0.0.1:80"]
mode = "0600"
[channel.a.offer.u]
to = "unix:/run/u"
connect-timeout = 0.25
[channel.b]
transport = "unix-connect:/run/b"
protocol = "2"
)"));
}

class ConfigFiles : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string complaint(const std::string& name) {
    const auto files = read_config_files(path(name));
    if (files) return "no error";
    std::string text;
    for (const Problem& problem : files.error()) text += problem.to_string() + "\n";
    const std::string prefix = folder_.path().string() + "/";
    for (size_t at = 0; (at = text.find(prefix)) != std::string::npos;) {
      text.erase(at, prefix.size());
    }
    return text;
  }

  const TemporaryFolder folder_;
};

TEST_F(ConfigFiles, InTheOrderOfTheirNames) {
  write("v.toml", "0");
  write("conf.d/b.toml", "b");
  write("conf.d/10.toml", "10");
  write("conf.d/9.toml", "9");
  write("conf.d/.hidden.toml", "no");
  write("conf.d/c.toml~", "no");
  const auto files = read_config_files(path("v.toml"));
  ASSERT_TRUE(files);
  std::string order;
  for (const ConfigText& file : *files) order += file.text + " ";
  EXPECT_EQ(order, "0 10 9 b ");
}

TEST_F(ConfigFiles, WhatCannotBeReadIsALineEach) {
  const std::string advice = "; give the path of a file of options\n";
  EXPECT_EQ(complaint("v.toml"), "v.toml: cannot be read: No such file or directory" + advice);
  fs::create_directories(folder_ / "conf.d" / "d.toml");
  write("conf.d/e.toml", std::string(kMaxConfigFile + 1, ' '));
  write("v.toml", std::string(kMaxConfigFile, ' '));
  const std::string too_large =
      "conf.d/e.toml: is larger than 1M, the limit of a file; divide it into files of conf.d\n";
  EXPECT_EQ(complaint("v.toml"),
            "conf.d/d.toml: cannot be read: Is a directory" + advice + too_large);
  EXPECT_EQ(complaint("conf.d"), "conf.d: cannot be read: Is a directory" + advice +
                                     "conf.d/d.toml: cannot be read: Is a directory" + advice +
                                     too_large);
}

TEST_F(ConfigFiles, PartsAreInADirectory) {
  write("v.toml", "");
  write("conf.d", "");
  EXPECT_EQ(complaint("v.toml"),
            "conf.d: is no directory; make it one, for *.toml beside v.toml, or remove it\n");
}

TEST_F(ConfigFiles, AnEndlessFileIsTooLarge) {
  const auto files = read_config_files("/dev/zero");
  ASSERT_FALSE(files);
  EXPECT_EQ(files.error().front().to_string(),
            "/dev/zero: is larger than 1M, the limit of a file; divide it into files of conf.d");
}

// Values and keys that are deep in each other, however they are written, reach no recursion.
TEST(ConfigTest, DepthIsBounded) {
  const auto repeated = [](const std::string& part, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += part;
    return text;
  };
  for (const std::string& file :
       {"x = " + repeated("[", 200000), "x = " + repeated("{a=", 200000),
        repeated("a.", 200000) + "a = 1\n", "[" + repeated("a.", 200000) + "a]\n",
        repeated("\"a\" . ", 100000) + "a = 1\n", repeated("''.", 200000) + "a = 1\n",
        "[[" + repeated("a.", 200000) + "a]]\n", "x = {" + repeated("a.", 200000) + "a = 1}\n"}) {
    const std::string text = errors({{"v.toml", file}});
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text.substr(0, 500);
    EXPECT_LT(text.size(), 300U);
  }
}

}  // namespace
}  // namespace virtproxy
