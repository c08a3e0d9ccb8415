/* Messages as JSON and back, by their descriptors. */
#include "api/json_message.h"

#include "api/base64.h"
#include "api/kvstored.pb-c.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static kvs_status parse(const ProtobufCMessageDescriptor *descriptor, const char *text, void *out,
                        kvs_problem *problem)
{
    json_t *json = NULL;
    assert_int_equal(kvs_json_parse(text, strlen(text), 65536, &json, NULL), KVS_OK);
    ProtobufCMessage *message = NULL;
    kvs_status status = kvs_json_message_parse(descriptor, json, &message, problem);
    json_decref(json);
    if (status == KVS_OK) {
        memcpy(out, &message, sizeof(message));
    }
    return status;
}

static void free_message(void *message)
{
    protobuf_c_message_free_unpacked(message, NULL);
}

static char *print(const void *message)
{
    json_t *json = NULL;
    kvs_problem problem;
    assert_int_equal(kvs_json_message_print(message, &json, &problem), KVS_OK);
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    assert_non_null(text);
    return text;
}

/* The detail of the one error that `text` must give. */
static void assert_refused(const ProtobufCMessageDescriptor *descriptor, const char *text,
                           const char *detail)
{
    kvs_problem problem = {0};
    void *message = NULL;
    assert_int_equal(parse(descriptor, text, &message, &problem), KVS_INVALID_FIELD);
    assert_string_equal(problem.detail, detail);
    assert_int_equal(problem.status, KVS_INVALID_FIELD);
    assert_int_equal(parse(descriptor, text, &message, NULL), KVS_INVALID_FIELD);
}

static void every_field_is_printed_at_its_default_too(void **state)
{
    (void)state;
    Kvstored__V1__Key key = KVSTORED__V1__KEY__INIT;
    char *text = print(&key);
    assert_string_equal(text, "{\"key\":\"\",\"dtype\":\"none\",\"storage\":\"dense\",\"shape\":[],"
                              "\"bytes\":\"0\",\"part_elements\":\"0\",\"parts\":\"0\"}");
    free(text);
    Kvstored__V1__GetRankReply rank = KVSTORED__V1__GET_RANK_REPLY__INIT;
    text = print(&rank);
    assert_string_equal(text, "{\"rank\":0}");
    free(text);
}

static void values_are_printed_by_their_types(void **state)
{
    (void)state;
    uint64_t shape[2] = {3, UINT64_MAX};
    Kvstored__V1__Version version = KVSTORED__V1__VERSION__INIT;
    version.epoch = 2;
    Kvstored__V1__Key key = KVSTORED__V1__KEY__INIT;
    key.key = "a\"\xc3\xa4";
    key.dtype = KVSTORED__V1__DTYPE__DTYPE_BF16;
    key.storage = KVSTORED__V1__STORAGE__STORAGE_ROW_SPARSE;
    key.n_shape = 2;
    key.shape = shape;
    key.version = &version;
    char *text = print(&key);
    assert_string_equal(text, "{\"key\":\"a\\\"\xc3\xa4\",\"dtype\":\"bf16\",\"storage\":"
                              "\"row_sparse\",\"shape\":[\"3\",\"18446744073709551615\"],"
                              "\"bytes\":\"0\",\"part_elements\":\"0\",\"parts\":\"0\","
                              "\"version\":{\"epoch\":\"2\",\"count\":\"0\"}}");
    free(text);
}

static void unknown_enum_is_printed_as_its_number(void **state)
{
    (void)state;
    Kvstored__V1__CreateStoreRequest request = KVSTORED__V1__CREATE_STORE_REQUEST__INIT;
    request.policy = (Kvstored__V1__Policy)77;
    char *text = print(&request);
    assert_non_null(strstr(text, "\"policy\":77"));
    free(text);
}

static void text_that_is_not_utf8_is_refused(void **state)
{
    (void)state;
    Kvstored__V1__GetStoreRequest request = KVSTORED__V1__GET_STORE_REQUEST__INIT;
    request.store = "\xff";
    json_t *json = NULL;
    assert_int_equal(kvs_json_message_print(&request.base, &json, NULL), KVS_INVALID_FIELD);
    assert_null(json);
}

