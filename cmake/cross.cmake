# The toolchain of `cmake/cross`: Debian's cross compiler, libraries of that architecture in a folder, programs
# that run under qemu-user.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR ${VIRTPROXY_CROSS_MACHINE})
set(CMAKE_LIBRARY_ARCHITECTURE ${VIRTPROXY_CROSS_MACHINE}-linux-gnu)
set(CMAKE_CXX_COMPILER ${VIRTPROXY_CROSS_MACHINE}-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-${VIRTPROXY_CROSS_MACHINE}-static)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES VIRTPROXY_CROSS_MACHINE VIRTPROXY_CROSS_ROOT)

set(CMAKE_FIND_ROOT_PATH ${VIRTPROXY_CROSS_ROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
# Headers that stand alone there, as xxhash.h.
set(CMAKE_CXX_STANDARD_INCLUDE_DIRECTORIES ${VIRTPROXY_CROSS_ROOT}/usr/include
    ${VIRTPROXY_CROSS_ROOT}/usr/include/${VIRTPROXY_CROSS_MACHINE}-linux-gnu)
# Beside -static-pie, -static would choose start-up code that does not relocate the program. glibc 2.36 has no
# such start-up code for s390x, and gcc 12 does not link statically with it for riscv64.
if(VIRTPROXY_CROSS_MACHINE MATCHES "^(riscv64|s390x)$")
  set(VIRTPROXY_STATIC_LINK -static -no-pie)
else()
  set(VIRTPROXY_STATIC_LINK -static-pie)
endif()
list(JOIN VIRTPROXY_STATIC_LINK " " link)
if(VIRTPROXY_CROSS_MACHINE STREQUAL "riscv64")
  # gcc 12 calls a function for atomic operations on bytes.
  set(CMAKE_CXX_STANDARD_LIBRARIES -latomic)
  # Its libraries were compiled for the C library of Debian 13. What they call beyond the compiler's is what C23
  # changed: numbers may be binary, which nothing here needs.
  foreach(function sscanf strtol strtoul strtoull)
    string(APPEND link " -Wl,--defsym=__isoc23_${function}=${function}")
  endforeach()
endif()
set(CMAKE_EXE_LINKER_FLAGS_INIT "${link} -L${VIRTPROXY_CROSS_ROOT}/usr/lib/${VIRTPROXY_CROSS_MACHINE}-linux-gnu")
