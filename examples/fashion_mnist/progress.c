#include "examples/fashion_mnist/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BAR 24u
#define SPARKS 20u
#define REDRAW_SECONDS 0.1

double fashion_clock(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void fashion_progress_start(fashion_progress *progress, const char *name)
{
    *progress = (fashion_progress){.name = name, .terminal = isatty(STDERR_FILENO) == 1};
    progress->started = fashion_clock();
}

/* The mean loss of the latest steps. */
static double recent_loss(const fashion_report *report, uint32_t end, uint32_t steps)
{
    const uint32_t first = end > steps ? end - steps : 0;
    double sum = 0;
    for (uint32_t step = first; step < end; step++) {
        sum += (double)report->loss[step];
    }
    return end == first ? 0 : sum / (double)(end - first);
}

/* The loss so far as a row of small bars, the highest being the top. */
static void draw_sparks(const fashion_report *report, char out[SPARKS * 3 + 1])
{
    static const char *const bars[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    double mean[SPARKS];
    double top = 1e-9;
    const uint32_t sparks = report->steps_done < SPARKS ? report->steps_done : SPARKS;
    for (uint32_t i = 0; i < sparks; i++) {
        const uint32_t first = (uint32_t)((uint64_t)report->steps_done * i / sparks);
        const uint32_t end = (uint32_t)((uint64_t)report->steps_done * (i + 1) / sparks);
        mean[i] = recent_loss(report, end, end - first);
        top = mean[i] > top ? mean[i] : top;
    }
    out[0] = '\0';
    for (uint32_t i = 0; i < sparks; i++) {
        const unsigned height = mean[i] > 0 ? (unsigned)(mean[i] / top * 7.99) : 0;
        (void)strcat(out, bars[height > 7 ? 7 : height]);
    }
}

static void draw_line(const fashion_progress *progress, const fashion_report *report)
{
    char bar[BAR * 3 + 1] = "";
    const unsigned full = (unsigned)((uint64_t)BAR * report->steps_done / report->steps);
    for (unsigned i = 0; i < BAR; i++) {
        (void)strcat(bar, i < full ? "█" : "░");
    }
    char sparks[SPARKS * 3 + 1];
    draw_sparks(report, sparks);
    const double passed = fashion_clock() - progress->started;
    const double left =
        passed * (double)(report->steps - report->steps_done) / (double)report->steps_done;
    (void)fprintf(stderr, "\r\033[K%s %s %3u %%  loss %.3f %s", progress->name, bar,
                  (unsigned)((uint64_t)100 * report->steps_done / report->steps),
                  recent_loss(report, report->steps_done, 50), sparks);
    if (report->epochs_done > 0) {
        (void)fprintf(stderr, "  accuracy %.4f", fashion_report_accuracy(report));
    }
    (void)fprintf(stderr, "  %.0f s left", left);
    (void)fflush(stderr);
}

void fashion_progress_step(fashion_progress *progress, const fashion_report *report)
{
    if (progress->name == NULL || !progress->terminal) {
        return;
    }
    const double now = fashion_clock();
    if (now - progress->drawn >= REDRAW_SECONDS || report->steps_done == report->steps) {
        progress->drawn = now;
        draw_line(progress, report);
    }
}

void fashion_progress_epoch(fashion_progress *progress, const fashion_report *report)
{
    if (progress->name == NULL) {
        return;
    }
    if (progress->terminal) {
        draw_line(progress, report);
        return;
    }
    const uint32_t steps = report->steps / report->epochs;
    (void)fprintf(stderr, "%s: epoch %u of %u, loss %.4f, accuracy %.4f, %.1f s\n", progress->name,
                  report->epochs_done, report->epochs,
                  recent_loss(report, report->steps_done, steps), fashion_report_accuracy(report),
                  fashion_clock() - progress->started);
}

void fashion_progress_end(fashion_progress *progress)
{
    if (progress->name != NULL && progress->terminal) {
        (void)fprintf(stderr, "\n");
    }
}
