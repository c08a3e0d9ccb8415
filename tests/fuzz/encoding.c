/* An encoded gradient, cut anywhere: what is judged to be one is decoded inside its part. */
#include "tests/fuzz/fuzz.h"

#include "base/check.h"
#include "engine/codec.h"
#include "tests/unit/api/spans.h"

#include <stdlib.h>
#include <string.h>

/* A seed, a codec, how many elements (two bytes), a threshold (four), then the encoding. */
#define HEAD_BYTES 8u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (count < HEAD_BYTES) {
        return 0;
    }
    kvs_seed seed = {bytes[0]};
    kvs_codec codec = (kvs_codec)(int8_t)bytes[1];
    size_t elements = (size_t)bytes[2] | (size_t)bytes[3] << 8;
    float threshold;
    memcpy(&threshold, bytes + 4, sizeof threshold);
    kvs_spans cut = kvs_spans_cut(bytes + HEAD_BYTES, count - HEAD_BYTES, 8, &seed);
    kvs_payload payload = {
        .spans = cut.spans, .count = (uint32_t)cut.count, .bytes = count - HEAD_BYTES};
    if (kvs_codec_judge(codec, threshold, elements, &payload, NULL) == KVS_OK) {
        float *target = calloc(elements + 1, sizeof *target); /* one more tells of an overrun */
        KVS_CHECK(target != NULL);
        kvs_codec_decode(codec, threshold, &payload, target, elements, false);
        kvs_codec_decode(codec, threshold, &payload, target, elements, true);
        KVS_CHECK(target[elements] == 0);
        free(target);
    }
    kvs_spans_free(&cut);
    return 0;
}
