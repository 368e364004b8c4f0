#include "uring/daemon/options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using testing::Combine;
using testing::TestWithParam;
using testing::Values;
using testing::ValuesIn;

using Args = std::vector<std::string>;

const std::string kChannel = "unix-connect:/run/vp.sock:-";

ParseResult parse(const Args& args, const std::string& program = "virtproxy") {
  std::vector<const char*> argv{program.c_str()};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  argv.push_back(nullptr);
  return parse_options(static_cast<int>(argv.size()) - 1, argv.data());
}

Options parse_ok(const Args& args) {
  auto result = parse(args);
  if (result) return *std::move(result);
  ADD_FAILURE() << result.error().text;
  return {};
}

struct BadCase {
  Args args;
  std::string message;  // what users of the old daemon match, where it had such a line
  std::string advice;   // what would be right
};

const std::string kLong(32, 's');

const std::vector<BadCase> kBadCases = {
    {{}, "no channel specified", "-c METHOD:ADDRESS:PORT"},
    {{"-o", "http:127.0.0.1:9080"}, "no channel specified", "at least one -c"},
    {{"-v"}, "no channel specified", "-c"},
    {{"-c"}, "--channel", "--help"},
    {{"-c", ""}, "error parsing arg: ", "METHOD"},
    {{"-c", "unix-connect"}, "error parsing arg: unix-connect", "unix-connect, unix-listen"},
    {{"-c", "nonsense:/x:-"}, "invalid channel type: nonsense", "unix-connect, unix-listen"},
    {{"-cnonsense:/x:-"}, "invalid channel type: nonsense", "vsock-listen"},
    {{"-c", ":/x:-"}, "invalid channel type: ", "use one of"},
    {{"-c", "Unix-connect:/x:-"}, "invalid channel type: Unix-connect", "use one of"},
    {{"-c", "unix-connect:"}, "error parsing arg: unix-connect:", "unix-connect:PATH:-"},
    {{"-c", "unix-connect:/x"}, "error parsing arg: unix-connect:/x", "unix-connect:PATH:-"},
    {{"-c", "unix-connect:/x:80"}, "error parsing arg: unix-connect:/x:80", "write -"},
    {{"-c", "unix-connect:/x:-:+y"},
     "error parsing arg: unix-connect:/x:-:+y",
     "channel name '+y' is not a name: use letters"},
    {{"-c", "unix-connect:/x:-:70000"},
     "error parsing arg: unix-connect:/x:-:70000",
     "channel number '70000' is not a number from 0 to 65535"},
    {{"-c", "unix-connect:/x:-:" + std::string(64, 'n')},
     "error parsing arg: unix-connect:/x:-:nnn",
     "a channel name of 64 characters is too long: the limit is 63"},
    {{"-c", kChannel + ":vm1", "-c", "unix-connect:/y:-:vm1"},
     "error parsing arg: unix-connect:/y:-:vm1",
     "channel name vm1 is already that of unix-connect:/run/vp.sock:-:vm1: give every channel"},
    {{"-c", kChannel + ":vm1", "-c", "unix-connect:/y:-:7", "-o", "a:127.0.0.1:80:vm2"},
     "error parsing arg: a:127.0.0.1:80:vm2: there is no channel 'vm2'",
     "the channels given have index 0 (vm1), 7"},
    {{"-c", "tcp-connect:/x:-"}, "error parsing arg: tcp-connect:/x:-", "HOST:PORT"},
    {{"-c", "tcp-connect::80"}, "error parsing arg: tcp-connect::80", "no address"},
    {{"-c", "tcp-connect:h:nosuchport"},
     "error parsing arg: tcp-connect:h:nosuchport",
     "/etc/services"},
    {{"-c", "tcp-connect:::1:80"}, "error parsing arg: tcp-connect:::1:80", "brackets"},
    {{"-c", "virtserial-open:vport:-"},
     "error parsing arg: virtserial-open:vport:-",
     "absolute path"},
    {{"-c", "virtserial-open:/dev/vport0p1:9600"},
     "error parsing arg: virtserial-open:/dev/vport0p1:9600",
     "no speed"},
    {{"-c", "isa-serial:/dev/ttyS1:12"}, "error parsing arg: isa-serial:/dev/ttyS1:12", "115200"},
    {{"-c", "vsock-connect:any:5000"}, "error parsing arg: vsock-connect:any:5000", "host (2)"},
    {{"-c", "unix-connect:/" + std::string(107, 'x') + ":-"},
     "error parsing arg: unix-connect:/xx",
     "the limit is 107"},
    {{"-c", "unix-connect:/x\n:80"}, "error parsing arg: unix-connect:/x\\x0a:80", "write -"},
    {{"-c", kChannel + ":1", "-c", "unix-connect:/y:-:1"},
     "error parsing arg: unix-connect:/y:-:1",
     "give every channel its own"},
    {{"-c", "unix-listen:/x:-", "-c", "unix-listen:/x:-"},
     "error parsing arg: unix-listen:/x:-",
     "its own address"},
    {{"-c", "isa-serial:/dev/ttyS1:-", "-c", "isa-serial:/dev/ttyS1:9600"},
     "error parsing arg: isa-serial:/dev/ttyS1:9600",
     "its own address"},
    {{"-c", "unix-listen:/x:-", "-o", "a:/x:-"}, "error parsing arg: a:/x:-", "its own address"},
    {{"-c", "unix-listen:/x:-", "-o", "a:/./y/../x:-"},
     "error parsing arg: a:/./y/../x:-",
     "its own address"},
    {{"-c", kChannel, "-c", kChannel}, "error parsing arg: " + kChannel, "its own address"},
    {{"-c", "tcp-connect:Here:80", "-c", "tcp-connect:here:http"},
     "error parsing arg: tcp-connect:here:http",
     "its own address"},
    {{"-c", "vsock-connect:host:5000", "-c", "vsock-connect:2:5000"},
     "error parsing arg: vsock-connect:2:5000",
     "its own address"},
    {{"-c", "tcp-listen:127.0.0.1:0"}, "error parsing arg: tcp-listen:127.0.0.1:0", "1 to 65535"},

    {{"-c", kChannel, "-i", "svc"}, "error parsing arg: svc", "SERVICE:HOST:PORT"},
    {{"-c", kChannel, "-o", "svc"}, "error parsing arg: svc", "SERVICE:HOST:PORT"},
    {{"-c", kChannel, "-i", ""}, "error parsing arg: ", "SERVICE:HOST:PORT"},
    {{"-c", kChannel, "-i", "svc:"}, "error parsing arg: svc:", "no port"},
    {{"-c", kChannel, "-i", "svc:127.0.0.1"}, "error parsing arg: svc:127.0.0.1", "no port"},
    {{"-c", kChannel, "-i", ":127.0.0.1:80"},
     "error parsing arg: :127.0.0.1:80",
     "service name is empty"},
    {{"-c", kChannel, "-i", kLong + ":127.0.0.1:80"}, "error parsing arg: sss", "the limit is 31"},
    {{"-c", kChannel, "-i", "a\tb:127.0.0.1:80"},
     "error parsing arg: a\\x09b:127.0.0.1:80",
     "printable"},
    {{"-c", kChannel, "-o", "svc:unix:/x"}, "error parsing arg: svc:unix:/x", "no port"},
    {{"-c", kChannel, "-o"},
     "a value is missing behind --oforward: SERVICE:ADDRESS:PORT[:CHANNEL]",
     "--help"},
    {{"--memory=", "-c", kChannel}, "a value is missing behind --memory: SIZE", "--help"},
    {{"-c", kChannel, "--memory", "--threads", "2"},
     "a value is missing behind --memory: SIZE",
     "--help"},
    {{"-c", kChannel, "--metrics", "0.0.0.0:9155"},
     "--metrics '0.0.0.0:9155' can be reached by other machines",
     "a loopback address such as 127.0.0.1"},
    {{"-c", kChannel, "--metrics", "*:9155"}, "--metrics '*:9155' can be reached", "127.0.0.1"},
    {{"-c", kChannel, "-i", "virtproxy.logs:127.0.0.1:80"},
     "error parsing arg: virtproxy.logs:127.0.0.1:80",
     "built-in services: choose another name"},
    {{"-c", kChannel, "-o", "virtproxy.:127.0.0.1:80"},
     "error parsing arg: virtproxy.:127.0.0.1:80",
     "begin with virtproxy. belong"},
    {{"-c", kChannel, "-i", "svc:127.0.0.1:80:x"},
     "error parsing arg: svc:127.0.0.1:80:x",
     "there is no channel 'x'"},
    {{"-c", kChannel, "-i", "svc:127.0.0.1:80:-x"},
     "error parsing arg: svc:127.0.0.1:80:-x",
     "channel name '-x' is not a name"},
    {{"-c", kChannel, "-i", "svc:*:80"}, "error parsing arg: svc:*:80", "127.0.0.1:80"},
    {{"-c", kChannel, "-o", "svc:127.0.0.1:0"}, "error parsing arg: svc:127.0.0.1:0", "1 to 65535"},
    {{"-c", kChannel, "-o", "127.0.0.1:80"},
     "error parsing arg: 127.0.0.1:80",
     "write -o SERVICE:127.0.0.1:80"},
    {{"-c", kChannel, "-i", "127.0.0.1:80:0"},
     "error parsing arg: 127.0.0.1:80:0",
     "write -i SERVICE:127.0.0.1:80:0"},
    {{"-c", kChannel, "-o", "/run/x.sock:-"},
     "error parsing arg: /run/x.sock:-",
     "write -o SERVICE:/run/x.sock:-"},
    {{"-c", kChannel, "-i", "[::1]:80"}, "error parsing arg: [::1]:80", "-i SERVICE:[::1]:80"},
    {{"-c", kChannel, "-o", "*:80"}, "error parsing arg: *:80", "-o SERVICE:*:80"},
    {{"-c", kChannel, "-i", "svc:127.0.0.1:0"}, "error parsing arg: svc:127.0.0.1:0", "1 to 65535"},
    {{"-c", kChannel, "-i", "a:127.0.0.1:80", "-i", "a:127.0.0.1:81"},
     "error parsing arg: a:127.0.0.1:81",
     "one -i per channel"},
    {{"-c", kChannel, "-o", "a:127.0.0.1:80", "-o", "b:127.0.0.1:80"},
     "error parsing arg: b:127.0.0.1:80",
     "its own address"},
    {{"-c", kChannel, "-o", "a:[::1]:80", "-o", "b:[0:0::1]:http"},
     "error parsing arg: b:[0:0::1]:http",
     "its own address"},
    {{"-c", kChannel, "-o", "a:LocalHost:80", "-o", "b:localhost:80"},
     "error parsing arg: b:localhost:80",
     "its own address"},
    {{"-c", kChannel, "-o", "a::80", "-o", "b:*:80"},
     "error parsing arg: b:*:80",
     "its own address"},
    {{"-c", kChannel, "-o", "a:/s:-", "-o", "b:/s:-"},
     "error parsing arg: b:/s:-",
     "its own address"},
    {{"-c", kChannel, "-o", "a:127.0.0.1:80:1"},
     "unable to find channel with index: 1",
     "the channels given have index 0"},
    {{"-c", kChannel, "-i", "a:127.0.0.1:80:42"},
     "unable to find channel with index: 42",
     "a:127.0.0.1:80:42"},
    {{"-c", kChannel + ":3", "-i", "a:127.0.0.1:80"},
     "unable to find channel with index: 0",
     "have index 3"},

    {{"-c", kChannel, "extra"}, "unexpected argument: extra", "--help"},
    {{"-c", kChannel, "-o", "a:127.0.0.1:80", "b:127.0.0.1:81"},
     "unexpected argument: b:127.0.0.1:81",
     "by options"},
    {{"-c", kChannel, "--", "extra"}, "unexpected argument", "--help"},
    {{"-c", kChannel, "++"}, "unexpected argument: ++", "--help"},
    {{"-c", kChannel, "-"}, "unexpected argument: -", "--help"},
    {{"-c", kChannel, "--bogus"}, "unknown option: --bogus", "--help"},
    {{"-c", kChannel, "-x"}, "unknown option: -x", "--help"},
    {{"-c", kChannel, "--memroy", "5M"},
     "unknown option: --memroy: the nearest is --memory",
     "--help"},
    {{"-c", kChannel, "--max-str=5"}, "the nearest is --max-streams", "--help"},
    {{"--share-stats=maybe", "-c", kChannel},
     "--share-stats is a flag: give it without a value",
     "--help"},
    {{"-c", kChannel, "--check=maybe"}, "--check is a flag: give it without a value", "--help"},
    {{"-c", kChannel, "--verbose=99999999999999999999999"}, "--verbose is a flag", "--help"},

    {{"-c", kChannel, "--peer-timeout", "30"}, "--peer-timeout 30", "no channel is a TCP one"},
    {{"-c", "tcp-connect:h:80", "--peer-timeout", "1"}, "--peer-timeout 1", "3 to 86400 seconds"},
    {{"-c", "tcp-connect:h:80", "--peer-timeout", "soon"},
     "--peer-timeout soon",
     "SECONDS:CHANNEL"},
    {{"-c", "tcp-connect:h:80", "--peer-timeout", "30:1"}, "--peer-timeout 30:1", "no channel '1'"},
    {{"-c", kChannel, "-c", "tcp-connect:h:80", "--peer-timeout", "30:0"},
     "--peer-timeout 30:0",
     "channel 0 is no TCP channel: " + kChannel},
    {{"-c", kChannel, "--threads", "0"}, "--threads 0 is out of range", "1 to 256"},
    {{"-c", kChannel, "--threads", "257"}, "out of range", "1 to 256"},
    {{"-c", kChannel, "--threads", "two"}, "'two' is not a number", "1 to 256"},
    {{"-c", kChannel, "--threads", "-1"}, "--threads", "1 to 256"},
    {{"-c", kChannel, "--threads", "2x"}, "'2x' is not a number", "1 to 256"},
    {{"-c", kChannel, "--threads="}, "--threads", ""},
    {{"-c", kChannel, "--threads"}, "--threads", "--help"},
    {{"-c", kChannel, "--max-streams", "0"}, "out of range", "1 to 1048576"},
    {{"-c", kChannel, "--max-streams", "1048577"}, "out of range", "1 to 1048576"},
    {{"-c", kChannel, "--max-streams", "99999999999999999999999"}, "out of range", "1 to 1048576"},
    {{"-c", kChannel, "--memory", "7M"}, "--memory 7M is out of range", "8M to 1T"},
    {{"-c", kChannel, "--memory", "64MB"}, "'64MB' does not end in K, M, G or T", "8M to 1T"},
    {{"-c", kChannel, "--memory", "lots"}, "'lots' is not a size", "64M"},
    {{"-c", kChannel, "--memory", "-64M"}, "--memory", "64M"},
    {{"-c", kChannel, "--memory", "99999999999G"}, "too large", "8M to 1T"},
    {{"-c", kChannel, "--window", "4095"}, "--window 4095 is out of range", "4K to 1G"},
    {{"-c", kChannel, "--window", "2G"}, "out of range", "4K to 1G"},
    {{"-c", kChannel, "--window", "512M"},
     "--window 512M is larger than --memory 256M",
     "make the window smaller"},
    {{"-c", kChannel, "--connect-timeout", "0"},
     "--connect-timeout 0 is out of range",
     "0.1 to 3600"},
    {{"-c", kChannel, "--connect-timeout", "soon"}, "'soon' is not a time", "500ms"},
    {{"-c", kChannel, "--connect-timeout", "nan"}, "'nan' is not a time", "500ms"},
    {{"-c", kChannel, "--connect-timeout", "2h"}, "'2h' is not a time", "0.1 to 3600"},
    {{"-c", kChannel, "--protocol", "3"}, "--protocol 3", "auto, 1 or 2"},
    {{"-c", kChannel, "--protocol", ""}, "--protocol", "auto, 1 or 2"},
    {{"-c", kChannel, "--hold", "63K"}, "--hold 63K is out of range", "64K to 1G"},
    {{"-c", kChannel, "--stall-timeout", "0"}, "--stall-timeout 0 is out of range", "0.01 to 3600"},
    {{"-c", kChannel, "--ack-timeout", "1h"}, "'1h' is not a time", "0.1 to 3600"},
    {{"-c", kChannel, "--drain-timeout", "3601"}, "out of range", "0 to 3600"},
    {{"-c", kChannel, "--log-level", "loud"}, "'loud' is not a level", "error, warn, info"},
    {{"-c", kChannel, "--disable", "a b"}, "--disable 'a b'", "--features"},
    {{"-c", kChannel, "--driver", "kqueue"}, "--driver kqueue", "auto, io_uring or epoll"},
    {{"-c", kChannel, "--priority", "a"}, "--priority a", "SERVICE=interactive"},
    {{"-c", kChannel, "--priority", "a=urgent", "-o", "a:127.0.0.1:80"},
     "--priority a=urgent",
     "interactive, normal or bulk"},
    {{"-c", kChannel, "--priority", "b=bulk", "-o", "a:127.0.0.1:80"},
     "no -o forward of service 'b'",
     "given with -o"},
    {{"--features", "-c", "nonsense:/x:-"}, "invalid channel type: nonsense", "use one of"},
};

