# What is installed beside the programs: units, manual pages, completions; and three Debian packages of it,
# which `cmake/package` builds.

set(VIRTPROXY_MAINTAINER "virtproxy packagers <packages@virtproxy.invalid>" CACHE STRING
    "Maintainer of the packages: name and address")

# --- units ----------------------------------------------------------------------------------------

set(systemd_files ${PROJECT_SOURCE_DIR}/uring/daemon/systemd)
# The place of the programs is known when they are installed.
install(CODE "
  set(BINDIR \"\${CMAKE_INSTALL_PREFIX}/bin\")
  foreach(unit virtproxy virtproxy@ virtproxy-guest)
    configure_file(${systemd_files}/\${unit}.service.in ${PROJECT_BINARY_DIR}/units/\${unit}.service @ONLY)
    file(INSTALL ${PROJECT_BINARY_DIR}/units/\${unit}.service
         DESTINATION \"\${CMAKE_INSTALL_PREFIX}/lib/systemd/system\")
  endforeach()" COMPONENT virtproxy)
# The files that the units read. Below /usr/local nothing belongs to a package that could keep changes.
install(CODE "
  set(settings \"\${CMAKE_INSTALL_PREFIX}/share/doc/virtproxy/examples\")
  if(CMAKE_INSTALL_PREFIX MATCHES \"^(.*)/usr$\")
    set(settings \"\${CMAKE_MATCH_1}/etc/virtproxy\")
  endif()
  file(INSTALL ${systemd_files}/virtproxy.toml ${systemd_files}/guest.toml
       DESTINATION \"\${settings}\")" COMPONENT virtproxy)
install(FILES ${systemd_files}/virtproxy.sysusers DESTINATION lib/sysusers.d RENAME virtproxy.conf
        COMPONENT virtproxy)
install(FILES ${systemd_files}/virtproxy.tmpfiles DESTINATION lib/tmpfiles.d RENAME virtproxy.conf
        COMPONENT virtproxy)
install(FILES ${systemd_files}/60-virtproxy.rules DESTINATION lib/udev/rules.d COMPONENT virtproxy)
install(PROGRAMS ${systemd_files}/libvirt-hook DESTINATION share/doc/virtproxy/examples
        COMPONENT virtproxy)
install(FILES ${systemd_files}/ship-journal.conf DESTINATION share/virtproxy COMPONENT virtproxy)
set(init_files ${PROJECT_SOURCE_DIR}/uring/daemon/init)
install(PROGRAMS ${init_files}/virtproxy-guest ${init_files}/virtproxy.openrc
        DESTINATION share/doc/virtproxy/examples COMPONENT virtproxy)
install(FILES ${init_files}/README.md DESTINATION share/doc/virtproxy/examples RENAME guests-without-systemd.md
        COMPONENT virtproxy)
install(FILES ${PROJECT_SOURCE_DIR}/uring/daemon/grafana/virtproxy.json DESTINATION share/virtproxy/grafana
        COMPONENT virtproxy)
foreach(document uring/daemon/OPERATING.md uring/daemon/CONTAINMENT.md uring/daemon/LIBVIRT.md
        uring/daemon/FAR.md uring/daemon/MIGRATION.md uring/service/logs/SHIPPING.md uring/service/logs/COLLECTING.md)
  install(FILES ${PROJECT_SOURCE_DIR}/${document} DESTINATION share/doc/virtproxy COMPONENT virtproxy)
endforeach()

# --- manual pages and completions, from the programs themselves -----------------------------------

find_program(SCDOC scdoc)
if(VIRTPROXY_SANITIZE OR CMAKE_CROSSCOMPILING OR NOT CMAKE_BUILD_TYPE MATCHES "^(Release|RelWithDebInfo|MinSizeRel)$")
  # The programs of these run slowly, count that they run, or do not run here.
elseif(NOT SCDOC OR NOT VIRTPROXY_PYTHON)
  message(STATUS "manual pages and completions are left out: they need scdoc and python3")
else()
  set(manual ${PROJECT_SOURCE_DIR}/cmake/manual.py)
  set(generated)
  set(made ${PROJECT_BINARY_DIR}/manual)
  file(MAKE_DIRECTORY ${made})
  # add_manual_page(NAME SECTION COMPONENT SOURCE ARGUMENT...): the arguments are those of manual.py
  function(add_manual_page name section component source)
    set(page ${made}/${name}.${section})
    set(programs virtproxy virtproxyctl)
    if(component STREQUAL bench)
      set(programs virtproxy-bench)
    elseif(component STREQUAL agent)
      set(programs virtagent)
    endif()
    add_custom_command(OUTPUT ${page}.gz
      COMMAND ${VIRTPROXY_PYTHON} ${manual} ${ARGN} > ${page}.scd
      COMMAND ${SCDOC} < ${page}.scd > ${page}
      COMMAND gzip -9nf ${page}
      DEPENDS ${manual} ${source} ${programs}
      VERBATIM)
    install(FILES ${page}.gz DESTINATION share/man/man${section} COMPONENT ${component})
    set(generated ${generated} ${page}.gz PARENT_SCOPE)
  endfunction()
  set(daemon_page ${PROJECT_SOURCE_DIR}/uring/daemon/manual/virtproxy.8.scd.in)
  set(ctl_page ${PROJECT_SOURCE_DIR}/uring/ctl/virtproxyctl.1.scd.in)
  set(protocol ${PROJECT_SOURCE_DIR}/core/PROTOCOL.md)
  set(agent_page ${PROJECT_SOURCE_DIR}/uring/agent/virtagent.1.scd.in)
  add_manual_page(virtproxy 8 virtproxy ${daemon_page} page ${daemon_page} $<TARGET_FILE:virtproxy>)
  set(file_page ${PROJECT_SOURCE_DIR}/uring/daemon/manual/virtproxy.toml.5.scd.in)
  set(operating ${PROJECT_SOURCE_DIR}/uring/daemon/OPERATING.md)
  add_manual_page(virtproxy.toml 5 virtproxy ${file_page} keys ${file_page} ${operating} $<TARGET_FILE:virtproxy>)
  add_manual_page(virtproxyctl 1 virtproxy ${ctl_page} page ${ctl_page} $<TARGET_FILE:virtproxyctl>)
  add_manual_page(virtproxy-protocol 7 virtproxy ${protocol} protocol ${protocol})
  add_manual_page(virtagent 1 agent ${agent_page} page ${agent_page} $<TARGET_FILE:virtagent>)
  if(VIRTPROXY_BENCH)
    set(bench_page ${PROJECT_SOURCE_DIR}/bench/virtproxy-bench.1.scd.in)
    add_manual_page(virtproxy-bench 1 bench ${bench_page} page ${bench_page}
                    $<TARGET_FILE:virtproxy-bench>)
  endif()
  # The programs' other names.
  foreach(alias qemu-vp=virtproxy=virtproxy=8 virtproxy-static=static=virtproxy=8 virtagent-static=static=virtagent=1)
    string(REPLACE "=" ";" alias ${alias})
    list(GET alias 0 name)
    list(GET alias 1 component)
    list(GET alias 2 page)
    list(GET alias 3 section)
    file(CREATE_LINK ${page}.${section}.gz ${made}/${name}.${section}.gz SYMBOLIC)
    install(FILES ${made}/${name}.${section}.gz DESTINATION share/man/man${section}
            COMPONENT ${component})
  endforeach()

  set(completed virtproxy=virtproxy virtproxyctl=virtproxy virtagent=agent)
  if(VIRTPROXY_BENCH)
    list(APPEND completed virtproxy-bench=bench)
  endif()
  foreach(program IN LISTS completed)
    string(REPLACE "=" ";" program ${program})
    list(GET program 1 component)
    list(GET program 0 program)
    foreach(place bash=share/bash-completion/completions=${program}
                  zsh=share/zsh/vendor-completions=_${program}
                  fish=share/fish/vendor_completions.d=${program}.fish)
      string(REPLACE "=" ";" place ${place})
      list(GET place 0 shell)
      list(GET place 1 directory)
      list(GET place 2 name)
      set(file ${made}/${shell}/${name})
      file(MAKE_DIRECTORY ${made}/${shell})
      add_custom_command(OUTPUT ${file}
        COMMAND ${VIRTPROXY_PYTHON} ${manual} completion ${shell} $<TARGET_FILE:${program}> > ${file}
        DEPENDS ${manual} ${program}
        VERBATIM)
      install(FILES ${file} DESTINATION ${directory} COMPONENT ${component})
      list(APPEND generated ${file})
    endforeach()
  endforeach()
  add_custom_target(manual ALL DEPENDS ${generated})
endif()

# --- Debian packages ------------------------------------------------------------------------------

string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
set(debian ${PROJECT_SOURCE_DIR}/cmake/debian)
set(made ${PROJECT_BINARY_DIR}/debian)
# Every package has them, under its own name.
foreach(package_of virtproxy=virtproxy static=virtproxy-static bench=virtproxy-bench agent=virtagent)
  string(REPLACE "=" ";" package_of ${package_of})
  list(GET package_of 0 component)
  list(GET package_of 1 package)
  configure_file(${debian}/changelog.in ${made}/${component}/changelog.Debian @ONLY)
  execute_process(COMMAND gzip -9nf ${made}/${component}/changelog.Debian)
  install(FILES ${made}/${component}/changelog.Debian.gz ${debian}/copyright
          DESTINATION share/doc/${package} COMPONENT ${component})
  if(EXISTS ${debian}/${package}.lintian-overrides)
    install(FILES ${debian}/${package}.lintian-overrides DESTINATION share/lintian/overrides
            RENAME ${package} COMPONENT ${component})
  endif()
endforeach()
foreach(script postinst prerm postrm conffiles)
  configure_file(${debian}/${script} ${made}/${script} COPYONLY)
endforeach()
foreach(script postinst prerm)
  configure_file(${debian}/virtagent.${script} ${made}/agent/${script} COPYONLY)
endforeach()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME virtproxy)
# Each description begins with its own line.
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL virtproxy agent)
if(VIRTPROXY_STATIC)
  list(APPEND CPACK_COMPONENTS_ALL static)
endif()
if(VIRTPROXY_BENCH)
  list(APPEND CPACK_COMPONENTS_ALL bench)
endif()
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_ENABLE_COMPONENT_DEPENDS OFF)
set(CPACK_DEBIAN_PACKAGE_MAINTAINER ${VIRTPROXY_MAINTAINER})
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_VIRTPROXY_PACKAGE_NAME virtproxy)
set(CPACK_DEBIAN_VIRTPROXY_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_VIRTPROXY_PACKAGE_SUGGESTS "virtproxy-static, xorriso | genisoimage")
set(CPACK_DEBIAN_VIRTPROXY_PACKAGE_CONTROL_EXTRA ${made}/postinst ${made}/prerm ${made}/postrm
    ${made}/conffiles)
set(CPACK_DEBIAN_VIRTPROXY_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_AGENT_PACKAGE_NAME virtagent)
set(CPACK_DEBIAN_AGENT_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_AGENT_PACKAGE_CONTROL_EXTRA ${made}/agent/postinst ${made}/agent/prerm ${made}/postrm)
set(CPACK_DEBIAN_AGENT_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_STATIC_PACKAGE_NAME virtproxy-static)
set(CPACK_DEBIAN_BENCH_PACKAGE_NAME virtproxy-bench)
set(CPACK_DEBIAN_BENCH_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_VIRTPROXY_DESCRIPTION "many socket connections over one channel
virtproxy carries many socket connections over one channel between a host and
a guest: a virtio-serial port, a serial port, a unix, TCP or vsock socket.
One daemon runs on each end. No connection can delay another.

The package has the daemon, virtproxyctl for QEMU and libvirt, and units.")
set(CPACK_DEBIAN_STATIC_DESCRIPTION "virtproxy for guests without libraries
The daemon of virtproxy and virtagent as statically linked programs, for
guests with nothing but a kernel, and for the image that virtproxyctl guest-iso
writes.")
set(CPACK_DEBIAN_AGENT_DESCRIPTION "calls between a host and its guest, in both directions
virtagent runs in a guest and on its host. It speaks the protocol of the QEMU
guest agent, adds calls from the guest and events, and serves many clients at
once behind virtproxy. By default it only reads.")
set(CPACK_DEBIAN_BENCH_DESCRIPTION "load generator for proxies
virtproxy-bench makes load through any proxy, and measures throughput, latency
and processor time. Numbered log lines through any log shipper are audited.")
include(CPack)
