// virtproxy-oldpeer: imitates the daemon of 2010 on the wire and in its habits, from the public
// facts about it alone. For the tests only.
//
// Lines on standard error: `ready`, `channel up`, `channel lost`; with --log also one line for
// every packet: `sent` or `received`, then what it is.

#include "options.h"
#include "peer.h"

int main(int argc, char** argv) {
  int exit_code = 0;
  const auto options = oldpeer::ParseOptions(argc, argv, &exit_code);
  if (!options) return exit_code;
  oldpeer::Peer peer(*options);
  if (!peer.Start()) return 1;
  peer.Run();
}