class BadCommandLine : public TestWithParam<std::tuple<std::string, BadCase>> {};

TEST_P(BadCommandLine, IsOneLineAndExitsWith1) {
  const auto& [program, bad] = GetParam();
  const auto result = parse(bad.args, "/usr/bin/" + program);
  std::string line = program;
  for (const std::string& arg : bad.args) line += " " + arg;
  ASSERT_FALSE(result) << line;
  const ParseExit& exit = result.error();
  EXPECT_EQ(exit.code, 1) << line;
  EXPECT_TRUE(exit.to_stderr) << line;
  EXPECT_TRUE(exit.text.starts_with(program + ": ")) << exit.text;
  EXPECT_NE(exit.text.find(bad.message), std::string::npos) << line << "\n" << exit.text;
  EXPECT_NE(exit.text.find(bad.advice), std::string::npos) << line << "\n" << exit.text;
  EXPECT_EQ(std::count(exit.text.begin(), exit.text.end(), '\n'), 1) << exit.text;
  EXPECT_EQ(exit.text.back(), '\n');
}

INSTANTIATE_TEST_SUITE_P(BothNames, BadCommandLine,
                         Combine(Values("virtproxy", "qemu-vp"), ValuesIn(kBadCases)));

class ProgramName : public TestWithParam<std::string> {};

