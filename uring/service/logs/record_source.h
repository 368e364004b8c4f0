// Sources that give whole records with a place of their own: the kernel's log and the journal.
#pragma once

#include <memory>

#include "uring/service/logs/input.h"
#include "uring/service/logs/ship_start.h"

namespace virtproxy::logs {

// Of kKmsg or kJournal.
//
// A line of the kernel is the text of its record as /dev/kmsg gives it, with the priority before
// it:
// "<6>text". The kernel numbers its records, so that those which it overwrote are counted.
//
// A line of the journal is what a program would have sent to /dev/log:
// "<PRIORITY>MMM DD hh:mm:ss IDENTIFIER[PID]: MESSAGE", with the times in UTC.
//
// With a cursor file a source goes on behind the last record that is safe. The file is overwritten
// in place.
std::unique_ptr<LogSource> make_record_source(Loop& loop, LineTarget& target, uint16_t index,
                                              OpenedSource opened);

}  // namespace virtproxy::logs
