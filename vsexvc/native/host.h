/* host.h - what differs between systems: the Python in this process, its Ctrl-C, and how a thread sleeps.
 *
 * What may not enter: VapourSynth, and what is done with any of this.
 */
#ifndef EXVC_HOST_H
#define EXVC_HOST_H

#include <stdint.h>

#ifdef _MSC_VER
#define THREAD_LOCAL __declspec(thread)
#else
#define THREAD_LOCAL _Thread_local
#endif

/* The address of a function of the Python that runs in this process. NULL: there is none, or it has no such function. */
void *host_python(const char *name);

/* Sees to it that Ctrl-C is counted while Python is who answers it. Called for each request.
 *
 * A script that waits in get_frame waits in C: Python's handler has noted the signal, but the main thread does not come
 * to act on it before the frame is done, which may take minutes. Therefore Ctrl-C is counted here, and PyFilter ends
 * the requests that were under way. A host with a handler of its own (vspipe) keeps it: nothing is counted then.
 */
void host_watch_interrupts(void);

/* How often Ctrl-C has come, from any number on. */
uint32_t host_interrupts(void);

void host_sleep(unsigned milliseconds);

#endif
