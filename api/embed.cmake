# cmake -DINPUT=FILE -DOUTPUT=FILE.c -P embed.cmake: the bytes of a file as kvs_descriptors.
file(READ "${INPUT}" hex HEX)
string(LENGTH "${hex}" digits)
math(EXPR bytes "${digits} / 2")
string(REGEX REPLACE "(..)" "0x\\1," array "${hex}")
string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n    "
  array "${array}")
file(WRITE "${OUTPUT}" "#include \"api/descriptors.h\"

const uint8_t kvs_descriptors[] = {
    ${array}
};
const size_t kvs_descriptors_bytes = ${bytes};
")