static void store_is_read(void **state)
{
    (void)state;
    Kvstored__V1__CreateStoreRequest *request;
    assert_int_equal(parse(&kvstored__v1__create_store_request__descriptor,
                           "{\"name\":\"a\",\"type\":\"dist_sync\",\"num_workers\":4,\"policy\":"
                           "\"shrink\",\"lease_ms\":\"10000\",\"round_deadline_ms\":60000,"
                           "\"barrier_deadline_ms\":null}",
                           &request, NULL),
                     KVS_OK);
    assert_string_equal(request->name, "a");
    assert_string_equal(request->type, "dist_sync");
    assert_int_equal(request->num_workers, 4);
    assert_int_equal(request->policy, KVSTORED__V1__POLICY__POLICY_SHRINK);
    assert_int_equal(request->lease_ms, 10000);
    assert_int_equal(request->round_deadline_ms, 60000);
    assert_int_equal(request->barrier_deadline_ms, 0);
    free_message(request);
}

static void what_is_printed_is_read_as_the_same(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{\"parts\":[{\"key\":\"k\",\"dtype\":\"i64\",\"storage\":\"dense\",\"codec\":\"2bit\","
        "\"shape\":[\"1\",\"2\"],\"element_offset\":\"0\",\"element_count\":\"0\",\"sequence\":"
        "\"0\",\"after\":\"0\",\"priority\":-2147483648,\"weight\":0.5,\"payload_bytes\":\"0\","
        "\"version\":{\"epoch\":\"1\",\"count\":\"18446744073709551615\"},\"row_ids\":[]},"
        "{\"weight\":\"Infinity\"}],\"session\":\"AAEC/w==\",\"durable\":true,\"crc32c\":"
        "4294967295,\"data\":\"\"}",
        "{\"store\":\"s\"}",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        Kvstored__V1__Frame *frame;
        assert_int_equal(parse(&kvstored__v1__frame__descriptor, texts[i], &frame, NULL), KVS_OK);
        char *text = print(frame);
        Kvstored__V1__Frame *again;
        assert_int_equal(parse(&kvstored__v1__frame__descriptor, text, &again, NULL), KVS_OK);
        size_t bytes = kvstored__v1__frame__get_packed_size(frame);
        assert_int_equal(bytes, kvstored__v1__frame__get_packed_size(again));
        uint8_t *a = malloc(2 * bytes);
        assert_non_null(a);
        (void)kvstored__v1__frame__pack(frame, a);
        (void)kvstored__v1__frame__pack(again, a + bytes);
        assert_memory_equal(a, a + bytes, bytes);
        free(a);
        free(text);
        free_message(frame);
        free_message(again);
    }
}

static void members_of_a_oneof_are_read_by_name(void **state)
{
    (void)state;
    Kvstored__V1__Reply *reply;
    assert_int_equal(
        parse(&kvstored__v1__reply__descriptor, "{\"credit\":{\"bytes\":\"5\"}}", &reply, NULL),
        KVS_OK);
    assert_int_equal(reply->reply_case, KVSTORED__V1__REPLY__REPLY_CREDIT);
    assert_int_equal(reply->credit->bytes, 5);
    char *text = print(reply);
    assert_string_equal(text, "{\"credit\":{\"bytes\":\"5\"}}");
    free(text);
    free_message(reply);

    Kvstored__V1__RegisterRequest *request;
    assert_int_equal(
        parse(&kvstored__v1__register_request__descriptor, "{\"rank\":0}", &request, NULL), KVS_OK);
    assert_int_equal(request->wanted_case, KVSTORED__V1__REGISTER_REQUEST__WANTED_RANK);
    free_message(request);
    assert_refused(&kvstored__v1__reply__descriptor, "{\"acks\":{},\"credit\":{}}",
                   "/credit cannot stand beside another of its kind");
}