TEST_P(ProgramName, HelpExitsWith0) {
  const std::string program = GetParam();
  for (const Args& args : {Args{"-h"}, Args{"--help"}, Args{"-c", kChannel, "-h"},
                           Args{"-c", "nonsense", "--help"}, Args{"-vh"}}) {
    const auto result = parse(args, "/usr/sbin/" + program);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, 0);
    EXPECT_FALSE(result.error().to_stderr);
    const std::string& text = result.error().text;
    for (const char* part :
         {"-c,--channel", "-o,--oforward", "-i,--iforward", "--log-level", "--max-streams",
          "--memory", "--window", "--threads", "--disable", "--priority", "unix-connect:PATH:-",
          "isa-serial", "vsock-listen", "Examples", "Exit codes", "VIRTPROXY_DISABLE", "16384",
          "256M", "1M"}) {
      EXPECT_NE(text.find(part), std::string::npos) << part;
    }
    EXPECT_NE(text.find("    " + program + " -c unix-connect:"), std::string::npos) << text;
    EXPECT_NE(text.find("Usage: " + program), std::string::npos) << text;
    EXPECT_EQ(text.back(), '\n');
  }
}

TEST_P(ProgramName, VersionExitsWith0) {
  const std::string program = GetParam();
  for (const Args& args : {Args{"-V"}, Args{"--version"}, Args{"-c", kChannel, "-V"}}) {
    const auto result = parse(args, program);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, 0);
    EXPECT_FALSE(result.error().to_stderr);
    const std::string& text = result.error().text;
    EXPECT_TRUE(text.starts_with(program + " ")) << text;
    EXPECT_NE(text.find("virtproxy"), std::string::npos) << text;
    EXPECT_NE(text.find_first_of("0123456789"), std::string::npos) << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  }
}

