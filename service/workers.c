#include "service/workers.h"

#include <pthread.h>
#include <stdlib.h>

struct kvs_workers {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    kvs_job *first, *last;
    uint32_t jobs, jobs_max;
    uint32_t idle;
    uint32_t thread_count, threads_max;
    bool closing;
    pthread_t threads[];
};

static void *work(void *argument)
{
    kvs_workers *workers = argument;
    pthread_mutex_lock(&workers->lock);
    for (;;) {
        while (workers->first == NULL && !workers->closing) {
            workers->idle++;
            pthread_cond_wait(&workers->wake, &workers->lock);
            workers->idle--;
        }
        kvs_job *job = workers->first;
        if (job == NULL) {
            pthread_mutex_unlock(&workers->lock);
            return NULL;
        }
        workers->first = job->next;
        workers->jobs--;
        pthread_mutex_unlock(&workers->lock);
        job->run(job);
        pthread_mutex_lock(&workers->lock);
    }
}

kvs_status kvs_workers_open(uint32_t threads_max, uint32_t jobs_max, kvs_workers **out)
{
    kvs_workers *workers = calloc(1, sizeof(*workers) + threads_max * sizeof(pthread_t));
    if (workers == NULL) {
        return KVS_NO_MEMORY;
    }
    pthread_mutex_init(&workers->lock, NULL);
    pthread_cond_init(&workers->wake, NULL);
    workers->threads_max = threads_max;
    workers->jobs_max = jobs_max;
    *out = workers;
    return KVS_OK;
}

bool kvs_workers_post(kvs_workers *workers, kvs_job *job)
{
    pthread_mutex_lock(&workers->lock);
    bool room = !workers->closing && workers->jobs < workers->jobs_max;
    if (room && workers->jobs >= workers->idle && workers->thread_count < workers->threads_max) {
        pthread_t *thread = &workers->threads[workers->thread_count];
        if (pthread_create(thread, NULL, work, workers) == 0) {
            (void)pthread_setname_np(*thread, "kvs-admin");
            workers->thread_count++;
        }
        room = workers->thread_count > 0;
    }
    if (room) {
        job->next = NULL;
        if (workers->first == NULL) {
            workers->first = job;
        } else {
            workers->last->next = job;
        }
        workers->last = job;
        workers->jobs++;
        pthread_cond_signal(&workers->wake);
    }
    pthread_mutex_unlock(&workers->lock);
    return room;
}

void kvs_workers_close(kvs_workers *workers)
{
    if (workers == NULL) {
        return;
    }
    pthread_mutex_lock(&workers->lock);
    workers->closing = true;
    pthread_cond_broadcast(&workers->wake);
    pthread_mutex_unlock(&workers->lock);
    for (uint32_t i = 0; i < workers->thread_count; i++) {
        (void)pthread_join(workers->threads[i], NULL);
    }
    pthread_cond_destroy(&workers->wake);
    pthread_mutex_destroy(&workers->lock);
    free(workers);
}
