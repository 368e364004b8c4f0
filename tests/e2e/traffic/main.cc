// virtproxy-traffic: plays the clients and the services of the end-to-end tests.
//
// Exit codes: 0 everything was as expected, 1 an expectation failed (a line on standard error says
// which stream, offset and seed), 2 wrong usage. Results are JSON lines on standard output.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <random>

#include "commands.h"
#include "net.h"
#include "report.h"

namespace virtproxy::traffic {
namespace {

void AddExchangeOptions(CLI::App* command, ExchangeOptions* options) {
  command->add_option("--connect", options->connect, "Play the clients: connect here");
  command->add_option("--listen", options->listen, "Play the service: listen here");
  command->add_option("--bytes", options->bytes, "Bytes of each stream in each direction it uses")
      ->transform(CLI::AsSizeValue(false));
  command->add_option("--seed", options->seed, "Everything is drawn from this; random when absent");
  command->add_option("--opening", options->opening, "Streams not yet answered at one time")
      ->check(CLI::PositiveNumber);
  command->add_option("--stall-limit", options->stall_limit, "Seconds without progress that fail");
}

int Main(int argc, char** argv) {
  CLI::App app(
      "Clients and services for the end-to-end tests of virtproxy.\n"
      "ADDR is host:port, [v6]:port, a path or @name. Roles that stay run until SIGTERM.",
      "virtproxy-traffic");
  app.require_subcommand(1);
  ExchangeOptions exchange;
  exchange.seed = std::random_device()() & 0xffffffffU;
  ExchangeOptions flood = exchange;
  flood.flood = true;
  HoldOptions hold;
  ProbeOptions probe;

  auto* exchange_command = app.add_subcommand("exchange", "Streams that send both ways, checked");
  AddExchangeOptions(exchange_command, &exchange);
  exchange_command->add_option("--streams", exchange.streams, "Number of streams");
  exchange_command->add_option("--kill", exchange.kill, "Streams reset in mid-flight");
  exchange_command->add_flag("--half-close", exchange.half_close,
                             "Request, end of request, response (or the other way round)");
  exchange_command->add_flag("--tiny", exchange.tiny, "Write byte by byte");

  auto* flood_command = app.add_subcommand("flood", "One-way streams flat out, checked and timed");
  AddExchangeOptions(flood_command, &flood);
  flood_command->add_option("--uploads", flood.uploads, "Streams from client to service");
  flood_command->add_option("--downloads", flood.downloads, "Streams from service to client");

  const auto add_service = [&app, &hold](const char* name, const char* text) {
    auto* command = app.add_subcommand(name, text);
    command->add_option("--listen", hold.address, "Listen here")->required();
    return command;
  };
  const auto add_client = [&app, &hold](const char* name, const char* text) {
    auto* command = app.add_subcommand(name, text);
    command->add_option("--connect", hold.address, "Connect here")->required();
    command->add_option("--streams", hold.streams, "Number of connections");
    return command;
  };
  auto* sink = add_service("sink-never", "A service that accepts and never reads");
  auto* pour = add_service("pour", "A service that sends for ever and never reads");
  auto* never = add_service("never-accept", "A listener with a full backlog");
  auto* echo = add_service("echo", "A service that sends everything back");
  auto* stuck = add_client("source-stuck", "Clients that never read");
  stuck->add_flag("--push", hold.push, "They also write until nothing goes any more");
  auto* idle = add_client("idle", "Connections proven with one echoed byte, then held");

  auto* probe_command = app.add_subcommand("probe", "Latency of an echo and of new connections");
  probe_command->add_option("--connect", probe.connect, "An echo service")->required();
  probe_command->add_option("--seconds", probe.seconds, "How long");
  probe_command->add_option("--size", probe.size, "Bytes of a question")
      ->check(CLI::Range(1, 4096));
  probe_command->add_option("--ping-interval-us", probe.ping_interval_us, "Between pings");
  probe_command->add_option("--open-interval-us", probe.open_interval_us, "Between connections");
  probe_command->add_option("--timeout", probe.timeout, "Seconds without an answer that fail");
  probe_command->add_flag("--until-signal", probe.until_signal, "SIGTERM is a good end");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  RaiseDescriptorLimit();
  try {
    if (exchange_command->parsed()) return RunExchange(exchange);
    if (flood_command->parsed()) {
      flood.streams = flood.uploads + flood.downloads;
      return RunExchange(flood);
    }
    if (sink->parsed()) return RunSinkNever(hold);
    if (pour->parsed()) return RunPour(hold);
    if (never->parsed()) return RunNeverAccept(hold);
    if (echo->parsed()) return RunEcho(hold.address);
    if (stuck->parsed()) return RunSourceStuck(hold);
    if (idle->parsed()) return RunIdle(hold);
    return RunProbe(probe);
  } catch (const UsageError& error) {
    Complain(error.what());
    return 2;
  } catch (const Failure& error) {
    Complain("FAILED " + std::string(error.what()));
    Json().Set("ok", false).Set("failure", error.what()).Print();
    return 1;
  }
}

}  // namespace
}  // namespace virtproxy::traffic

int main(int argc, char** argv) { return virtproxy::traffic::Main(argc, argv); }