INSTANTIATE_TEST_SUITE_P(BothNames, ProgramName, Values("virtproxy", "qemu-vp"));

TEST(OptionsTest, SurvivesAnEmptyArgv) {
  const auto none = parse_options(0, nullptr);
  ASSERT_FALSE(none);
  EXPECT_TRUE(none.error().text.starts_with("virtproxy: no channel specified"));
  EXPECT_FALSE(parse({}, "/usr/bin/"));
}

TEST(OptionsTest, Defaults) {
  const Options options = parse_ok({"-c", kChannel});
  EXPECT_EQ(options.process.threads, 1U);
  EXPECT_EQ(options.channels.at(0).max_streams, 16384U);
  EXPECT_EQ(options.memory, 256U << 20);
  EXPECT_EQ(options.channels.at(0).settings.window, 1U << 20);
  EXPECT_EQ(options.channels.at(0).settings.connect_timeout, 10.0);
  EXPECT_EQ(options.channels.at(0).settings.protocol, ProtocolMode::kAuto);
  EXPECT_EQ(options.channels.at(0).settings.hold, 1U << 30);
  EXPECT_EQ(options.channels.at(0).settings.stall_timeout, 20.0);
  EXPECT_EQ(options.channels.at(0).settings.ack_timeout, 15.0);
  EXPECT_EQ(options.process.drain_timeout, 5.0);
  EXPECT_EQ(options.process.log_level, LogLevel::kInfo);
  EXPECT_TRUE(options.process.disabled.empty());
  EXPECT_EQ(options.task, Task::kRun);
  ASSERT_EQ(options.channels.size(), 1U);
  EXPECT_EQ(options.channels[0].text, kChannel);
}

