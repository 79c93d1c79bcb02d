/* Delays fsync and fdatasync by the milliseconds in a control file; for LD_PRELOAD. See slow_disk.py. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

#include "control.h"

/* So often a waiting call looks whether it still has to wait. */
#define LOOK_NANOSECONDS 2000000

enum { DELAY_MILLISECONDS, DELAYED_CALLS, NUMBERS };

static volatile int64_t *control;
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

__attribute__((constructor)) static void set_up(void) {
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    control = map_control("SLOW_DISK_CONTROL", NUMBERS);
}

static int64_t now_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The delay comes before the real call: until then nothing is on disk. */
static void wait_for_disk(void) {
    if (control == NULL || control[DELAY_MILLISECONDS] <= 0) return;
    __atomic_add_fetch((int64_t *)&control[DELAYED_CALLS], 1, __ATOMIC_SEQ_CST);
    /* In nanoseconds: rounded to milliseconds it would be a part of one too short. */
    int64_t since = now_nanoseconds();
    while (now_nanoseconds() - since < control[DELAY_MILLISECONDS] * 1000000) {
        struct timespec pause = {0, LOOK_NANOSECONDS};
        nanosleep(&pause, NULL);
    }
}

int fsync(int descriptor) {
    wait_for_disk();
    return real_fsync(descriptor);
}

int fdatasync(int descriptor) {
    wait_for_disk();
    return real_fdatasync(descriptor);
}
