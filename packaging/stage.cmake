# What cpack runs between installing the components and packing them: makes Debian packages of plain trees, and says what
# they depend on. Must never change what was built, but to strip it.
#
# It is read into cpack's own variables: what is set here is what the packages are made with.
cmake_policy(VERSION 3.25)
unset(CPACK_PACKAGE_DESCRIPTION_SUMMARY)  # each package has its own
find_program(dpkg_shlibdeps dpkg-shlibdeps REQUIRED)
find_program(dpkg_gensymbols dpkg-gensymbols REQUIRED)

set(packaging "${CPACK_FAULTLINE_SOURCE}/packaging")
set(debian_version "${CPACK_PACKAGE_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE}")
set(work "${CPACK_TEMPORARY_DIRECTORY}/control")
file(REMOVE_RECURSE "${work}")
file(MAKE_DIRECTORY "${work}/debian")

# must(COMMAND...): runs it in ${work}, and ends cpack in words where it fails. `output` is what it printed.
function(must)
  execute_process(COMMAND ${ARGN} WORKING_DIRECTORY "${work}" RESULT_VARIABLE code OUTPUT_VARIABLE output
    ERROR_VARIABLE errors)
  if(NOT code EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "packaging: ${command}\nended with ${code}:\n${errors}${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

function(compress file)
  must(gzip -9 -n -f "${file}")
endfunction()

# The time of what is packaged, not of the packaging.
if(DEFINED ENV{SOURCE_DATE_EPOCH})
  set(seconds $ENV{SOURCE_DATE_EPOCH})
else()
  file(TIMESTAMP "${CPACK_FAULTLINE_SOURCE}/CHANGELOG.md" seconds "%s" UTC)
endif()
must("${packaging}/changelog" "${CPACK_FAULTLINE_SOURCE}/CHANGELOG.md" "${debian_version}" "${CPACK_PACKAGE_CONTACT}"
  ${seconds})
file(WRITE "${work}/debian/changelog" "${output}")

set(control "Source: faultline\nMaintainer: ${CPACK_PACKAGE_CONTACT}\n")
foreach(component IN LISTS CPACK_COMPONENTS_ALL)
  string(TOUPPER ${component} upper)
  string(APPEND control "\nPackage: ${CPACK_DEBIAN_${upper}_PACKAGE_NAME}\nArchitecture: any\n")
endforeach()
file(WRITE "${work}/debian/control" "${control}")

foreach(component IN LISTS CPACK_COMPONENTS_ALL)
  string(TOUPPER ${component} upper)
  set(tree "${CPACK_TEMPORARY_DIRECTORY}/${component}")
  set(package ${CPACK_DEBIAN_${upper}_PACKAGE_NAME})
  set(doc "${tree}/usr/share/doc/${package}")
  if(NOT IS_DIRECTORY "${tree}/usr")
    message(FATAL_ERROR "packaging: nothing was installed for ${package} in ${tree}")
  endif()

  file(COPY "${packaging}/debian/copyright" DESTINATION "${doc}")
  file(COPY "${work}/debian/changelog" DESTINATION "${doc}")
  file(RENAME "${doc}/changelog" "${doc}/changelog.Debian")
  compress("${doc}/changelog.Debian")
  file(COPY "${CPACK_FAULTLINE_SOURCE}/CHANGELOG.md" DESTINATION "${doc}")
  file(RENAME "${doc}/CHANGELOG.md" "${doc}/changelog")
  compress("${doc}/changelog")
  if(EXISTS "${packaging}/debian/${package}.lintian-overrides")
    file(MAKE_DIRECTORY "${tree}/usr/share/lintian/overrides")
    configure_file("${packaging}/debian/${package}.lintian-overrides" "${tree}/usr/share/lintian/overrides/${package}"
      COPYONLY)
  endif()

  file(GLOB_RECURSE pages "${tree}/usr/share/man/*")
  foreach(page IN LISTS pages)
    if(IS_SYMLINK "${page}" OR page MATCHES "\\.gz$")
      continue()
    endif()
    compress("${page}")
  endforeach()

  # Programs and libraries: stripped, and asked for what they need.
  set(binaries)
  file(GLOB programs "${tree}/usr/bin/*" "${tree}/usr/sbin/*" "${tree}/usr/${CPACK_FAULTLINE_LIBDIR}/*.so.*")
  foreach(program IN LISTS programs)
    if(NOT IS_SYMLINK "${program}")
      must(strip --strip-unneeded --remove-section=.comment --remove-section=.note "${program}")
      list(APPEND binaries "-e${program}")
    endif()
  endforeach()
  file(GLOB archives "${tree}/usr/${CPACK_FAULTLINE_LIBDIR}/*.a")
  foreach(archive IN LISTS archives)
    must(strip --strip-debug --enable-deterministic-archives --remove-section=.comment "${archive}")
  endforeach()
  set(depends)
  if(binaries)
    must("${dpkg_shlibdeps}" -O ${binaries})
    string(REGEX REPLACE "^shlibs:Depends=|\n.*$" "" depends "${output}")
  endif()

  # What the package system is to run and to know.
  set(extra)
  file(GLOB_RECURSE settings RELATIVE "${tree}" "${tree}/etc/*")
  if(settings)
    list(TRANSFORM settings PREPEND "/")
    list(JOIN settings "\n" settings)
    file(WRITE "${work}/${package}/conffiles" "${settings}\n")
    list(APPEND extra "${work}/${package}/conffiles")
  endif()
  foreach(script postinst prerm postrm)
    if(component STREQUAL "daemon")
      list(APPEND extra "${packaging}/debian/${script}")
    endif()
  endforeach()
  if(component STREQUAL "library")
    set(library "${tree}/usr/${CPACK_FAULTLINE_LIBDIR}/${CPACK_FAULTLINE_SONAME}")
    if(NOT EXISTS "${library}")
      message(FATAL_ERROR "packaging: there is no ${library}; was this tree configured before its library directory "
        "changed? Configure it anew with cmake --fresh")
    endif()
    # Symbols that went are an error, and so are new ones that nobody has listed.
    must("${dpkg_gensymbols}" -c4 -q -p${package} -v${CPACK_PACKAGE_VERSION} -e${library} -I${packaging}/${package}.symbols
      "-O${work}/symbols" "-P${work}/tree")
    file(COPY "${work}/symbols" DESTINATION "${work}/${package}")
    file(WRITE "${work}/${package}/shlibs" "libfaultline 1 ${package} (>= ${CPACK_PACKAGE_VERSION})\n")
    file(WRITE "${work}/${package}/triggers" "activate-noawait ldconfig\n")
    foreach(file symbols shlibs triggers)
      list(APPEND extra "${work}/${package}/${file}")
    endforeach()
  endif()

  # Exactly this library's headers. And daemon and library speak one version of their protocol: neither stays behind.
  if(component STREQUAL "development")
    set(depends "${CPACK_DEBIAN_LIBRARY_PACKAGE_NAME} (= ${debian_version})")
  elseif(component STREQUAL "daemon")
    # To make the user and the directories where no systemd runs, too.
    string(APPEND depends ", systemd | systemd-standalone-sysusers, systemd | systemd-standalone-tmpfiles")
  endif()
  if(component STREQUAL "daemon")
    set(CPACK_DEBIAN_DAEMON_PACKAGE_BREAKS "${CPACK_DEBIAN_LIBRARY_PACKAGE_NAME} (<< ${CPACK_PACKAGE_VERSION})")
  elseif(component STREQUAL "library")
    set(CPACK_DEBIAN_LIBRARY_PACKAGE_BREAKS "${CPACK_DEBIAN_DAEMON_PACKAGE_NAME} (<< ${CPACK_PACKAGE_VERSION})")
  endif()
  set(CPACK_DEBIAN_${upper}_PACKAGE_DEPENDS "${depends}")
  set(CPACK_DEBIAN_${upper}_PACKAGE_CONTROL_EXTRA "${extra}")
endforeach()
