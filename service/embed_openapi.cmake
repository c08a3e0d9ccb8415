# cmake -DFROM=openapi.yaml -DTO=openapi_text.c -P embed_openapi.cmake
file(READ "${FROM}" hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "(..)" "0x\\1," items "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" items
  "${items}")
file(WRITE "${TO}" "/* Generated from openapi.yaml. */
#include \"service/openapi_text.h\"

const char kvs_openapi[] = {
${items}
};
const size_t kvs_openapi_bytes = ${bytes};
")