TEST(OptionsTest, TheCommandLinesOfTheOldDaemon) {
  const Options host = parse_ok({"-c", "unix-connect:/var/lib/libvirt/qemu/vp.sock:-", "-o",
                                 "http:127.0.0.1:9080", "-o", "ssh:127.0.0.1:9022"});
  ASSERT_EQ(host.channels.size(), 1U);
  EXPECT_EQ(host.channels[0].transport, find_transport("unix-connect"));
  EXPECT_EQ(host.channels[0].address.host, "/var/lib/libvirt/qemu/vp.sock");
  EXPECT_EQ(host.channels[0].id, 0U);
  ASSERT_EQ(host.oforwards.size(), 2U);
  EXPECT_EQ(host.oforwards[1].service, "ssh");
  EXPECT_EQ(host.oforwards[1].address.to_string(), "127.0.0.1:9022");
  EXPECT_EQ(host.oforwards[1].id, 0U);

  const Options guest = parse_ok({"-c", "virtserial-open:/dev/virtio-ports/test2:-", "-i",
                                  "http:127.0.0.1:80", "-i", "ssh:127.0.0.1:22"});
  EXPECT_EQ(guest.channels[0].transport, find_transport("virtio-serial"));
  ASSERT_EQ(guest.iforwards.size(), 2U);
  EXPECT_EQ(guest.iforwards[0].address.to_string(), "127.0.0.1:80");
}

