# The compiler and linker flags of a memory-safety build (the OpenSSF set, as far as the compiler
# knows it): target kvs_hardening. Sanitizer, fuzz and debug builds get the warnings only, since
# _FORTIFY_SOURCE hides calls from the sanitizers. -z nodlopen is not here: the linker drops it from
# programs, and our libraries are made to be loaded. tests/house reads the result with readelf.
include(CheckCCompilerFlag)
include(CheckLinkerFlag)
include(CheckPIESupported)
check_pie_supported(LANGUAGES C CXX)

add_library(kvs_hardening INTERFACE)

function(kvs_harden_compile flag)
  string(MAKE_C_IDENTIFIER "KVS_HAS_${flag}" known)
  check_c_compiler_flag(${flag} ${known})
  if(${known})
    # nvcc takes host flags another way (cuda/CMakeLists.txt).
    target_compile_options(kvs_hardening INTERFACE $<$<COMPILE_LANGUAGE:C,CXX>:${flag}>)
  endif()
endfunction()

function(kvs_harden_link flag)
  string(MAKE_C_IDENTIFIER "KVS_HAS_${flag}" known)
  check_linker_flag(C ${flag} ${known})
  if(${known})
    target_link_options(kvs_hardening INTERFACE ${flag})
  endif()
endfunction()

target_compile_options(kvs_hardening INTERFACE
  "$<$<COMPILE_LANGUAGE:C,CXX>:-Wformat=2;-Werror=format-security>")
kvs_harden_compile(-Wtrampolines)
kvs_harden_compile(-fno-delete-null-pointer-checks)

if(NOT KVS_SANITIZE AND NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
  target_compile_options(kvs_hardening INTERFACE
    "$<$<COMPILE_LANGUAGE:C,CXX>:-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=3>")
  kvs_harden_compile(-fstack-protector-strong)
  kvs_harden_compile(-fstack-clash-protection)
  kvs_harden_compile(-ftrivial-auto-var-init=zero)
  kvs_harden_compile(-fno-strict-overflow)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    kvs_harden_compile(-fcf-protection=full)
  endif()
  kvs_harden_link(-Wl,-z,relro)
  kvs_harden_link(-Wl,-z,now)
  kvs_harden_link(-Wl,-z,noexecstack)
endif()

# Where a program needs our shared library, it finds it beside itself: build/ can be moved.
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
