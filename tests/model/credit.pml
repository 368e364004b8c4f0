/*
 * The credit protocol of virtproxy (core/PROTOCOL.md, sections 8, 9 and 11) between the two ends of a
 * channel, and what it replaces: the daemon of 2010, which waits in every write. README.md beside this
 * file says what is left out and why that is sound, and what each check shows.
 *
 *          end A (host)                                       end B (guest)
 *
 *   Alice --> Writer  ==============  wire[A]  ==============> Reader -> held -> Taker -> sock --> Bob
 *   Alice <-- sock <- Taker <- held <- Reader <==  wire[B]  ==============  Writer <-- Bob
 *   Mary and Joe: the same, over the same two wires
 *
 * Stream 0 is Alice and Bob, stream 1 is Mary and Joe. Each has two directions; direction d is
 * 2 * stream + the end that sends. A unit stands for some bytes. Its value is its offset, so that a
 * unit that is lost, doubled or overtaken is seen by whoever takes the next one.
 *
 * Scenes (one of these, as spin -D...):
 *   FREE       two streams; whoever receives on stream 1 may stop for ever at any moment
 *   FLAT       two streams; everybody always reads
 *   FOUR       Alice and Mary pour; Bob does not read Alice before a message of Mary has come to him,
 *              on a stream of its own; Joe does not read Mary before that either
 *   ENDLESS    as FREE, without an end: offsets modulo OFFSETS, and a writer that takes turns
 * Variants:
 *   NO_CREDIT  the daemon of 2010
 *   OPEN_ENDED nobody writes END
 *   ACKS       data is written only while less than FLIGHT frames are on their way (section 10)
 *   MUTANT=n   one mistake
 */

#define CREDIT_ON_READ 1   /* credit returns when units are read from the channel */
#define READER_WAITS 2     /* an end does not read while it has something to write */
#define CREDIT_DROPPED 3   /* credit is forgotten when the channel happens to be full */
#define LIMIT_IGNORED 4    /* the sender does not look at its credit */
#define WAITS_FOR_SOCKET 5 /* an end reads on when the socket has taken what was read before */
#define NO_TURNS 6         /* the writer prefers stream 1, always */
#define DONE_EARLY 7       /* DONE is written when END was read */
#define SPARSE_ACKS 8      /* an end acknowledges less often than the bound of its peer needs */
#ifndef MUTANT
#define MUTANT 0
#endif

/* --- sizes ------------------------------------------------------------------------------------- */

#ifndef WINDOW
#define WINDOW 2 /* units that may be granted ahead of what the socket has taken */
#endif
#ifndef WIRE
#define WIRE 2 /* frames that the channel holds in each direction */
#endif
#ifndef SOCKET
#define SOCKET 1 /* units that a socket holds for its application */
#endif
#ifndef FLIGHT
#define FLIGHT 3 /* ACKS: frames that may be on their way when a unit is written */
#endif
#if MUTANT == SPARSE_ACKS
#define INTERVAL (FLIGHT + 1)
#endif
#ifndef INTERVAL
#define INTERVAL 2 /* ACKS: frames from one acknowledgement to the next */
#endif

/* Units that direction 0, 1, ... carries before its end; NONE: it is not there at all. */
#define NONE 255
#ifndef UNITS0
#define UNITS0 2
#endif
#ifndef UNITS1
#define UNITS1 2
#endif
#ifndef UNITS2
#define UNITS2 2
#endif
#ifndef UNITS3
#define UNITS3 2
#endif
#define UNITS4 1 /* FOUR: Mary's message to Bob */
#define UNITS5 NONE

#ifdef FOUR
#define STREAMS 3
#else
#define STREAMS 2
#endif
#define DIRECTIONS (2 * STREAMS)
#define UNITS(d) \
  ((d) == 0 -> UNITS0 : ((d) == 1 -> UNITS1 : ((d) == 2 -> UNITS2 : \
  ((d) == 3 -> UNITS3 : ((d) == 4 -> UNITS4 : UNITS5)))))

#define A 0
#define B 1
#define TO(s, e) (2 * (s) + (e))       /* the direction of stream s in which end e sends */
#define FROM(s, e) (2 * (s) + 1 - (e)) /* ... in which it receives */

/* Offsets only grow. ENDLESS keeps them modulo a number greater than any distance that matters. */
#ifdef ENDLESS
#ifndef OFFSETS
#define OFFSETS (WINDOW + 1)
#endif
#define AFTER(x, n) (((x) + (n)) % OFFSETS)
#define DISTANCE(x, y) (((x) + OFFSETS - (y)) % OFFSETS)
#else
#define AFTER(x, n) ((x) + (n))
#define DISTANCE(x, y) ((x) - (y))
#endif

