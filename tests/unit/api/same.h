/* One message read twice, by the hand codec and by protobuf-c: do they agree?
 *
 * Threads: one. Memory: borrows both. Errors: a difference fails the running cmocka test, or
 *   aborts outside of one.
 */
#ifndef KVS_TESTS_UNIT_API_SAME_H
#define KVS_TESTS_UNIT_API_SAME_H

#include "api/codec.h"
#include "api/kvstored.pb-c.h"

void kvs_same_frame(const kvs_frame_view *hand, const Kvstored__V1__Frame *frame);
void kvs_same_pull(const kvs_pull_view *hand, const Kvstored__V1__PullRequest *pull);
void kvs_same_reply(const kvs_reply_view *hand, const Kvstored__V1__Reply *reply);

#endif
