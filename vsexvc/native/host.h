/* host.h - hide differences between systems: the Python in this process, Ctrl-C, sleep. Independent of VapourSynth. */
#ifndef EXVC_HOST_H
#define EXVC_HOST_H

#include <stdint.h>

#ifdef _MSC_VER
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif

/* Returns the address of a function of the Python in this process; NULL if there is no Python or no such function. */
void *host_python(const char *name);

/* Counts Ctrl-C from now on, if Python handles it. Called for each request.
 *
 * A script that waits in get_frame waits in C: Python's handler has recorded the signal, but the main thread acts on it
 * only when the frame is done, which may take minutes. Therefore Ctrl-C is counted here, and PyFilter ends the current
 * requests. A host with its own handler (vspipe) keeps it, and nothing is counted.
 */
void host_watch_interrupts(void);

/* Returns the count of Ctrl-C; only differences between two calls have a meaning. */
uint32_t host_interrupts(void);

/* Suspends the calling thread. */
void host_sleep(unsigned milliseconds);

#endif
