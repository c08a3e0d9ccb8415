/* The self-probe against doors that are well, deaf, silent or full. */
#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "service/listener.h"
#include "service/selfprobe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 8

/* A door of this test: what it does with a connection, and how often it was found dead. */
typedef struct kvs_door_stub {
    kvs_listener *listener;
    kvs_selfprobe *probe;
    const char *answer; /* NULL: none */
    size_t answer_bytes;
    bool closes;
    int held[64];
    _Atomic int held_count;
    _Atomic int dead;
    _Atomic uint64_t served; /* of a busy door: more each time that somebody asks */
} kvs_door_stub;

static void adopt(void *context, int fd)
{
    kvs_door_stub *door = context;
    if (door->answer != NULL) {
        (void)send(fd, door->answer, door->answer_bytes, MSG_NOSIGNAL);
    }
    if (door->closes) {
        (void)close(fd);
        return;
    }
    assert_true(door->held_count < 64);
    door->held[door->held_count++] = fd;
}

static void found_dead(void *context)
{
    kvs_door_stub *door = context;
    door->dead++;
}

static uint64_t served(void *context)
{
    kvs_door_stub *door = context;
    return ++door->served;
}

static void open_door_that(kvs_door_stub *door, uint64_t (*serves)(void *context))
{
    kvs_problem problem;
    kvs_listener_options listener = {.address = "127.0.0.1:0",
                                     .connections_max = CONNECTIONS_MAX,
                                     .adopt = adopt,
                                     .context = door};
    assert_int_equal(kvs_listener_open(&listener, &door->listener, &problem), KVS_OK);
    kvs_selfprobe_options probe = {.address = kvs_listener_address(door->listener),
                                   .listener = door->listener,
                                   .interval_ns = 20 * KVS_MS,
                                   .patience_ns = 100 * KVS_MS,
                                   .served = serves,
                                   .dead = found_dead,
                                   .context = door};
    assert_int_equal(kvs_selfprobe_open(&probe, &door->probe), KVS_OK);
}

static void open_door(kvs_door_stub *door)
{
    open_door_that(door, NULL);
}

static void close_door(kvs_door_stub *door)
{
    kvs_selfprobe_close(door->probe);
    kvs_listener_close(door->listener);
    for (int i = 0; i < door->held_count; i++) {
        (void)close(door->held[i]);
    }
}

static bool wait_until(bool (*condition)(const kvs_door_stub *door), const kvs_door_stub *door)
{
    uint64_t end_ns = kvs_clock_now_ns() + 10 * KVS_SECOND;
    while (!condition(door)) {
        if (kvs_clock_now_ns() > end_ns) {
            return false;
        }
        (void)usleep(2000);
    }
    return true;
}

static bool is_dead(const kvs_door_stub *door)
{
    return door->dead > 0;
}

static bool is_healthy(const kvs_door_stub *door)
{
    return kvs_selfprobe_healthy(door->probe);
}

static bool has_failed_often(const kvs_door_stub *door)
{
    return kvs_selfprobe_failures(door->probe) >= 6;
}

static bool has_refused_often(const kvs_door_stub *door)
{
    kvs_listener_statistics statistics;
    kvs_listener_count(door->listener, &statistics);
    return statistics.refused >= 6;
}

static void a_door_that_never_answers_is_found_dead_once(void **state)
{
    (void)state;
    kvs_door_stub door = {.closes = false};
    open_door(&door);
    assert_true(wait_until(is_dead, &door));
    assert_true(kvs_selfprobe_failures(door.probe) >= 3);
    assert_false(kvs_selfprobe_healthy(door.probe));
    close_door(&door);
    assert_int_equal(door.dead, 1);
}

static void a_door_that_hangs_up_is_found_dead_once(void **state)
{
    (void)state;
    kvs_door_stub door = {.closes = true};
    open_door(&door);
    assert_true(wait_until(has_failed_often, &door));
    close_door(&door);
    assert_int_equal(door.dead, 1);
}

/* It takes connections and serves others: of a silent one six failures would be the end. */
static void a_door_that_is_slow_has_more_time(void **state)
{
    (void)state;
    kvs_door_stub door = {.closes = true};
    open_door_that(&door, served);
    assert_true(wait_until(has_failed_often, &door));
    assert_int_equal(door.dead, 0);
    assert_false(kvs_selfprobe_healthy(door.probe));
    assert_true(wait_until(is_dead, &door));
    assert_true(kvs_selfprobe_failures(door.probe) >= 18);
    close_door(&door);
    assert_int_equal(door.dead, 1);
}

static void settings_alone_are_no_answer(void **state)
{
    (void)state;
    static const char settings[] = "\0\0\0\x04\0\0\0\0\0";
    kvs_door_stub door = {.answer = settings, .answer_bytes = sizeof(settings) - 1, .closes = true};
    open_door(&door);
    assert_true(wait_until(is_dead, &door));
    close_door(&door);
}

static void an_answer_behind_other_frames_is_an_answer(void **state)
{
    (void)state;
    static const char frames[] = "\0\0\0\x04\0\0\0\0\0"
                                 "\0\0\x03\x01\x04\0\0\0\x01"
                                 "abc"
                                 "\0\0\x07\0\0\0\0\0\x01"
                                 "\0\0\0\0\x02\x08\x01";
    kvs_door_stub door = {.answer = frames, .answer_bytes = sizeof(frames) - 1, .closes = true};
    open_door(&door);
    assert_true(wait_until(is_healthy, &door));
    (void)usleep(200000);
    assert_true(kvs_selfprobe_healthy(door.probe));
    close_door(&door);
    assert_int_equal(door.dead, 0);
}

static void a_door_that_is_full_is_not_dead(void **state)
{
    (void)state;
    kvs_door_stub door = {.closes = false};
    kvs_problem problem;
    kvs_listener_options listener = {
        .address = "127.0.0.1:0", .connections_max = 1, .adopt = adopt, .context = &door};
    assert_int_equal(kvs_listener_open(&listener, &door.listener, &problem), KVS_OK);
    /* One peer holds the only place. */
    int peer = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(peer >= 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(kvs_listener_port(door.listener)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(peer, (struct sockaddr *)&address, sizeof(address)), 0);
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_int_equal(send(peer, preface, sizeof(preface) - 1, MSG_NOSIGNAL), sizeof(preface) - 1);
    while (door.held_count == 0) {
        (void)usleep(1000);
    }
    kvs_selfprobe_options probe = {.address = kvs_listener_address(door.listener),
                                   .listener = door.listener,
                                   .interval_ns = 20 * KVS_MS,
                                   .patience_ns = 100 * KVS_MS,
                                   .dead = found_dead,
                                   .context = &door};
    assert_int_equal(kvs_selfprobe_open(&probe, &door.probe), KVS_OK);
    assert_true(wait_until(has_refused_often, &door));
    close_door(&door);
    assert_int_equal(door.dead, 0);
    (void)close(peer);
}

int main(void)
{
    kvs_log_set_quiet(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_door_that_never_answers_is_found_dead_once),
        cmocka_unit_test(a_door_that_hangs_up_is_found_dead_once),
        cmocka_unit_test(a_door_that_is_slow_has_more_time),
        cmocka_unit_test(settings_alone_are_no_answer),
        cmocka_unit_test(an_answer_behind_other_frames_is_an_answer),
        cmocka_unit_test(a_door_that_is_full_is_not_dead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