/* --- between the processes --------------------------------------------------------------------- */

#define DATA 1   /* stream, offset */
#define CREDIT 2 /* stream, new limit */
#define END 3    /* stream, units sent in all */
#define DONE 4   /* stream, units received in all */
#define ACK 5    /* INTERVAL more frames were read */

#if defined(ENDLESS) || defined(OPEN_ENDED)
#define ENDS false
#else
#define ENDS true
#endif

#define FILE_END 254 /* what an application reads after the last unit */

chan wire[2] = [WIRE] of { byte, byte, byte };
chan sock[DIRECTIONS] = [SOCKET] of { byte };

byte sent[DIRECTIONS];
bool end_sent[DIRECTIONS];

/* What the application that sends in direction d has said: another unit, no more. */
#ifdef ENDLESS
#define HAS_MORE(d) (UNITS(d) != NONE)
#else
#define HAS_MORE(d) (UNITS(d) != NONE && sent[d] < UNITS(d))
#endif
#define AT_END(d) (ENDS && sent[d] == UNITS(d) && !end_sent[d])

hidden byte kind, s, value, d; /* used within one step, not remembered */

/* --- applications ------------------------------------------------------------------------------ */

#ifdef FOUR
bool mary_was_heard;
#define MAY_READ(d) ((d) == 4 || mary_was_heard)
#else
#define MAY_READ(d) true
#endif

#if defined(FREE) || defined(ENDLESS)
#define MAY_STOP(d) ((d) >= 2)
#else
#define MAY_STOP(d) false
#endif

#ifdef ENDLESS
bit parity; /* of the number of units that Bob has read from Alice */
ltl progress { ([] <> (parity == 0)) && ([] <> (parity == 1)) }
#endif

/* Whoever reads direction `me`. A run that comes to rest before a willing reader has everything leaves
   this process where it waits: an invalid end state. */
proctype Application(byte me; chan input) {
  byte expected, got;
  xr input;
  MAY_READ(me);
  do
  :: atomic {
       input?got ->
       if
       :: got == FILE_END -> break
       :: else
       fi;
       assert(got == expected); /* in order, each once */
       expected = AFTER(expected, 1);
       got = 0;
#ifdef ENDLESS
       if
       :: me == 0 -> parity = 1 - parity
       :: else
       fi
#endif
#ifdef FOUR
       mary_was_heard = mary_was_heard || me == 4
#endif
     }
#ifdef OPEN_ENDED
  :: expected == UNITS(me) -> break
#endif
  :: MAY_STOP(me) -> goto rest
  od;
  assert(expected == UNITS(me));
rest:
  skip
}

#ifndef NO_CREDIT
/* --- the daemon, with credit ------------------------------------------------------------------- */

chan held[DIRECTIONS] = [WINDOW] of { byte }; /* received, not taken by the socket yet */

byte limit[DIRECTIONS];        /* the sender's: what CREDIT said last */
bool over[DIRECTIONS];         /* the sender's: DONE was read */
byte granted[DIRECTIONS];      /* the receiver's */
byte received[DIRECTIONS];
bool credit_due[DIRECTIONS];   /* a fact: CREDIT is to be written, with the value of that moment */
bool end_received[DIRECTIONS];
bool end_taken[DIRECTIONS];    /* the socket has been told the end, after every unit */
bool done_due[DIRECTIONS];

#ifdef ACKS
byte under_way[2]; /* frames written by end e and not acknowledged */
byte unreported[2]; /* frames read by end e and not acknowledged */
#define MAY_FLY(e) (under_way[e] < FLIGHT)
#define ACK_DUE(e) (unreported[e] >= INTERVAL)
#else
#define MAY_FLY(e) true
#endif

#if MUTANT == LIMIT_IGNORED
#define HAS_CREDIT(d) true
#else
#define HAS_CREDIT(d) (sent[d] != limit[d])
#endif

#define DATA_READY(s) (HAS_MORE(TO(s, e)) && HAS_CREDIT(TO(s, e)) && MAY_FLY(e))
#define END_READY(s) AT_END(TO(s, e))
#define CREDIT_READY(s) credit_due[FROM(s, e)]
#define DONE_READY(s) done_due[FROM(s, e)]

inline put(type, s, argument) {
  output!type(s, argument);
#ifdef ACKS
  under_way[e]++
#endif
}

