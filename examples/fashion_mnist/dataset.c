#include "examples/fashion_mnist/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* The third byte says unsigned bytes, the fourth how many dimensions (the IDX format's header). */
#define IDX_IMAGES 0x00000803u
#define IDX_LABELS 0x00000801u
#define PICTURES_MAX 1000000u

static uint32_t big_endian(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 |
           (uint32_t)bytes[3];
}

static bool read_exactly(gzFile file, uint8_t *out, size_t bytes)
{
    while (bytes > 0) {
        const unsigned piece = bytes > (1u << 24) ? 1u << 24 : (unsigned)bytes;
        const int got = gzread(file, out, piece);
        if (got <= 0) {
            return false;
        }
        out += got;
        bytes -= (size_t)got;
    }
    return true;
}

/* Reads the header and count x item_bytes bytes. */
static bool read_items(gzFile file, uint32_t magic, uint32_t item_bytes, uint32_t *count,
                       uint8_t **out)
{
    uint8_t head[16];
    const size_t head_bytes = magic == IDX_IMAGES ? 16 : 8;
    if (!read_exactly(file, head, head_bytes) || big_endian(head) != magic) {
        return false;
    }
    *count = big_endian(head + 4);
    if (*count == 0 || *count > PICTURES_MAX) {
        return false;
    }
    if (magic == IDX_IMAGES &&
        (uint64_t)big_endian(head + 8) * big_endian(head + 12) != (uint64_t)item_bytes) {
        return false;
    }
    *out = malloc((size_t)*count * item_bytes);
    return *out != NULL && read_exactly(file, *out, (size_t)*count * item_bytes);
}

static bool load_file(const char *folder, const char *name, const char *kind, uint32_t magic,
                      uint32_t item_bytes, uint32_t *count, uint8_t **out)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s-%s-ubyte.gz", folder, name, kind);
    gzFile file = gzopen(path, "rb");
    if (file == NULL) {
        (void)fprintf(stderr,
                      "fashion_mnist: cannot open %s. Install the package dataset-fashion-mnist, "
                      "or name its folder by --data.\n",
                      path);
        return false;
    }
    const bool good = read_items(file, magic, item_bytes, count, out);
    (void)gzclose(file);
    if (!good) {
        (void)fprintf(stderr,
                      "fashion_mnist: %s is no IDX file of the expected size. Install the package "
                      "dataset-fashion-mnist again.\n",
                      path);
    }
    return good;
}

bool fashion_set_load(const char *folder, const char *name, fashion_set *out)
{
    fashion_set set = {0};
    uint32_t labels = 0;
    if (!load_file(folder, name, "images-idx3", IDX_IMAGES, FASHION_PIXELS, &set.count,
                   &set.pixels) ||
        !load_file(folder, name, "labels-idx1", IDX_LABELS, 1, &labels, &set.labels)) {
        fashion_set_deinit(&set);
        return false;
    }
    bool good = labels == set.count;
    for (uint32_t i = 0; good && i < labels; i++) {
        good = set.labels[i] < FASHION_CLASSES;
    }
    if (!good) {
        (void)fprintf(stderr, "fashion_mnist: the labels of %s do not fit its pictures.\n", name);
        fashion_set_deinit(&set);
        return false;
    }
    *out = set;
    return true;
}

void fashion_set_deinit(fashion_set *set)
{
    free(set->pixels);
    free(set->labels);
    *set = (fashion_set){0};
}
