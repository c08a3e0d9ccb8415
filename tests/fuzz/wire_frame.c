/* A Frame: decoded wherever it is cut; what was read can be written and read again. */
#include "tests/fuzz/fuzz.h"

#include "api/codec.h"
#include "base/check.h"
#include "tests/unit/api/spans.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    static kvs_codec_scratch scratch, again;
    static kvs_head head;
    kvs_seed seed = {count == 0 ? 0 : bytes[0]};
    kvs_spans cut = kvs_spans_cut(bytes + (count > 0), count - (count > 0), 8, &seed);
    kvs_frame_view view;
    kvs_problem problem;
    if (kvs_frame_decode(cut.spans, cut.count, &scratch, &view, &problem) == KVS_OK) {
        view.has_shard_parts = false;
        kvs_status status = kvs_frame_encode(&head, &view, view.payload.bytes);
        KVS_CHECK(status == KVS_OK || status == KVS_TOO_LARGE);
        kvs_span spans[2] = {{head.bytes, head.used}, {cut.spans[0].data, 0}};
        kvs_frame_view second;
        if (status == KVS_OK && view.payload.bytes == 0) {
            KVS_CHECK(kvs_frame_decode(spans, 2, &again, &second, NULL) == KVS_OK);
            KVS_CHECK(second.part_count == view.part_count);
        }
    }
    kvs_spans_free(&cut);
    return 0;
}