inline put_data(s) {
  put(DATA, s, sent[TO(s, e)]);
  sent[TO(s, e)] = AFTER(sent[TO(s, e)], 1)
}

inline put_credit(s) {
  put(CREDIT, s, granted[FROM(s, e)]);
  credit_due[FROM(s, e)] = false
}

/* Writes the channel when that has room. */
#ifdef ENDLESS

/* Facts first, then a unit of each stream that has one, and again. */
proctype Writer(byte e; chan output) {
  byte turn;
  xs output;
end:
  do
  :: d_step {
       nfull(output) && (CREDIT_READY(0) || CREDIT_READY(1) || DATA_READY(0) || DATA_READY(1)) ->
#if MUTANT == NO_TURNS
       if
       :: CREDIT_READY(0) -> turn = 0
       :: !CREDIT_READY(0) && CREDIT_READY(1) -> turn = 1
       :: !CREDIT_READY(0) && !CREDIT_READY(1) && DATA_READY(1) -> turn = 3
       :: else -> turn = 2
       fi;
#else
       do
       :: turn == 0 && !CREDIT_READY(0) -> turn = 1
       :: turn == 1 && !CREDIT_READY(1) -> turn = 2
       :: turn == 2 && !DATA_READY(0) -> turn = 3
       :: turn == 3 && !DATA_READY(1) -> turn = 0
       :: else -> break
       od;
#endif
       if
       :: turn == 0 -> put_credit(0)
       :: turn == 1 -> put_credit(1)
       :: turn == 2 -> put_data(0)
       :: turn == 3 -> put_data(1)
       fi;
       turn = (turn + 1) % 4
     }
  od
}

#else

/* Anything that is ready, in any order: a schedule that is unkind to a stream is among these. */
#define SPEAK(s) \
  :: d_step { nfull(output) && CREDIT_READY(s) -> put_credit(s) } \
  :: d_step { nfull(output) && DATA_READY(s) -> put_data(s) } \
  :: d_step { \
       nfull(output) && END_READY(s) -> \
       put(END, s, sent[TO(s, e)]); \
       end_sent[TO(s, e)] = true \
     } \
  :: d_step { \
       nfull(output) && DONE_READY(s) -> \
       put(DONE, s, received[FROM(s, e)]); \
       done_due[FROM(s, e)] = false \
     }

proctype Writer(byte e; chan output) {
#if MUTANT != CREDIT_DROPPED
  xs output;
#endif
end:
  do
  SPEAK(0)
  SPEAK(1)
#ifdef FOUR
  SPEAK(2)
#endif
#ifdef ACKS
  :: d_step {
       nfull(output) && ACK_DUE(e) ->
       unreported[e] = unreported[e] - INTERVAL;
       put(ACK, 0, 0)
     }
#endif
  od
}

#endif

/* Grants more when half the window is used up, as SessionV2::grant() does. */
inline grant(d, from) {
  if
  :: !end_received[d] && DISTANCE(granted[d], from) <= WINDOW / 2 ->
     granted[d] = AFTER(from, WINDOW);
#if MUTANT == CREDIT_DROPPED
     credit_due[d] = credit_due[d] || nfull(wire[1 - d % 2])
#else
     credit_due[d] = true
#endif
  :: else
  fi
}

#if MUTANT == READER_WAITS
#define WRITES(s) (CREDIT_READY(s) || DATA_READY(s) || END_READY(s) || DONE_READY(s))
#define MAY_GO_ON (!WRITES(0) && !WRITES(1))
#elif MUTANT == WAITS_FOR_SOCKET
#define MAY_GO_ON (empty(held[FROM(0, e)]) && empty(held[FROM(1, e)]))
#else
#define MAY_GO_ON true
#endif

