/* A time of day that is a machine's own: whoever loads this sees it ahead by what a file says.

   The file holds one number of seconds, mapped, so that a change is seen at once by all. Clocks
   that count from the start are left alone, as they are where somebody sets a real clock. Only
   programs that ask the C library are misled: those written in Go are not. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

__attribute__((constructor)) static void map_the_file(void)
{
	int before = errno;
	int file = open("/run/clock/ahead", O_RDONLY | O_CLOEXEC);
	if (file >= 0) {
		void *mapped = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
		if (mapped != MAP_FAILED)
			ahead = mapped;
		close(file);
	}
	errno = before;
}

int clock_gettime(clockid_t id, struct timespec *now)
{
	int failed = (int)syscall(SYS_clock_gettime, id, now);
	if (!failed && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
		now->tv_sec += *ahead;
	return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec found;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &found);
	now->tv_sec = found.tv_sec;
	now->tv_usec = found.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *into)
{
	struct timespec found;
	clock_gettime(CLOCK_REALTIME, &found);
	if (into)
		*into = found.tv_sec;
	return found.tv_sec;
}
