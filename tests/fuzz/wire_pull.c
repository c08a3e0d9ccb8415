/* A PullRequest: decoded wherever it is cut; what was read can be written and read again. */
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
    kvs_pull_view view;
    kvs_problem problem;
    if (kvs_pull_decode(cut.spans, cut.count, &scratch, &view, &problem) == KVS_OK) {
        view.has_snapshot_name = false;
        KVS_CHECK(kvs_pull_encode(&head, &view) == KVS_OK);
        kvs_span span = {head.bytes, head.used};
        kvs_pull_view second;
        KVS_CHECK(kvs_pull_decode(&span, 1, &again, &second, NULL) == KVS_OK);
        KVS_CHECK(second.key_count == view.key_count);
    }
    kvs_spans_free(&cut);
    return 0;
}
