/* The file of numbers by which a preloaded library is steered; mapped, so that reading one costs nothing. */

#ifndef CONTROL_H
#define CONTROL_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Returns the numbers, or a null pointer if the variable names no such file: then the process runs undisturbed. */
static volatile int64_t *map_control(const char *variable, size_t numbers) {
    const char *path = getenv(variable);
    if (path == NULL) return NULL;
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) return NULL;
    off_t size = lseek(descriptor, 0, SEEK_END);
    void *memory = MAP_FAILED;
    /* Beyond the end of a file that is too short, reading would kill the process. */
    if (size >= (off_t)(numbers * sizeof(int64_t)))
        memory = mmap(NULL, numbers * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    return memory == MAP_FAILED ? NULL : memory;
}

#endif
