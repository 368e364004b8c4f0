# Language level, warnings and sanitizers for every target of the project.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

option(VIRTPROXY_WERROR "Treat warnings as errors" ON)
set(VIRTPROXY_SANITIZE "" CACHE STRING "Sanitizers to build with, e.g. address,undefined")

add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wnon-virtual-dtor
                    -Wno-sign-conversion)
if(VIRTPROXY_WERROR)
  add_compile_options(-Werror)
endif()

if(VIRTPROXY_SANITIZE)
  add_compile_options(-fsanitize=${VIRTPROXY_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  # The vptr check looks at memory through a pipe: out of descriptors, which the tests provoke, it
  # finds fault with every object.
  if(VIRTPROXY_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize=vptr)
  endif()
  add_link_options(-fsanitize=${VIRTPROXY_SANITIZE})
endif()

# Clang's counters. They are compiled into core/, and only the unit tests and the fuzzers of core/ are linked with what
# writes them, so that no daemon does.
option(VIRTPROXY_COVERAGE "Count which lines of core/ the unit tests and the corpora reach (clang)" OFF)
set(VIRTPROXY_COUNTED)
if(VIRTPROXY_COVERAGE)
  set(VIRTPROXY_COUNTED -counted)
endif()

# Feedback is compiled into what the fuzzers judge: core/, and the parts of uring/ that read what a file or another
# end says. The drivers and the code of uring/ that carries bytes have none.
option(VIRTPROXY_FUZZ "Build the fuzzers (clang)" OFF)
set(VIRTPROXY_FEEDBACK)
if(VIRTPROXY_FUZZ)
  set(VIRTPROXY_FEEDBACK -fsanitize=fuzzer-no-link)
  add_link_options(${VIRTPROXY_FEEDBACK})
endif()

# Exploit mitigations, in builds that are meant to run somewhere; bench/hardening.py counts what each
# costs. -fPIE instead of CMAKE_POSITION_INDEPENDENT_CODE: the latter compiles libraries with -fPIC,
# which keeps the compiler from inlining functions that another library could replace.
option(VIRTPROXY_HARDEN "Exploit mitigations in release builds without sanitizers" ON)
set(VIRTPROXY_HARDENED OFF)
if(VIRTPROXY_HARDEN AND CMAKE_BUILD_TYPE MATCHES "^(Release|RelWithDebInfo|MinSizeRel)$"
   AND NOT VIRTPROXY_SANITIZE AND NOT VIRTPROXY_FUZZ)
  set(VIRTPROXY_HARDENED ON)
  add_compile_options(-fPIE -fstack-protector-strong -fstack-clash-protection
                      -ftrivial-auto-var-init=zero
                      -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -D_GLIBCXX_ASSERTIONS)
  # For core/ and uring/. A large local array is filled with zeros at every call, by -ftrivial-auto-var-init: a
  # buffer for a read is a member, or read_append() of uring/base has it.
  set(VIRTPROXY_SMALL_FRAMES -Wframe-larger-than=8192)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    # Up to clang 15, zero takes a second switch.
    add_compile_options(-enable-trivial-auto-var-init-zero-knowing-it-will-be-removed-from-clang)
  endif()
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    add_compile_options(-fcf-protection=full)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    add_compile_options(-mbranch-protection=standard)
  endif()
  add_link_options(LINKER:-z,relro LINKER:-z,now LINKER:-z,noexecstack)
  if(NOT CMAKE_CROSSCOMPILING)  # There all is linked statically.
    add_link_options($<$<NOT:$<BOOL:$<TARGET_PROPERTY:VIRTPROXY_STATIC_LINK>>>:-pie>)
  endif()
endif()

# In sections, of which the linker of a static program leaves out what is not used. Code that runs at the start
# or when an operator asks is small as well. tests/e2e/test_size.py holds the result to a size.
set(VIRTPROXY_SECTIONS -ffunction-sections -fdata-sections)
set(VIRTPROXY_SMALL $<$<CONFIG:Release>:-Os> ${VIRTPROXY_SECTIONS})
if(VIRTPROXY_SANITIZE)
  # clang takes half the time for it.
  list(APPEND VIRTPROXY_SMALL -O0)
endif()

# For the sources of tests: what they test is optimised, the tests themselves are compiled quickly. At this level
# gcc 12 warns of what is not there.
set(VIRTPROXY_TEST)
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  set(VIRTPROXY_TEST -O1)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    list(APPEND VIRTPROXY_TEST -Wno-array-bounds -Wno-stringop-overflow -Wno-restrict)
  endif()
elseif(VIRTPROXY_SANITIZE)
  set(VIRTPROXY_TEST -O0)
endif()

# A program that needs no library at run time; position independent like the others, where that can be: see
# cross.cmake.
function(link_statically target)
  set_target_properties(${target} PROPERTIES VIRTPROXY_STATIC_LINK ON)
  if(CMAKE_CROSSCOMPILING)
    set(link ${VIRTPROXY_STATIC_LINK})
  elseif(VIRTPROXY_HARDENED)
    set(link -static-pie)
  else()
    set(link -static)
  endif()
  target_link_options(${target} PRIVATE ${link} LINKER:--gc-sections)
  if(VIRTPROXY_HARDENED AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
    # The C library of Debian 12 applies them; binutils makes them for x86 alone.
    target_link_options(${target} PRIVATE LINKER:-z,pack-relative-relocs)
  endif()
endfunction()

# Most of the time of a compiler goes into headers. A build from scratch takes half the time where they are
# parsed once for several files. The debug preset compiles each file by itself, and notices an include that is
# missing.
set(VIRTPROXY_TOGETHER 0 CACHE STRING "Compile so many files of a target at a time; 0: each by itself")

# Two files of such a target cannot have the same name for different things, in unnamed namespaces either. A
# second argument is the most that this target has at a time.
function(compile_together target)
  set(together ${VIRTPROXY_TOGETHER})
  if(ARGC GREATER 1 AND together GREATER ARGV1)
    set(together ${ARGV1})
  endif()
  if(together GREATER 0)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${together})
  endif()
endfunction()
