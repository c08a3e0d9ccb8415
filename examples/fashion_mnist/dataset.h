/* Fashion-MNIST as Debian's dataset-fashion-mnist installs it: gzipped IDX files of 28 x 28 pixels.
 *
 * Threads: any; a loaded set is only read.
 * Memory: load allocates, deinit frees.
 * Errors: false, with a sentence on stderr that names the file and the next step.
 */
#ifndef FASHION_DATASET_H
#define FASHION_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#define FASHION_FOLDER "/usr/share/datasets/fashion-mnist"
#define FASHION_PIXELS 784u
#define FASHION_CLASSES 10u

typedef struct fashion_set {
    uint32_t count;
    uint8_t *pixels; /* count x FASHION_PIXELS, 0 to 255 */
    uint8_t *labels; /* count, 0 to FASHION_CLASSES - 1 */
} fashion_set;

/* `name` is "train" (60,000 pictures) or "t10k" (10,000). */
bool fashion_set_load(const char *folder, const char *name, fashion_set *out);
void fashion_set_deinit(fashion_set *set);

#endif
