/* Runs a fuzz target on every file of a folder, and on every beginning of each: what a build
 * without libFuzzer does with the corpus. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_BYTES_MAX 65536

static int replay(const char *path)
{
    static uint8_t bytes[INPUT_BYTES_MAX];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return 1;
    }
    size_t count = fread(bytes, 1, sizeof(bytes), file);
    (void)fclose(file);
    for (size_t part = 0; part <= count; part++) {
        uint8_t *exact = malloc(part + 1); /* a read behind its end is seen by a sanitizer */
        if (exact == NULL) {
            return 1;
        }
        memcpy(exact, bytes, part);
        (void)LLVMFuzzerTestOneInput(exact, part);
        free(exact);
    }
    return 0;
}

int main(int argc, char **argv)
{
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    if (folder == NULL) {
        (void)fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    int failed = 0;
    int files = 0;
    struct dirent *entry;
    while ((entry = readdir(folder)) != NULL) {
        char path[4096];
        if (entry->d_name[0] != '.') {
            (void)snprintf(path, sizeof(path), "%s/%s", argv[1], entry->d_name);
            failed += replay(path);
            files++;
        }
    }
    (void)closedir(folder);
    (void)printf("%d inputs of %s\n", files, argv[1]);
    return failed != 0 || files == 0;
}
