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

option(VIRTPROXY_FUZZ "Build the fuzzers (clang), with coverage feedback everywhere" OFF)
if(VIRTPROXY_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
