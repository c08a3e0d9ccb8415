#include "examples/fashion_mnist/report.h"

#include "examples/fashion_mnist/network.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

fashion_report *fashion_report_open(uint32_t steps, uint32_t epochs)
{
    const size_t floats = (size_t)steps + epochs + fashion_network_elements();
    const size_t bytes = sizeof(fashion_report) + floats * sizeof(float);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        (void)fprintf(stderr, "fashion_mnist: no memory for %zu bytes. Ask for fewer epochs.\n",
                      bytes);
        return NULL;
    }
    fashion_report *report = memory;
    report->bytes = bytes;
    report->steps = steps;
    report->epochs = epochs;
    report->loss = (float *)(report + 1);
    report->accuracy = report->loss + steps;
    report->weights = report->accuracy + epochs;
    return report;
}

void fashion_report_close(fashion_report *report)
{
    if (report != NULL) {
        (void)munmap(report, report->bytes);
    }
}

double fashion_report_accuracy(const fashion_report *report)
{
    return report->epochs_done == 0 ? 0 : (double)report->accuracy[report->epochs_done - 1];
}

uint64_t fashion_report_hash(const fashion_report *report)
{
    const uint8_t *bytes = (const uint8_t *)report->weights;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < fashion_network_elements() * sizeof(float); i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}

static void write_rows(FILE *file, const fashion_series *series)
{
    const fashion_report *report = series->report;
    const uint32_t steps_per_epoch = report->epochs == 0 ? 1 : report->steps / report->epochs;
    for (uint32_t step = 0; step < report->steps_done; step++) {
        const uint32_t epoch = step / steps_per_epoch;
        (void)fprintf(file, "%s,%u,%u,%.6f,", series->name, step + 1, epoch + 1,
                      (double)report->loss[step]);
        if ((step + 1) % steps_per_epoch == 0 && epoch < report->epochs_done) {
            (void)fprintf(file, "%.4f", (double)report->accuracy[epoch]);
        }
        (void)fprintf(file, "\n");
    }
}

bool fashion_report_csv(const char *path, const fashion_series *series, size_t count)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        (void)fprintf(stderr, "fashion_mnist: cannot write %s: %s. Choose another --output.\n",
                      path, strerror(errno));
        return false;
    }
    (void)fprintf(file, "run,step,epoch,loss,accuracy\n");
    for (size_t i = 0; i < count; i++) {
        write_rows(file, &series[i]);
    }
    const bool good = ferror(file) == 0;
    if (fclose(file) != 0 || !good) {
        (void)fprintf(stderr, "fashion_mnist: writing %s failed. Is the disk full?\n", path);
        return false;
    }
    return true;
}
