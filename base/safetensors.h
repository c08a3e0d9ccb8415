/* The header of a safetensors file: what tensors it holds and where, read and written.
 *
 * A file is 8 bytes (the header's length, little-endian), the header (JSON, padded by spaces), and
 * the data, in which the tensors lie without gap or overlap. Reading takes one pass over the text
 * and builds no tree, so memory stays within a few times the header's length.
 *
 * What is written has one form: tensors in the order of their dtype (widest kind first, as the
 * format's own writer does) and then of their name, notes by name, no blanks. Equal contents give
 * equal bytes.
 *
 * Threads: any; pure functions. Memory: as said of each function.
 * Errors: KVS_INVALID_FRAME for what is no such file, KVS_TOO_LARGE, KVS_NO_MEMORY; out untouched.
 */
#ifndef KVS_BASE_SAFETENSORS_H
#define KVS_BASE_SAFETENSORS_H

#include "base/status.h"
#include "base/tensor.h"

/* The bytes of the header's length. */
#define KVS_SAFETENSORS_LENGTH_BYTES 8u

typedef struct kvs_safetensor {
    const char *name; /* UTF-8, not terminated */
    uint32_t name_bytes;
    kvs_dtype dtype;
    uint32_t rank;
    const uint64_t *sizes; /* `rank` of them */
    uint64_t begin, end;   /* in the data */
    uint64_t tag;          /* the caller's */
} kvs_safetensor;

/* An entry of __metadata__: text to text. */
typedef struct kvs_safetensors_note {
    const char *name; /* neither is terminated */
    uint32_t name_bytes;
    const char *text;
    uint32_t text_bytes;
} kvs_safetensors_note;

typedef struct kvs_safetensors {
    kvs_safetensor *tensors; /* as they lie in the data */
    size_t count;
    kvs_safetensors_note *notes;
    size_t note_count;
    uint64_t data_bytes;
    uint64_t *sizes; /* of all shapes */
} kvs_safetensors;

/* "F32"; `dtype` is one. */
const char *kvs_safetensors_dtype_name(kvs_dtype dtype);

/* For qsort and bsearch: by name. */
int kvs_safetensor_compare(const void *a, const void *b);
int kvs_safetensors_note_compare(const void *a, const void *b);

/* The header's length, from the first 8 bytes of a file. At most
 * KVS_SAFETENSORS_HEADER_BYTES_MAX. */
kvs_status kvs_safetensors_length(const uint8_t bytes[KVS_SAFETENSORS_LENGTH_BYTES], size_t *out,
                                  kvs_problem *problem) KVS_MUST_CHECK;

/* Reads a header. Texts are unescaped where they stand: `header` is changed, and borrowed until
 * deinit. Refused: dtypes that base/tensor.h does not have, names that stand twice, offsets that
 * do not fit the shape, gaps and overlaps. */
kvs_status kvs_safetensors_parse(char *header, size_t bytes, kvs_safetensors *out,
                                 kvs_problem *problem) KVS_MUST_CHECK;
void kvs_safetensors_deinit(kvs_safetensors *file);

/* The text of a note, or NULL. */
const kvs_safetensors_note *kvs_safetensors_find_note(const kvs_safetensors *file,
                                                      const char *name);

/* Puts tensors and notes in the order of the file, gives the tensors their places, and writes the
 * length and the header: *out by malloc. KVS_INVALID_FIELD: two tensors have one name, or one has
 * that of the notes, which the problem tells. KVS_TOO_LARGE: it could not be read again. */
kvs_status kvs_safetensors_print(kvs_safetensor *tensors, size_t count, kvs_safetensors_note *notes,
                                 size_t note_count, uint8_t **out, size_t *out_bytes,
                                 uint64_t *data_bytes, kvs_problem *problem) KVS_MUST_CHECK;

#endif