TEST(OptionsTest, EveryMethod) {
  const std::vector<std::pair<std::string, std::string>> methods = {
      {"unix-connect:/x:-", "unix-connect"},
      {"unix-connect:@x:-", "unix-connect"},
      {"unix-listen:/x:-", "unix-listen"},
      {"tcp-connect:example.org:80", "tcp-connect"},
      {"tcp-connect:[::1]:http", "tcp-connect"},
      {"tcp-listen::8000", "tcp-listen"},
      {"tcp-listen:*:8000", "tcp-listen"},
      {"virtserial-open:/dev/vport0p1:-", "virtio-serial"},
      {"virtio-serial:/dev/vport0p1:-", "virtio-serial"},
      {"isa-serial:/dev/ttyS1:-", "isa-serial"},
      {"isa-serial:/dev/ttyS1:115200", "isa-serial"},
      {"vsock-connect:host:5000", "vsock-connect"},
      {"vsock-listen:any:5000", "vsock-listen"},
  };
  for (const auto& [arg, name] : methods) {
    for (const Args& args : {Args{"-c", arg}, Args{"-c" + arg}, Args{"--channel", arg},
                             Args{"--channel=" + arg}, Args{"-c", arg + ":5"}}) {
      Args with_flag = args;
      with_flag.push_back("--allow-remote");
      const Options options = parse_ok(with_flag);
      ASSERT_EQ(options.channels.size(), 1U) << arg;
      EXPECT_EQ(options.channels[0].transport, find_transport(name)) << arg;
      EXPECT_EQ(transport_name(options.channels[0].transport), name);
      EXPECT_EQ(options.channels[0].id, args[0] == "-c" && args[1] != arg ? 5U : 0U);
    }
  }
  EXPECT_EQ(parse_ok({"-c", "isa-serial:/dev/ttyS1:115200"}).channels[0].address.port, 115200U);
}

TEST(OptionsTest, APathMayHaveItsPrefix) {
  for (const char* path : {"/run/m", "unix:/run/m"}) {
    const auto parsed = parse({"-c", kChannel, "--metrics", path});
    ASSERT_TRUE(parsed) << parsed.error().text;
    EXPECT_EQ(parsed->process.metrics->host, "/run/m");
  }
}

TEST(OptionsTest, EveryFormOfAForward) {
  const std::vector<std::pair<std::string, std::string>> forms = {
      {"svc:127.0.0.1:80", "127.0.0.1:80"},
      {"svc:[::1]:80", "[::1]:80"},
      {"svc:localhost:http", "localhost:80"},
      {"svc:/run/s:-", "/run/s"},
      {"svc:@s:-", "@s"},
  };
  for (const auto& [text, shown] : forms) {
    for (const std::string& suffix : {std::string(), std::string(":0"), std::string(":1")}) {
      const std::string arg = text + suffix;
      for (const std::string& flag : {std::string("o"), std::string("i")}) {
        for (const Args& form :
             {Args{"-" + flag, arg}, Args{"-" + flag + arg}, Args{"--" + flag + "forward", arg},
              Args{"--" + flag + "forward=" + arg}}) {
          Args args = {"-c", kChannel, "-c", "unix-connect:/y:-"};
          args.insert(args.begin(), form.begin(), form.end());
          const Options options = parse_ok(args);
          const auto& forwards = flag == "o" ? options.oforwards : options.iforwards;
          ASSERT_EQ(forwards.size(), 1U) << arg;
          EXPECT_EQ(forwards[0].service, "svc");
          EXPECT_EQ(forwards[0].address.to_string(), shown);
          EXPECT_EQ(forwards[0].id, suffix == ":1" ? 1U : 0U);
          EXPECT_EQ(forwards[0].text, arg);
        }
      }
    }
  }
}

TEST(OptionsTest, LongestServiceName) {
  const std::string name(31, 's');
  EXPECT_EQ(parse_ok({"-c", kChannel, "-i", name + ":127.0.0.1:80"}).iforwards[0].service, name);
}

TEST(OptionsTest, OnlyThePrefixOfAServiceNameIsReserved) {
  for (const std::string name : {"virtproxy", "my.virtproxy.x", "Virtproxy.x"}) {
    EXPECT_EQ(parse_ok({"-c", kChannel, "-i", name + ":127.0.0.1:80"}).iforwards[0].service, name);
  }
}

