# How every target of ours is compiled: link faultline::compile privately.
add_library(faultline_compile INTERFACE)
add_library(faultline::compile ALIAS faultline_compile)
target_compile_options(faultline_compile INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wundef -Werror
  $<$<COMPILE_LANGUAGE:CXX>:-Wold-style-cast -Wnon-virtual-dtor -Woverloaded-virtual>)
target_compile_definitions(faultline_compile INTERFACE FAULTLINE_VERSION="${PROJECT_VERSION}")
target_include_directories(faultline_compile INTERFACE
  ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)

if(FAULTLINE_SANITIZE)
  add_compile_options(-fsanitize=${FAULTLINE_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${FAULTLINE_SANITIZE})
  # With sanitizers GCC sees uninitialized values where there are none: gcc(1) at -Wmaybe-uninitialized.
  add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  if(FAULTLINE_SANITIZE MATCHES thread)
    # ThreadSanitizer does not understand bare fences; Asio's come on top of locks that it does.
    add_compile_definitions(BOOST_ASIO_DISABLE_FENCED_BLOCK)
    # Ours order atomics, most of them with another process's. One that plain data relied on would be
    # reported as a race: that it is not followed hides nothing.
    add_compile_options($<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
  endif()
endif()
