/* A Reply: decoded wherever it is cut; acks, refusals and credit can be written and read again. */
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
    kvs_reply_view view;
    kvs_problem problem;
    if (kvs_reply_decode(cut.spans, cut.count, &scratch, &view, &problem) == KVS_OK &&
        view.kind != KVS_REPLY_NONE && view.kind != KVS_REPLY_FRAME) {
        KVS_CHECK(kvs_reply_encode(&head, &view, 0) == KVS_OK);
        kvs_span span = {head.bytes, head.used};
        kvs_reply_view second;
        KVS_CHECK(kvs_reply_decode(&span, 1, &again, &second, NULL) == KVS_OK);
        KVS_CHECK(second.kind == view.kind);
    }
    kvs_spans_free(&cut);
    return 0;
}
