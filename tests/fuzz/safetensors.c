/* A header from outside, as a file has it: what is read prints, and prints as it reads. */
#include "tests/fuzz/fuzz.h"

#include "base/check.h"
#include "base/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    kvs_problem problem;
    kvs_safetensors file;
    kvs_safetensors again;
    uint8_t *printed;
    size_t length;
    uint64_t data_bytes;
    if (count < KVS_SAFETENSORS_LENGTH_BYTES ||
        kvs_safetensors_length(bytes, &length, &problem) != KVS_OK ||
        length > count - KVS_SAFETENSORS_LENGTH_BYTES) {
        return 0;
    }
    char *header = malloc(length);
    if (header == NULL) {
        return 0;
    }
    memcpy(header, bytes + KVS_SAFETENSORS_LENGTH_BYTES, length);
    if (kvs_safetensors_parse(header, length, &file, &problem) == KVS_OK) {
        uint64_t total = file.data_bytes;
        KVS_CHECK(kvs_safetensors_print(file.tensors, file.count, file.notes, file.note_count,
                                        &printed, &length, &data_bytes, &problem) == KVS_OK);
        KVS_CHECK(data_bytes == total);
        KVS_CHECK(length % 8 == 0);
        KVS_CHECK(kvs_safetensors_parse((char *)printed + KVS_SAFETENSORS_LENGTH_BYTES,
                                        length - KVS_SAFETENSORS_LENGTH_BYTES, &again,
                                        &problem) == KVS_OK);
        KVS_CHECK(again.count == file.count && again.note_count == file.note_count);
        kvs_safetensors_deinit(&again);
        free(printed);
        kvs_safetensors_deinit(&file);
    }
    free(header);
    return 0;
}
