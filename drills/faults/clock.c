/* Moves a process' wall clock by the nanoseconds in a control file, and leaves the monotonic clock alone; for LD_PRELOAD.
 *
 * The kernel knows nothing of it. So what waits until an instant of the wall clock is told the true instant instead; such
 * waits are told from those on the monotonic clock by their size, which is the machine's age there.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>

#include "control.h"

#define BILLION 1000000000LL
/* The second from which on an instant is one of the wall clock: of the year 2001, or a machine that is 31 years up. */
#define FIRST_WALL_SECOND 1000000000LL
#define LAST_WALL_SECOND 6000000000LL

static volatile int64_t *control;

/* Looked up at the first call: other libraries' constructors ask for the time before ours has run. */
#define REAL(name)                                                 \
    static __typeof__(name) *real;                                 \
    if (real == NULL) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void set_up(void) {
    control = map_control("CLOCK_CONTROL", 1);
}

static int64_t offset(void) {
    return control == NULL ? 0 : control[0];
}

static struct timespec moved(struct timespec instant, int64_t nanoseconds) {
    int64_t sum = (int64_t)instant.tv_sec * BILLION + instant.tv_nsec + nanoseconds;
    return (struct timespec){sum / BILLION, sum % BILLION};
}

/* Tells whether an instant is neither the monotonic clock's nor "never". */
static int is_wall_instant(const struct timespec *instant) {
    return instant != NULL && instant->tv_sec >= FIRST_WALL_SECOND && instant->tv_sec < LAST_WALL_SECOND;
}

static int is_wall_clock(clockid_t clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

/* Returns the instant to wait until on the true clock. */
static const struct timespec *true_instant(const struct timespec *instant, struct timespec *memory) {
    if (!is_wall_instant(instant) || offset() == 0) return instant;
    *memory = moved(*instant, -offset());
    return memory;
}

/* Asking for the time */

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int outcome = real(clock, now);
    if (outcome == 0 && is_wall_clock(clock)) *now = moved(*now, offset());
    return outcome;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone; /* obsolete, and ignored by Linux' libraries too */
    struct timespec precise;
    int outcome = clock_gettime(CLOCK_REALTIME, &precise);
    *now = (struct timeval){precise.tv_sec, precise.tv_nsec / 1000};
    return outcome;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds != NULL) *seconds = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *now, int base) {
    REAL(timespec_get);
    int outcome = real(now, base);
    if (outcome == TIME_UTC) *now = moved(*now, offset());
    return outcome;
}

/* Waiting until an instant */

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    REAL(pthread_cond_timedwait);
    struct timespec memory;
    return real(condition, mutex, true_instant(until, &memory));
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    REAL(pthread_mutex_timedlock);
    struct timespec memory;
    return real(mutex, true_instant(until, &memory));
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    REAL(sem_timedwait);
    struct timespec memory;
    return real(semaphore, true_instant(until, &memory));
}

/* glibc has these three since 2.30, and their declarations depend on it. */
#if __GLIBC_PREREQ(2, 30)
int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until) {
    REAL(pthread_cond_clockwait);
    struct timespec memory;
    return real(condition, mutex, clock, true_instant(until, &memory));
}

int pthread_mutex_clocklock(pthread_mutex_t *mutex, clockid_t clock, const struct timespec *until) {
    REAL(pthread_mutex_clocklock);
    struct timespec memory;
    return real(mutex, clock, true_instant(until, &memory));
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until) {
    REAL(sem_clockwait);
    struct timespec memory;
    return real(semaphore, clock, true_instant(until, &memory));
}
#endif

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    REAL(clock_nanosleep);
    struct timespec memory;
    return real(clock, flags, flags & TIMER_ABSTIME ? true_instant(until, &memory) : until, left);
}

int timerfd_settime(int descriptor, int flags, const struct itimerspec *timer, struct itimerspec *before) {
    REAL(timerfd_settime);
    if (timer == NULL || !(flags & TFD_TIMER_ABSTIME)) return real(descriptor, flags, timer, before);
    struct timespec memory;
    struct itimerspec in_truth = {timer->it_interval, *true_instant(&timer->it_value, &memory)};
    return real(descriptor, flags, &in_truth, before);
}

/* Abseil, on which gRPC stands, waits with the system call itself. */
long syscall(long number, ...) {
    REAL(syscall);
    va_list list;
    long given[6];
    struct timespec memory;
    va_start(list, number);
    for (int index = 0; index < 6; index++) given[index] = va_arg(list, long);
    va_end(list);
    if (number == SYS_futex && (given[1] & FUTEX_CLOCK_REALTIME))
        given[3] = (long)true_instant((const struct timespec *)given[3], &memory);
    if (number == SYS_clock_gettime) return clock_gettime((clockid_t)given[0], (struct timespec *)given[1]);
    return real(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}
