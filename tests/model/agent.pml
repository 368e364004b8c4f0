/*
 * One port of virtagent (core/agent/PROTOCOL.md, sections 3 and 4): two ends which call each other at will
 * over a channel that holds one message in each direction. README.md beside this file says what is left
 * out and what each check shows.
 *
 * An end has, each way, one request in flight and one queued: what it asked and was not answered, what it
 * serves, a request that waits until that is answered, and one answer and one request to be written. An end
 * reads whatever else goes on, and serves requests while its own is outstanding.
 *
 * A request has a number that none under way has: the daemon's numbers never come again, and IDS of them are
 * enough where the lowest that is free is taken. A message is its kind and its number.
 *
 *   NO_TIMEOUTS   callers wait for ever: shows that nobody has to give up for things to go on
 *   FINITE=n      end A makes n calls, end B n - 1, and no more: every one of them must have come to an end
 *   MUTANT=n      one mistake
 */

#define WAITS_FOR_ANSWER 1 /* an end serves nothing while its own request is outstanding */
#define NO_SYNC 2          /* after a time-out the next call does not wait for a sync, and has no number */
#define NO_ABANDON 3       /* a sync leaves the requests before it to be answered */
#ifndef MUTANT
#define MUTANT 0
#endif
#ifndef FINITE
#define FINITE 0
#endif
#define LIMIT(e) (FINITE - (e))

#ifndef IDS
#define IDS 8
#endif
#define NONE IDS

mtype = { request, answer, sync, synced }

chan wire[2] = [1] of { mtype, byte };

/* What the caller of end e waits for. */
#define IDLE 0
#define CALLING 1
#define SYNCING 2
byte state[2];
byte current[2];   /* the number of the request in flight */
bool sync_due[2];
byte calls[2];     /* FINITE: made so far */

#if MUTANT == WAITS_FOR_ANSWER
#define MAY_SERVE (state[me] == IDLE)
#else
#define MAY_SERVE true
#endif

/* What an end has room for: NONE, or the number of the request that it belongs to. */
byte serving[2] = NONE;     /* the request that the application works on */
byte waiting[2] = NONE;     /* the one behind it */
byte sync_in[2] = NONE;     /* a sync to be answered */
byte answer_out[2] = NONE;
byte small_out[2] = NONE;   /* the answer of a sync */
byte request_out[2] = NONE;
byte asking[2] = NONE;      /* of the request or sync of end e that is in the channel */
byte answering[2] = NONE;   /* of what end e has answered and is in the channel */

#define UNUSED(n) (request_out[me] != (n) && asking[me] != (n) && serving[1 - me] != (n) && \
  waiting[1 - me] != (n) && sync_in[1 - me] != (n) && answer_out[1 - me] != (n) && \
  small_out[1 - me] != (n) && answering[1 - me] != (n))

inline unused_number() {
  next = 0;
  do
  :: next < IDS && !UNUSED(next) -> next++
  :: else -> break
  od;
  assert(next < IDS)
}

proctype End(bit me) {
  mtype request_kind;
  byte next = 0;
  mtype kind;
  byte id;

#if FINITE > 0
end:
#endif
  do
  /* --- calls: at will, one at a time --- */
  :: atomic {
       state[me] == IDLE && request_out[me] == NONE && (FINITE == 0 || calls[me] < LIMIT(me)) ->
       unused_number();
       current[me] = next; request_out[me] = next; next = 0;
       if
       :: sync_due[me] && MUTANT != NO_SYNC -> state[me] = SYNCING; request_kind = sync
       :: else ->
          state[me] = CALLING; request_kind = request;
          calls[me] = calls[me] + (FINITE > 0 -> 1 : 0)
       fi
     }
#ifndef NO_TIMEOUTS
  :: atomic { state[me] != IDLE && request_out[me] == NONE -> state[me] = IDLE; sync_due[me] = true }
#endif

  /* --- writing --- */
  :: atomic { answer_out[me] != NONE && nfull(wire[me]) -> wire[me]!answer(answer_out[me]); answering[me] = answer_out[me]; answer_out[me] = NONE }
  :: atomic { small_out[me] != NONE && nfull(wire[me]) ->
       wire[me]!synced(small_out[me]);
       answering[me] = small_out[me];
       small_out[me] = NONE }
  :: atomic { request_out[me] != NONE && nfull(wire[me]) ->
       if
       :: request_kind == sync -> wire[me]!sync(request_out[me])
       :: else -> wire[me]!request(request_out[me])
       fi;
       asking[me] = request_out[me];
       request_out[me] = NONE; request_kind = 0 }

  /* --- serving[me] --- */
  :: atomic {
       serving[me] != NONE && answer_out[me] == NONE && MAY_SERVE -> answer_out[me] = serving[me]; serving[me] = NONE }
  :: atomic { serving[me] == NONE && waiting[me] != NONE && sync_in[me] == NONE && answer_out[me] == NONE ->
       serving[me] = waiting[me]; waiting[me] = NONE }
  :: atomic { sync_in[me] != NONE && small_out[me] == NONE && answer_out[me] == NONE -> /* behind what is written already */
       small_out[me] = sync_in[me]; sync_in[me] = NONE }

  /* --- reading --- */
  :: atomic {
       nempty(wire[1 - me]) -> wire[1 - me]?kind(id);
       if
       :: kind == request || kind == sync -> asking[1 - me] = NONE
       :: else -> answering[1 - me] = NONE
       fi;
       if
       :: kind == request ->
          if
          :: serving[me] == NONE && waiting[me] == NONE && sync_in[me] == NONE && answer_out[me] == NONE -> serving[me] = id
          :: else ->
             if
             :: waiting[me] == NONE -> waiting[me] = id
             :: else -> assert(false) /* it would be refused: that never happens to one that syncs */
             fi
          fi
       :: kind == sync ->
#if MUTANT != NO_ABANDON
          serving[me] = NONE; waiting[me] = NONE;
#endif
          sync_in[me] = id
       :: kind == answer ->
          if
          :: state[me] == CALLING ->
#if MUTANT == NO_SYNC
             assert(id == current[me]); /* without numbers, that is whose it would be */
             state[me] = IDLE
#else
             if
             :: id == current[me] ->
                state[me] = IDLE
             :: else ->
                /* After a sync nothing of before is under way, so that a caller without numbers is safe. */
                assert(false)
             fi
#endif
          :: else -> skip /* given up: discarded */
          fi
       :: kind == synced ->
          if
          :: state[me] == SYNCING && id == current[me] -> state[me] = IDLE; sync_due[me] = false
          :: else -> skip
          fi
       fi;
       kind = 0; id = 0
     }
  od
}

init {
  atomic {
    state[0] = IDLE; state[1] = IDLE;
    run End(0); run End(1)
  }
}

/* FINITE: where nothing can happen any more, all calls were made and have an outcome. An `end` label makes any
   state a good one to stop in, so that is said here. */
#define ALL_DONE (calls[0] == LIMIT(0) && calls[1] == LIMIT(1) && state[0] == IDLE && state[1] == IDLE)
#if FINITE > 0
active proctype Watch() {
  atomic { timeout -> assert(ALL_DONE) }
}
#endif