static void errors_name_the_field_as_a_pointer(void **state)
{
    (void)state;
    const ProtobufCMessageDescriptor *store = &kvstored__v1__create_store_request__descriptor;
    const ProtobufCMessageDescriptor *frame = &kvstored__v1__frame__descriptor;
    assert_refused(store, "[]", "the document must be an object");
    assert_refused(store, "{\"num_worker\":1}",
                   "/num_worker is unknown, did you mean \"num_workers\"?");
    assert_refused(store, "{\"num_workers\":-1}",
                   "/num_workers must be an integer between 0 and 4294967295");
    assert_refused(store, "{\"num_workers\":4294967296}",
                   "/num_workers must be an integer between 0 and 4294967295");
    assert_refused(store, "{\"num_workers\":1.5}",
                   "/num_workers must be an integer between 0 and 4294967295");
    assert_refused(store, "{\"lease_ms\":\"\"}",
                   "/lease_ms must be an integer between 0 and 18446744073709551615");
    assert_refused(store, "{\"lease_ms\":\" 1\"}",
                   "/lease_ms must be an integer between 0 and 18446744073709551615");
    assert_refused(store, "{\"lease_ms\":\"18446744073709551616\"}",
                   "/lease_ms must be an integer between 0 and 18446744073709551615");
    assert_refused(store, "{\"policy\":\"shrimp\"}",
                   "/policy is unknown, did you mean \"shrink\"?");
    assert_refused(store, "{\"policy\":1}", "/policy must be a word like \"wait\"");
    assert_refused(store, "{\"name\":1}", "/name must be a string");
    assert_refused(frame, "{\"parts\":{}}", "/parts must be an array");
    assert_refused(frame, "{\"parts\":[{},{\"shape\":[1,\"x\"]}]}",
                   "/parts/1/shape/1 must be an integer between 0 and 18446744073709551615");
    assert_refused(frame, "{\"parts\":[{\"priority\":2147483648}]}",
                   "/parts/0/priority must be an integer between -2147483648 and 2147483647");
    assert_refused(frame, "{\"parts\":[{\"weight\":\"x\"}]}", "/parts/0/weight must be a number");
    assert_refused(frame, "{\"data\":\"a\"}", "/data must be base64");
    assert_refused(frame, "{\"data\":\"ab==\"}", "/data must be base64");
    assert_refused(frame, "{\"durable\":1}", "/durable must be true or false");
    assert_refused(frame, "{\"durable\":1,\"data\":2}",
                   "/durable must be true or false; /data must be a string of base64");
}

static void base64_is_what_the_rfc_says(void **state)
{
    (void)state;
    static const char *const plain[] = {"", "f", "fo", "foo", "foob", "fooba", "foobar"};
    static const char *const text[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                       "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    for (size_t i = 0; i < 7; i++) {
        char out[16];
        uint8_t back[16];
        size_t bytes = 0;
        size_t length = kvs_base64_encode((const uint8_t *)plain[i], i, out);
        assert_int_equal(length, strlen(text[i]));
        assert_memory_equal(out, text[i], length);
        assert_true(kvs_base64_decode(text[i], length, back, &bytes));
        assert_int_equal(bytes, i);
        assert_memory_equal(back, plain[i], i);
        assert_true(kvs_base64_decode(text[i], strcspn(text[i], "="), back, &bytes));
        assert_int_equal(bytes, i);
    }
    uint8_t back[16];
    size_t bytes;
    assert_true(kvs_base64_decode("-_-_", 4, back, &bytes));
    assert_memory_equal(back, "\xfb\xff\xbf", 3);
    assert_false(kvs_base64_decode("Zg=a", 4, back, &bytes));
    assert_false(kvs_base64_decode("=", 1, back, &bytes));
    assert_false(kvs_base64_decode("====", 4, back, &bytes));
    assert_false(kvs_base64_decode("Zh==", 4, back, &bytes)); /* bits that stand for nothing */
    assert_false(kvs_base64_decode("Zm 9v", 5, back, &bytes));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_is_printed_at_its_default_too),
        cmocka_unit_test(values_are_printed_by_their_types),
        cmocka_unit_test(unknown_enum_is_printed_as_its_number),
        cmocka_unit_test(text_that_is_not_utf8_is_refused),
        cmocka_unit_test(store_is_read),
        cmocka_unit_test(what_is_printed_is_read_as_the_same),
        cmocka_unit_test(members_of_a_oneof_are_read_by_name),
        cmocka_unit_test(errors_name_the_field_as_a_pointer),
        cmocka_unit_test(base64_is_what_the_rfc_says),
    };
    return cmocka_run_group_tests_name("json_message", tests, NULL, NULL);
}