/* Reads the channel, always: what comes has a place. */
proctype Reader(byte e; chan input) {
  xr input;
end:
  do
  :: d_step {
       nempty(input) && MAY_GO_ON ->
       input?kind, s, value;
#ifdef ACKS
       unreported[e]++;
#endif
       if
       :: kind == DATA ->
          d = FROM(s, e);
          assert(!end_received[d]);
          assert(value == received[d]);      /* nothing lost, doubled or overtaken */
          assert(received[d] != granted[d]); /* no more than was granted */
          assert(len(held[d]) < WINDOW);     /* and the memory for it is there */
          held[d]!value;
          received[d] = AFTER(received[d], 1);
#if MUTANT == CREDIT_ON_READ
          grant(d, received[d])
#endif
       :: kind == CREDIT ->
          d = TO(s, e);
          assert(DISTANCE(value, sent[d]) >= DISTANCE(limit[d], sent[d])); /* limits never shrink */
          limit[d] = value
       :: kind == END ->
          d = FROM(s, e);
          assert(!end_received[d] && value == received[d]);
          end_received[d] = true;
          granted[d] = received[d];
          credit_due[d] = false;
#if MUTANT == DONE_EARLY
          done_due[d] = true
#endif
       :: kind == DONE ->
          d = TO(s, e);
          assert(end_sent[d] && !over[d] && value == sent[d]);
          assert(end_taken[d]); /* the application's socket has everything */
          over[d] = true
#ifdef ACKS
       :: kind == ACK ->
          under_way[e] = under_way[e] - INTERVAL
#endif
       fi
     }
  od
}

/* Moves what is held for direction `me` into the socket when that has room, and returns credit. */
proctype Taker(byte me; chan output) {
  xs output;
end:
  do
  :: d_step {
       nempty(held[me]) && nfull(output) ->
       held[me]?value;
       output!value;
#if MUTANT != CREDIT_ON_READ
       grant(me, AFTER(value, 1));
#endif
       assert(DISTANCE(granted[me], AFTER(value, 1)) <= WINDOW) /* so much memory is set aside */
     }
#ifndef ENDLESS
  :: d_step {
       end_received[me] && empty(held[me]) && nfull(output) ->
       output!FILE_END;
       end_taken[me] = true;
#if MUTANT != DONE_EARLY
       done_due[me] = true
#endif
     };
     break
#endif
  od
}

/* When nothing moves any more: what was sent was received, and what was delivered was reported. */
#define AT_REST(d) assert(sent[d] == received[d] && end_taken[d] == over[d])

proctype Judge() {
  timeout ->
  AT_REST(0);
  AT_REST(1);
  AT_REST(2);
  AT_REST(3)
#ifdef FOUR
  ;
  AT_REST(4)
#endif
}

#else
/* --- the daemon of 2010 ------------------------------------------------------------------------ */

bool writing[2]; /* end e waits for room in the channel */
bool placing[2]; /* end e waits for room in a socket */

/* One thread, which takes whatever is ready and puts it where it belongs, however long that takes. */
proctype Daemon(byte e; chan input; chan output) {
  byte type, stream, content;
  xr input;
  xs output;

#define SERVE(s) \
  :: atomic { \
       HAS_MORE(TO(s, e)) -> \
       type = DATA; stream = s; content = sent[TO(s, e)]; \
       sent[TO(s, e)]++; \
       writing[e] = true; \
       goto write \
     } \
  :: atomic { \
       AT_END(TO(s, e)) -> \
       type = END; stream = s; content = FILE_END; \
       end_sent[TO(s, e)] = true; \
       writing[e] = true; \
       goto write \
     }

end:
  do
  :: atomic { input?type, stream, content -> placing[e] = true; goto place }
  SERVE(0)
  SERVE(1)
#ifdef FOUR
  SERVE(2)
#endif
  od;

write:
  atomic {
    output!type, stream, content ->
    writing[e] = false; type = 0; stream = 0; content = 0;
    goto end
  };
place:
  atomic {
    sock[FROM(stream, e)]!content ->
    placing[e] = false; type = 0; stream = 0; content = 0;
    goto end
  }
}

/* When nothing moves any more: why. */
proctype Judge() {
  timeout ->
  assert(!(writing[A] && writing[B])); /* both wait for room in the channel, neither reads it */
  assert(!placing[A] && !placing[B])   /* one waits for room in a socket and does not read */
}

#endif
/* --- the whole --------------------------------------------------------------------------------- */

init {
  byte i;
  atomic {
#ifdef NO_CREDIT
    run Daemon(A, wire[B], wire[A]);
    run Daemon(B, wire[A], wire[B]);
#else
    run Reader(A, wire[B]);
    run Reader(B, wire[A]);
    run Writer(A, wire[A]);
    run Writer(B, wire[B]);
#endif
    do
    :: i < DIRECTIONS ->
       if
       :: UNITS(i) != NONE ->
#ifndef NO_CREDIT
          limit[i] = WINDOW;
          granted[i] = WINDOW;
          run Taker(i, sock[i]);
#endif
          run Application(i, sock[i])
       :: else
       fi;
       i++
    :: else -> break
    od;
#ifndef ENDLESS
    run Judge();
#endif
    i = 0
  }
}