TEST(OptionsTest, ChannelsWithoutAnIdTakeTheLowestFreeOnes) {
  const auto ids = [](const std::vector<std::string>& suffixes) {
    Args args;
    int number = 0;
    for (const std::string& suffix : suffixes) {
      args.insert(args.end(), {"-c", "unix-connect:/" + std::to_string(number++) + ":-" + suffix});
    }
    std::vector<unsigned> result;
    for (const ChannelSpec& channel : parse_ok(args).channels) result.push_back(channel.id);
    return result;
  };
  using Ids = std::vector<unsigned>;
  EXPECT_EQ(ids({"", "", ""}), (Ids{0, 1, 2}));
  EXPECT_EQ(ids({":0", ""}), (Ids{0, 1}));
  EXPECT_EQ(ids({":1", "", ""}), (Ids{1, 0, 2}));
  EXPECT_EQ(ids({"", ":7", ""}), (Ids{0, 7, 1}));
}

TEST(OptionsTest, ChannelsHaveNames) {
  const Options options = parse_ok(
      {"-c", kChannel + ":vm1", "-c", "unix-connect:/y:-", "-c", "unix-connect:/z:-:9.b_c-D", "-c",
       "unix-connect:/w:-:007", "-o", "a:127.0.0.1:80", "-o", "b:127.0.0.1:81:vm1", "-o",
       "c:127.0.0.1:82:2", "-i", "d:/d:-:9.b_c-D", "-i", "e:[::1]:80:7"});
  std::vector<std::pair<unsigned, std::string>> channels;
  for (const ChannelSpec& channel : options.channels) {
    channels.emplace_back(channel.id, channel.name);
  }
  EXPECT_EQ(channels, (std::vector<std::pair<unsigned, std::string>>{
                          {0, "vm1"}, {1, "1"}, {2, "9.b_c-D"}, {7, "7"}}));
  const auto channel_of = [](const ForwardSpec& forward) { return forward.channel; };
  EXPECT_EQ(channel_of(options.oforwards.at(0)), "vm1");
  EXPECT_EQ(channel_of(options.oforwards.at(1)), "vm1");
  EXPECT_EQ(channel_of(options.oforwards.at(2)), "9.b_c-D");
  EXPECT_EQ(channel_of(options.iforwards.at(0)), "9.b_c-D");
  EXPECT_EQ(channel_of(options.iforwards.at(1)), "7");
  EXPECT_EQ(parse_ok({"-c", "tcp-connect:h:1:far", "--peer-timeout", "5:far"})
                .channels.at(0)
                .peer_timeout,
            5.0);
}

TEST(OptionsTest, TheSameServiceOnTwoChannels) {
  const Options options =
      parse_ok({"-c", kChannel, "-c", "unix-connect:/y:-", "-i", "a:127.0.0.1:80", "-i",
                "a:127.0.0.1:80:1", "-o", "a:127.0.0.1:90", "-o", "a:127.0.0.1:91"});
  EXPECT_EQ(options.iforwards.size(), 2U);
  EXPECT_EQ(options.oforwards.size(), 2U);
}

TEST(OptionsTest, OneAddressToListenAndToConnect) {
  const Options options = parse_ok({"-c", "unix-listen:/x:-", "-c", "unix-connect:/x:-"});
  EXPECT_EQ(options.channels.size(), 2U);
}

TEST(OptionsTest, PeerTimeouts) {
  const auto timeouts = [](Args args) {
    args.insert(args.end(), {"-c", "tcp-connect:h:80", "-c", kChannel, "-c", "tcp-listen:*:81",
                             "--allow-remote"});
    std::vector<double> result;
    for (const ChannelSpec& channel : parse_ok(args).channels) {
      if (channel.address.kind == Address::Kind::kTcp) result.push_back(channel.peer_timeout);
    }
    return result;
  };
  using Seconds = std::vector<double>;
  EXPECT_EQ(timeouts({}), (Seconds{60, 60}));
  EXPECT_EQ(timeouts({"--peer-timeout", "2m"}), (Seconds{120, 120}));
  EXPECT_EQ(timeouts({"--peer-timeout", "0:2"}), (Seconds{60, 0}));
  EXPECT_EQ(timeouts({"--peer-timeout", "5:0", "--peer-timeout", "10"}), (Seconds{5, 10}));
}

