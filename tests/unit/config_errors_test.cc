// Broken configurations, each with the exact lines that it gets.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "uring/daemon/options.h"

// clang-format off
namespace virtproxy {
namespace {

const std::string kUnix = R"([channel.a]
transport = "unix-connect:/run/a.sock"
)";
const std::string kTcp = R"([channel.a]
transport = "tcp-connect:127.0.0.1:80"
)";
const std::string kMethods =
    "write METHOD:ADDRESS with a method out of unix-connect, unix-listen, tcp-connect, tcp-listen, "
    "virtio-serial, virtserial-open, isa-serial, vsock-connect, vsock-listen";
const std::string kToml = "; write KEY = VALUE under a [TABLE], with text in double quotes";

struct Broken {
  std::string config;
  std::vector<std::string> lines;
};

const std::vector<Broken> kBroken = {
    {"",
     {"v.toml: no channel is configured; give at least one [channel.NAME], or -c beside the file"}},
    {"# nothing\n",
     {"v.toml: no channel is configured; give at least one [channel.NAME], or -c beside the file"}},
    {"[process]\nthreads = 2\n",
     {"v.toml: no channel is configured; give at least one [channel.NAME], or -c beside the file"}},
    {"[process\n",
     {R"(v.toml:1:9: not TOML: Error while parsing table header: expected ']', saw '\n')" + kToml}},
    {"threads = \n",
     {R"(v.toml:1:11: not TOML: Error while parsing key-value pair: expected value, saw '\n')" + kToml}},
    {R"(x = "unfinished
)",
     {"v.toml:1:16: a text does not end on its line; close it with a double quote"}},
    {kUnix + "window = 1M\n",
     {"v.toml:3:11: not TOML: Error while parsing decimal integer: expected digit, saw 'M'" + kToml}},
    {kUnix + "window = 1\nwindow = 2\n",
     {"v.toml:4:10: 'window' is there already; give each table and each key once"}},
    {"[channel.a]\n[channel.a]\n",
     {"v.toml:2:1: 'channel.a' is there already; give each table and each key once"}},
    {"a = [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]\n",
     {"v.toml:1:21: values are more than 16 deep in each other; a value is text, a number, true, false or a list of these"}},
    {"a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a = 1\n",
     {"v.toml:1:128: a key has more than 64 parts; tables are four deep at most, as channel.NAME.listen.SERVICE"}},
    {R"(x = "\q"
)",
     {R"(v.toml:1:7: not TOML: Error while parsing string: unknown escape sequence '\q')" + kToml}},
    {"x = \"\001\"\n",
     {R"(v.toml:1:6: byte \x01 is no text; a configuration is a TOML file in UTF-8)"}},
    {"x = \"\177\"\n",
     {R"(v.toml:1:6: byte \x7f is no text; a configuration is a TOML file in UTF-8)"}},
    {"x = \"\377\"\n",
     {"v.toml:1:5: not TOML: Encountered invalid utf-8 sequence" + kToml}},
    {"x = 2026-11-29\n",
     {"v.toml:1:1: unknown key 'x'; the nearest known key in the top of the file is 'ship'"}},
    {R"([ship]
source = ["stdin,full=all"]
spool = "x"
)",
     {"v.toml:2:10: source: stdin,full=all: full=all is no policy; use block, drop-newest, "
      "drop-oldest or spool",
      "v.toml:3:9: spool: x has no size; write PATH:SIZE[,sync=never|batch|TIME]"}},
    {kUnix + "mode = 0660\n",
     {R"(v.toml:3:12: a number begins with 0; write a mode as text, such as "0660", and any other number without the 0)"}},
    {R"([channel]
transport = "unix-connect:/x"
)",
     {"v.toml:2:1: transport stands in [channel], which names no channel; begin the table with a name, such as [channel.vm1]"}},
    {R"([channel.host.com]
transport = "unix-connect:/x"
)",
     {R"(v.toml:1:15: unknown table 'com'; a channel has the tables listen and offer; its own name is written in double quotes if it has a dot, as in [channel."vm1.example"])",
      R"(v.toml:1:10: transport is missing; write transport = "METHOD:ADDRESS")"}},
    {"[process]\nmetrics = 9155\n" + kUnix,
     {"v.toml:2:11: metrics '9155': no port; write ADDRESS:PORT, such as 127.0.0.1:9155, or the path of a unix socket"}},
    {"[process]\ncontrol = \"@c\"\n" + kUnix,
     {"v.toml:2:11: control @c has no mode, so that every user of this machine could command the daemon; give the path of a socket"}},
    {"[process]\nmetrics = \"/run/x\"\ncontrol = \"/run/a.sock\"\n" + kUnix + R"([channel.a.listen.ssh]
at = "unix:/run/x"
[ship]
source = ["unix:/run/x"]
)",
     {"v.toml:2:11: metrics /run/x is already used by ssh:/run/x:-:a; give each its own address",
      "v.toml:9:10: source unix:/run/x is already used by ssh:/run/x:-:a; give each its own address"}},
    {kUnix + R"([channel.a.listen.ssh]
at = "127.0.0.1:22"
mode = "0600"
owner = "root"
)",
     {"v.toml:5:8: mode is of unix sockets, and this is TCP; leave it out: every user of this machine can connect to a TCP listener",
      "v.toml:6:9: owner is of unix sockets, and this is TCP; leave it out: every user of this machine can connect to a TCP listener"}},
    {kUnix + R"([ship]
source = ["unix:/run/x", "unix-dgram:/run/x,name=b", "stdin", "stdin,name=c"]
)",
     {"v.toml:4:10: source unix-dgram:/run/x,name=b has the address of unix:/run/x; give each its own",
      "v.toml:4:10: source stdin,name=c is given twice; leave one of them out"}},
    {"[process]\ndisable = [\"splice\", \"zero-copy,landlock\"]\n" + kUnix,
     {"v.toml:2:11: disable: unknown feature 'zero-copy'; use single-issuer, coop-taskrun, defer-taskrun, registered-ring, registered-files, provided-buffers, poll-first, multishot-accept, skip-success, busy-poll, splice, no-iowait, restrictions, landlock"}},
    {"process = 1\n",
     {"v.toml:1:11: process is a whole number, not a table; begin it with [process]"}},
    {"defaults = []\n",
     {"v.toml:1:12: defaults is a list, not a table; begin it with [defaults]"}},
    {R"(channel = "vm1"
)",
     {"v.toml:1:11: channel is text, not a table; begin it with [channel.NAME]"}},
    {R"([network]
a = 1
)",
     {"v.toml:1:2: unknown table 'network'; a file has the tables process, defaults, channel.NAME, ship and collect"}},
    {R"([chanel.a]
transport = "unix-connect:/x"
)",
     {"v.toml:1:2: unknown key 'chanel'; the nearest known key in the top of the file is 'channel'"}},
    {R"(transport = "unix-connect:/x"
)",
     {"v.toml:1:1: transport does not belong in the top of the file; it belongs in [channel.NAME]"}},
    {"threads = 2\n" + kUnix,
     {"v.toml:1:1: threads does not belong in the top of the file; it belongs in [process]"}},
    {"[[process]]\nthreads = 1\n" + kUnix,
     {"v.toml:1:1: process is a list, not a table; begin it with [process]"}},
    {"[channel]\na = 1\n",
     {"v.toml:2:5: channel a is not a table; begin it with [channel.a]"}},
    {"[channel.a]\n",
     {R"(v.toml:1:10: transport is missing; write transport = "METHOD:ADDRESS")"}},
    {"[channel.a]\ntransport = 1\n",
     {R"(v.toml:2:13: transport is not text; write transport = "METHOD:ADDRESS")"}},
    {R"([channel."a b"]
transport = "unix-connect:/x"
)",
     {"v.toml:1:10: channel name 'a b' is not a name: use letters, digits, '-', '_' and '.', and begin with a letter or a digit; as in [channel.vm1]"}},
    {R"([channel.-a]
transport = "unix-connect:/x"
)",
     {"v.toml:1:10: channel name '-a' is not a name: use letters, digits, '-', '_' and '.', and begin with a letter or a digit; as in [channel.vm1]"}},
    {R"([channel.007]
transport = "unix-connect:/x"
)",
     {"v.toml:1:10: channel number '007' begins with 0; write 7"}},
    {R"([channel.70000]
transport = "unix-connect:/x"
)",
     {"v.toml:1:10: channel number '70000' is not a number from 0 to 65535; as in [channel.vm1]"}},
    {R"([channel.nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn]
transport = "unix-connect:/x"
)",
     {"v.toml:1:10: a channel name of 64 characters is too long: the limit is 63; as in [channel.vm1]"}},
    {R"([channel.a]
transport = "/run/a.sock"
)",
     {"v.toml:2:13: transport '/run/a.sock' begins with no known method; " + kMethods}},
    {R"([channel.a]
transport = "unix:/run/a.sock"
)",
     {"v.toml:2:13: transport 'unix:/run/a.sock' begins with no known method; " + kMethods}},
    {R"([channel.a]
transport = "tcp-connect:127.0.0.1"
)",
     {"v.toml:2:13: transport 'tcp-connect:127.0.0.1': no port: write ADDRESS:PORT, with - as the port of a path; the form is tcp-connect:HOST:PORT"}},
    {R"([channel.a]
transport = "tcp-connect:127.0.0.1:nosuch"
)",
     {"v.toml:2:13: transport 'tcp-connect:127.0.0.1:nosuch': port 'nosuch' is neither a number from 1 to 65535 nor a tcp service in /etc/services; the form is tcp-connect:HOST:PORT"}},
    {R"([channel.a]
transport = "tcp-listen:127.0.0.1:0"
)",
     {"v.toml:2:13: transport 'tcp-listen:127.0.0.1:0': port 0 is any free port, which no client can know: use a number from 1 to 65535; the form is tcp-listen:HOST:PORT"}},
    {R"([channel.a]
transport = "tcp-listen:0.0.0.0:80"
)",
     {"v.toml:2:13: listens where other machines can connect (0.0.0.0:80); write allow-remote = true if that is meant, or listen on 127.0.0.1 or [::1]"}},
    {R"([channel.a]
transport = "virtio-serial:vport"
)",
     {"v.toml:2:13: transport 'virtio-serial:vport': device 'vport' is not an absolute path such as /dev/virtio-ports/NAME:-; the form is virtio-serial:DEVICE:-"}},
    {R"([channel.a]
transport = "virtio-serial:/dev/vport0p1:9600"
)",
     {"v.toml:2:13: transport 'virtio-serial:/dev/vport0p1:9600': a virtio-serial port has no speed: write - as its port; the form is virtio-serial:DEVICE:-"}},
    {R"([channel.a]
transport = "isa-serial:/dev/ttyS1:12"
)",
     {"v.toml:2:13: transport 'isa-serial:/dev/ttyS1:12': port '12' of a device is neither - nor a usual speed such as 9600 or 115200; the form is isa-serial:DEVICE:BAUD"}},
    {R"([channel.a]
transport = "vsock-connect:any:5000"
)",
     {"v.toml:2:13: transport 'vsock-connect:any:5000': no CID to connect to: write a number, host (2) or local (1); the form is vsock-connect:CID:PORT"}},
    {R"([channel.a]
transport = "unix-connect:/run/a.sock:-:vm1"
)",
     {"v.toml:2:13: transport 'unix-connect:/run/a.sock:-:vm1': the name of a channel is that of its table, not 'vm1'; the form is unix-connect:PATH:-"}},
    {R"([channel.a]
transport = "unix-connect:"
)",
     {"v.toml:2:13: transport 'unix-connect:': the path is empty: write /path/of/socket:-; the form is unix-connect:PATH:-"}},
    {kUnix + R"([channel.b]
transport = "unix-connect:/run/../run/a.sock"
)",
     {"v.toml:4:13: /run/../run/a.sock is already used by unix-connect:/run/a.sock:-; one peer takes one channel, so give each its own address"}},
    {"[process]\nthread = 2\n" + kUnix,
     {"v.toml:2:1: unknown key 'thread'; the nearest known key in [process] is 'threads'"}},
    {R"([process]
window = "1M"
)" + kUnix,
     {"v.toml:2:1: window does not belong in [process]; it belongs in [defaults] or [channel.NAME]"}},
    {"[defaults]\nthreads = 2\n" + kUnix,
     {"v.toml:2:1: threads does not belong in [defaults]; it belongs in [process]"}},
    {R"([defaults]
widnow = "1M"
)" + kUnix,
     {"v.toml:2:1: unknown key 'widnow'; the nearest known key in [defaults] is 'window'"}},
    {R"([defaults]
transport = "unix-connect:/x"
)" + kUnix,
     {"v.toml:2:1: transport does not belong in [defaults]; it belongs in [channel.NAME]"}},
    {kUnix + R"(user = "root"
)",
     {"v.toml:3:1: user does not belong in [channel.NAME]; it belongs in [process]"}},
    {kUnix + R"(socket-mode = "0660"
)",
     {"v.toml:3:1: unknown key 'socket-mode'; the nearest known key in [channel.NAME] is 'mode'"}},
    {kUnix + R"(seal = "commit"
)",
     {"v.toml:3:1: unknown key 'seal'; the nearest known key in [channel.NAME] is 'integrity'"}},
    {kUnix + R"([channel.a.listen.s]
at = "127.0.0.1:80"
window = 1
)",
     {"v.toml:5:1: window does not belong in [channel.NAME.listen.SERVICE]; it belongs in [defaults] or [channel.NAME]"}},
    {kUnix + R"([channel.a.listen.s]
at = "127.0.0.1:80"
connect-timeout = 3
)",
     {"v.toml:5:1: connect-timeout does not belong in [channel.NAME.listen.SERVICE]; it belongs in [defaults], "
      "[channel.NAME] or [channel.NAME.offer.SERVICE]"}},
    {kUnix + R"([channel.a.listen.s]
to = "127.0.0.1:80"
)",
     {"v.toml:4:1: to does not belong in [channel.NAME.listen.SERVICE]; it belongs in [channel.NAME.offer.SERVICE]",
      R"(v.toml:3:19: at is missing; write at = "HOST:PORT" or "unix:/PATH")"}},
    {kUnix + R"([channel.a.offer.s]
at = "127.0.0.1:80"
)",
     {"v.toml:4:1: at does not belong in [channel.NAME.offer.SERVICE]; it belongs in [channel.NAME.listen.SERVICE]",
      R"(v.toml:3:18: to is missing; write to = "HOST:PORT" or "unix:/PATH")"}},
    {kUnix + R"([channel.a.listens.s]
at = "127.0.0.1:80"
)",
     {"v.toml:3:12: unknown key 'listens'; the nearest known key in [channel.NAME] is 'listen'"}},
    {kUnix + R"([channel.a.offer.s]
to = "127.0.0.1:80"
priority = "bulk"
)",
     {"v.toml:5:1: priority does not belong in [channel.NAME.offer.SERVICE]; it belongs in [defaults], "
      "[channel.NAME] or [channel.NAME.listen.SERVICE]"}},
    {R"([process]
log-levle = "info"
)" + kUnix,
     {"v.toml:2:1: unknown key 'log-levle'; the nearest known key in [process] is 'log-level'"}},
    {"[process]\nthreads = 0\n" + kUnix,
     {"v.toml:2:11: threads 0 is out of range; use 1 to 256"}},
    {"[process]\nthreads = 1.5\n" + kUnix,
     {"v.toml:2:11: threads is a number with a fraction; write a whole number"}},
    {"[process]\nthreads = -1\n" + kUnix,
     {"v.toml:2:11: threads '-1' is not a number; use 1 to 256"}},
    {"[process]\nthreads = true\n" + kUnix,
     {"v.toml:2:11: threads is true or false; write a whole number"}},
    {"[process]\nthreads = [1]\n" + kUnix,
     {"v.toml:2:11: threads is a list; write a whole number"}},
    {R"([process]
memory = "7M"
)" + kUnix,
     {"v.toml:2:10: memory 7M is out of range; use 8M to 1T"}},
    {R"([process]
memory = "64MB"
)" + kUnix,
     {"v.toml:2:10: memory '64MB' does not end in K, M, G or T (powers of 1024), as 64M does; use 8M to 1T"}},
    {"[process]\nmemory = 1.5\n" + kUnix,
     {R"(v.toml:2:10: memory is a number with a fraction; write a number of bytes, or text such as "64M")"}},
    {R"([process]
memory = "8M"
)" + kUnix + R"(memory = "9M"
)",
     {"v.toml:2:10: memory 8M is too little; channels have 9M of their own"}},
    {R"([process]
memory = "8M"
)" + kUnix + R"(memory = "8M"
[channel.b]
transport = "unix-connect:/b"
)",
     {"v.toml:2:10: memory 8M is too little; channels have 8M of their own, and 1 need a part of the rest"}},
    {R"([process]
drain-timeout = "soon"
)" + kUnix,
     {"v.toml:2:17: drain-timeout 'soon' is not a time such as 10, 0.5 or 500ms; use 0 to 3600 seconds"}},
    {"[process]\ndrain-timeout = 4000\n" + kUnix,
     {"v.toml:2:17: drain-timeout 4000 is out of range; use 0 to 3600 seconds"}},
    {R"([process]
user = "root"
)" + kUnix,
     {"v.toml:2:8: user: 'root' is root; name a user that is not"}},
    {R"([process]
user = "no-such"
)" + kUnix,
     {"v.toml:2:8: user: there is no user 'no-such' in /etc/passwd; give a name that is there, or a number"}},
    {R"([process]
sandbox = "maybe"
)" + kUnix,
     {"v.toml:2:11: sandbox maybe; use on or off, or true or false in a file"}},
    {"[process]\nsandbox = 1\n" + kUnix,
     {"v.toml:2:11: sandbox is a whole number; write true or false"}},
    {R"([process]
log-level = "loud"
)" + kUnix,
     {"v.toml:2:13: log-level 'loud' is not a level; use error, warn, info, debug or trace"}},
    {R"([process]
log-format = "xml"
)" + kUnix,
     {"v.toml:2:14: log-format xml; use text or json"}},
    {R"([process]
disable = ["a b"]
)" + kUnix,
     {"v.toml:2:11: disable 'a b' is not a list of feature names; separate them with commas, and see --features for the names"}},
    {"[process]\ndisable = [1]\n" + kUnix,
     {R"(v.toml:2:12: disable is a whole number; write a list of names, such as ["splice"])"}},
    {"[process]\nuser = 2026-11-29\n" + kUnix,
     {"v.toml:2:8: user is a date; write text in double quotes"}},
    {kUnix + R"(window = "2G"
)",
     {"v.toml:3:10: window 2G is out of range; use 4K to 1G"}},
    {kUnix + R"(window = "512M"
)",
     {"v.toml:3:10: window 512M is larger than the memory 256M; make the window smaller or the memory larger"}},
    {R"([defaults]
window = "512M"
)" + kUnix,
     {"v.toml:2:10: window 512M is larger than the memory 256M; make the window smaller or the memory larger"}},
    {kUnix + "max-streams = 0\n",
     {"v.toml:3:15: max-streams 0 is out of range; use 1 to 1048576"}},
    {kUnix + "max-streams = 99999999999\n",
     {"v.toml:3:15: max-streams 99999999999 is out of range; use 1 to 1048576"}},
    {kUnix + R"(integrity = "none"
)",
     {"v.toml:3:13: integrity none; use auto, commit or checksum"}},
    {kUnix + "protocol = 3\n",
     {"v.toml:3:12: protocol 3; use auto, 1 or 2"}},
    {kUnix + R"(hold = "1K"
)",
     {"v.toml:3:8: hold 1K is out of range; use 64K to 1G"}},
    {kUnix + "stall-timeout = 0\n",
     {"v.toml:3:17: stall-timeout 0 is out of range; use 0.01 to 3600 seconds"}},
    {kUnix + "ack-timeout = {}\n",
     {R"(v.toml:3:15: ack-timeout is a table; write a number of seconds, or text such as "500ms")"}},
    {kUnix + "connect-timeout = inf\n",
     {"v.toml:3:19: connect-timeout 'inf' is not a time such as 10, 0.5 or 500ms; use 0.1 to 3600 seconds"}},
    {kUnix + "peer-timeout = 30\n",
     {"v.toml:3:16: peer-timeout is of TCP channels, and this is none; leave it out: other channels end when the other end does"}},
    {kTcp + "peer-timeout = 1\n",
     {"v.toml:3:16: peer-timeout 1 is out of range; use 3 to 86400 seconds, or 0 for never"}},
    {kUnix + "mode = 0o660\n",
     {R"(v.toml:3:8: mode is a whole number; write text such as "0660")"}},
    {kUnix + R"(mode = "0999"
)",
     {"v.toml:3:8: mode '0999' is not a mode; give an octal number from 0 to 0777, such as 0660"}},
    {kUnix + R"(owner = ":no-such"
)",
     {"v.toml:3:9: owner: there is no group 'no-such' in /etc/group; give a name that is there, or a number"}},
    {kUnix + "allow-uid = []\n",
     {"v.toml:3:13: allow-uid is an empty list; name at least one, or leave the key out to admit all"}},
    {kUnix + "allow-uid = [1.5]\n",
     {R"(v.toml:3:14: allow-uid is a number with a fraction; write a list of names or numbers, such as ["root", 1000])"}},
    {kUnix + R"(allow-uid = ["no-such"]
)",
     {"v.toml:3:13: allow-uid: there is no user 'no-such' in /etc/passwd; give a name that is there, or a number"}},
    {kUnix + "allow-uid = [0]\n",
     {"v.toml:3:13: allow-uid guards unix sockets that are listened on, and there is none here; leave it out, or give unix:/PATH: TCP does not tell who connects"}},
    {"[defaults]\nallow-gid = [0]\n" + kUnix,
     {"v.toml:2:13: allow-gid guards unix sockets that are listened on, and there is none here; leave it out, or give unix:/PATH: TCP does not tell who connects"}},
    {kUnix + "channel-allow-uid = [0]\n",
     {"v.toml:3:21: channel-allow-uid guards unix-listen channels, and there is none here; leave it out"}},
    {kUnix + "channel-allow-cid = [3]\n",
     {"v.toml:3:21: channel-allow-cid guards vsock-listen channels, and there is none here; leave it out"}},
    {kUnix + "listen = 1\n",
     {"v.toml:3:10: listen is a whole number, not a table; begin it with [channel.NAME.listen.SERVICE]"}},
    {kUnix + "[channel.a.listen]\ns = 1\n",
     {"v.toml:4:5: listen 's' is not a table; begin it with [channel.NAME.listen.SERVICE]"}},
    {kUnix + "[channel.a.listen.s]\n",
     {R"(v.toml:3:19: at is missing; write at = "HOST:PORT" or "unix:/PATH")"}},
    {kUnix + "# \u00e4\n[channel.a]\u035e\nwindow = 1\n",
     {"v.toml:4:1: not TOML: this line cannot be understood; write KEY = VALUE under a [TABLE], with text in double quotes"}},
    {kUnix + "[`r\n",
     {"v.toml:3:1: not TOML: this line cannot be understood; write KEY = VALUE under a [TABLE], with text in double quotes"}},
    {kUnix + "[channel.a.listen.s]\nat = 80\n",
     {R"(v.toml:4:6: at is neither text nor a list of it; write at = "HOST:PORT" or "unix:/PATH")"}},
    {kUnix + "[channel.a.offer.s]\nto = \"unix:relative\"\n",
     {"v.toml:4:6: to 'unix:relative': a path begins with / behind unix:; the form is HOST:PORT or unix:/PATH"}},
    {kUnix + "[channel.a.offer.s]\nto = \"unix:/" + std::string(120, 'x') + "\"\n",
     {"v.toml:4:6: to 'unix:/" + std::string(120, 'x') +
      "': the path of a unix socket is 121 bytes long, the limit is 107; the form is HOST:PORT or unix:/PATH"}},
    {kUnix + "[channel.a.listen.s]\nat = []\n",
     {R"(v.toml:4:6: at is an empty list; write at = "HOST:PORT" or "unix:/PATH")"}},
    {kUnix + R"([channel.a.listen.s]
at = "80"
)",
     {"v.toml:4:6: at '80': no port: write ADDRESS:PORT, with - as the port of a path; the form is HOST:PORT or unix:/PATH"}},
    {kUnix + R"([channel.a.listen.s]
at = "127.0.0.1:0"
)",
     {"v.toml:4:6: at '127.0.0.1:0': port 0 is any free port, which no client can know: use a number from 1 to 65535; the form is HOST:PORT or unix:/PATH"}},
    {kUnix + R"([channel.a.listen.s]
at = "0.0.0.0:80"
)",
     {"v.toml:4:6: listens where other machines can connect (0.0.0.0:80); write allow-remote = true if that is meant, or listen on 127.0.0.1 or [::1]"}},
    {kUnix + R"([channel.a.listen.s]
at = "127.0.0.1:80:b"
)",
     {"v.toml:4:6: at '127.0.0.1:80:b': the channel is that of the table, not 'b'; the form is HOST:PORT or unix:/PATH"}},
    {kUnix + R"([channel.a.listen.s]
at = "127.0.0.1:80"
allow-uid = [0]
)",
     {"v.toml:5:13: allow-uid guards unix sockets that are listened on, and there is none here; leave it out, or give unix:/PATH: TCP does not tell who connects"}},
    {kUnix + R"([channel.a.listen.s]
at = ["unix:/s", "127.0.0.1:80"]
allow-uid = [0]
)",
     {"v.toml:5:13: allow-uid guards unix sockets alone, and 127.0.0.1:80 is none; give that address a table of its own, as [[channel.NAME.listen.SERVICE]]: TCP does not tell who connects"}},
    {kUnix + R"([channel.a.listen.s]
at = "127.0.0.1:80"
port = 80
)",
     {"v.toml:5:1: unknown key 'port'; the nearest known key in [channel.NAME.listen.SERVICE] is 'at'"}},
    {kUnix + R"([channel.a.listen.s]
at = "127.0.0.1:80"
priority = "urgent"
)",
     {"v.toml:5:12: priority urgent; use interactive, normal or bulk"}},
    {kUnix + R"([channel.a.listen.""]
at = "127.0.0.1:80"
)",
     {"v.toml:3:19: the service name is empty; as in [channel.NAME.listen.ssh]"}},
    {kUnix + R"([channel.a.listen."ssssssssssssssssssssssssssssssss"]
at = "127.0.0.1:80"
)",
     {"v.toml:3:19: the service name has 32 characters, the limit is 31; as in [channel.NAME.listen.ssh]"}},
    {kUnix + R"([channel.a.offer.s]
to = "*:80"
)",
     {"v.toml:4:6: to '*:80': no address to connect to: write HOST:PORT, for example 127.0.0.1:80; the form is HOST:PORT or unix:/PATH"}},
    {kUnix + R"([channel.a.offer.s]
to = ["127.0.0.1:80", "127.0.0.1:81"]
)",
     {R"(v.toml:4:6: to is not text; write to = "HOST:PORT" or "unix:/PATH")"}},
    {kUnix + R"([channel.a.listen.s]
at = "127.0.0.1:80"
[channel.a.listen.t]
at = "127.0.0.1:80"
)",
     {"v.toml:6:6: 127.0.0.1:80 is already used by s:127.0.0.1:80:a; give each its own address"}},
    {R"([process]
threads = 0
log-level = "loud"
[defaults]
widnow = 1
[channel.a]
transport = "x"
[channel.b]
[channel.b.listen.s]
at = "1"
)",
     {"v.toml:2:11: threads 0 is out of range; use 1 to 256",
      "v.toml:3:13: log-level 'loud' is not a level; use error, warn, info, debug or trace",
      "v.toml:5:1: unknown key 'widnow'; the nearest known key in [defaults] is 'window'",
      "v.toml:7:13: transport 'x' begins with no known method; " + kMethods,
      R"(v.toml:8:10: transport is missing; write transport = "METHOD:ADDRESS")",
      "v.toml:10:6: at '1': no port: write ADDRESS:PORT, with - as the port of a path; the form is HOST:PORT or unix:/PATH"}},
};

class BrokenConfig : public testing::TestWithParam<Broken> {};

TEST_P(BrokenConfig, GetsALineForEachErrorAndExitsWith78) {
  const Broken& broken = GetParam();
  const char* const argv[] = {"virtproxy", "--check", "--config", "v.toml", nullptr};
  const auto result = parse_options(4, argv, [&](const std::string& path) {
    return std::vector<ConfigText>{{path, broken.config}};
  });
  std::string expected;
  for (const std::string& line : broken.lines) expected += line + "\n";
  ASSERT_FALSE(result) << broken.config;
  EXPECT_EQ(result.error().text, expected) << broken.config;
  EXPECT_EQ(result.error().code, 78) << broken.config;
  EXPECT_TRUE(result.error().to_stderr);
}

INSTANTIATE_TEST_SUITE_P(Files, BrokenConfig, testing::ValuesIn(kBroken));

}  // namespace
}  // namespace virtproxy