TEST(OptionsTest, Limits) {
  const Options options =
      parse_ok({"-c", kChannel, "--threads", "4", "--max-streams=1048576", "--memory", "64MiB",
                "--window", "4096", "--connect-timeout", "500ms", "--drain-timeout=0", "--disable",
                "splice,poll-first", "--disable", "landlock"});
  EXPECT_EQ(options.process.threads, 4U);
  EXPECT_EQ(options.channels.at(0).max_streams, 1048576U);
  EXPECT_EQ(options.memory, 64U << 20);
  EXPECT_EQ(options.channels.at(0).settings.window, 4096U);
  EXPECT_EQ(options.channels.at(0).settings.connect_timeout, 0.5);
  EXPECT_EQ(options.process.drain_timeout, 0.0);
  EXPECT_EQ(options.process.disabled, (Args{"splice,poll-first", "landlock"}));
  EXPECT_EQ(parse_ok({"-c", kChannel, "--threads", "2", "--threads", "3"}).process.threads, 3U);
}

TEST(OptionsTest, EarlierNamesOfOptionsGoOn) {
  const Options options = parse_ok({"-c", kChannel, "--seal", "commit", "--dial-timeout", "2"});
  EXPECT_EQ(options.channels.at(0).settings.integrity, Integrity::kCommit);
  EXPECT_EQ(options.channels.at(0).settings.connect_timeout, 2.0);
}

TEST(OptionsTest, LogLevels) {
  const auto level = [](Args args) {
    args.insert(args.end(), {"-c", kChannel});
    return parse_ok(args).process.log_level;
  };
  EXPECT_EQ(level({"-v"}), LogLevel::kDebug);
  EXPECT_EQ(level({"--verbose"}), LogLevel::kDebug);
  EXPECT_EQ(level({"-vv"}), LogLevel::kTrace);
  EXPECT_EQ(level({"-v", "-v", "-v"}), LogLevel::kTrace);
  EXPECT_EQ(level({"--log-level", "error"}), LogLevel::kError);
  EXPECT_EQ(level({"--log-level=warn"}), LogLevel::kWarn);
  EXPECT_EQ(level({"--log-level=error", "-v"}), LogLevel::kWarn);
  EXPECT_EQ(level({"--log-level", "trace"}), LogLevel::kTrace);
}

TEST(OptionsTest, Priorities) {
  const Options options = parse_ok({"-c", kChannel, "-o", "ssh:127.0.0.1:22", "-o", "ssh:/ssh:-",
                                    "-o", "a=b:127.0.0.1:23", "-o", "web:127.0.0.1:80",
                                    "--priority", "ssh=interactive", "--priority=a=b=bulk"});
  ASSERT_EQ(options.oforwards.size(), 4U);
  EXPECT_EQ(options.oforwards[0].priority, Priority::kInteractive);
  EXPECT_EQ(options.oforwards[1].priority, Priority::kInteractive);
  EXPECT_EQ(options.oforwards[2].priority, Priority::kBulk);
  EXPECT_EQ(options.oforwards[3].priority, Priority::kNormal);
}

TEST(OptionsTest, ShowFeaturesNeedsNoChannel) {
  EXPECT_EQ(parse_ok({"--features"}).task, Task::kShowFeatures);
  EXPECT_EQ(parse_ok({"--features", "-c", kChannel}).task, Task::kShowFeatures);
}

TEST(OptionsTest, Driver) {
  EXPECT_EQ(parse_ok({"-c", kChannel}).process.driver, DriverChoice::kAuto);
  EXPECT_EQ(parse_ok({"-c", kChannel, "--driver", "auto"}).process.driver, DriverChoice::kAuto);
  EXPECT_EQ(parse_ok({"-c", kChannel, "--driver", "io_uring"}).process.driver,
            DriverChoice::kIoUring);
  EXPECT_EQ(parse_ok({"--features", "--driver", "epoll"}).process.driver, DriverChoice::kEpoll);
}

TEST(Options, ProtocolAndItsLimits) {
  const Options one = parse_ok({"-c", kChannel, "--protocol", "1", "--hold", "128K",
                                "--stall-timeout", "2s", "--ack-timeout=500ms"});
  EXPECT_EQ(one.channels.at(0).settings.protocol, ProtocolMode::kV1);
  EXPECT_EQ(one.channels.at(0).settings.hold, 128U << 10);
  EXPECT_EQ(one.channels.at(0).settings.stall_timeout, 2.0);
  EXPECT_EQ(one.channels.at(0).settings.ack_timeout, 0.5);
  EXPECT_EQ(parse_ok({"-c", kChannel, "--protocol=2"}).channels.at(0).settings.protocol,
            ProtocolMode::kV2);
  EXPECT_EQ(parse_ok({"-c", kChannel, "--protocol=auto"}).channels.at(0).settings.protocol,
            ProtocolMode::kAuto);
}

}  // namespace
}  // namespace virtproxy
