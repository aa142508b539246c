/* host.c - see host.h. This library does not link to Python: functions are looked up in the process at run time. */
#define _GNU_SOURCE /* RTLD_DEFAULT, dladdr, RTLD_NODELETE */
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "host.h"

static _Atomic uint32_t interrupts;

uint32_t host_interrupts(void) {
    return atomic_load(&interrupts);
}

#ifdef _WIN32

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

void *host_python(const char *name) {
    /* Modules of the stable ABI, such as VapourSynth's, link to these; they forward to the version's own library. */
    static const wchar_t *const libraries[] = { L"python3.dll", L"python3t.dll" };
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        HMODULE library = GetModuleHandleW(libraries[i]);
        FARPROC symbol = library ? GetProcAddress(library, name) : NULL;
        void *address;
        if (symbol) {
            memcpy(&address, &symbol, sizeof address);
            return address;
        }
    }
    return NULL;
}

static HMODULE library_of(const void *address, DWORD flags) {
    HMODULE library = NULL;
    GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | flags, (LPCWSTR)address, &library);
    return library;
}

/* Returns whether the C runtime's handler of SIGINT, which is called next, is Python's. */
static bool python_answers(void) {
    void *(*get)(int); /* PyOS_getsig: for the C runtime of Python, which may differ from this library's */
    void *symbol = host_python("PyOS_getsig"), *python = host_python("Py_IsInitialized");
    if (!symbol || !python)
        return false;
    memcpy(&get, &symbol, sizeof get);
    void *handler = get(SIGINT);
    HMODULE library = handler ? library_of(handler, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT) : NULL;
    return library && library == library_of(python, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT);
}

static BOOL WINAPI on_console(DWORD event) {
    if (event == CTRL_C_EVENT && python_answers())
        atomic_fetch_add(&interrupts, 1);
    return FALSE; /* not handled: the next handler is called */
}

void host_watch_interrupts(void) {
    static atomic_flag done = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&done))
        return;
    library_of((const void *)&interrupts, GET_MODULE_HANDLE_EX_FLAG_PIN); /* never unloaded: the handler stays */
    SetConsoleCtrlHandler(on_console, TRUE);
}

void host_sleep(unsigned milliseconds) {
    Sleep(milliseconds);
}

#else

#include <dlfcn.h>
#include <time.h>

void *host_python(const char *name) {
    return dlsym(RTLD_DEFAULT, name);
}

static struct sigaction pythons;

static void on_interrupt(int number, siginfo_t *info, void *context) {
    atomic_fetch_add(&interrupts, 1);
    if (pythons.sa_flags & SA_SIGINFO)
        pythons.sa_sigaction(number, info, context);
    else
        pythons.sa_handler(number);
}

/* Returns whether an address is in the same library (or program) as Python. */
static bool in_python(void *address) {
    void *python = host_python("Py_IsInitialized");
    Dl_info here, there;
    return python && dladdr(address, &here) && dladdr(python, &there) && here.dli_fbase == there.dli_fbase;
}

/* Keeps this library loaded after its core is freed, because the handler stays. Returns false if that fails. */
static bool stay(void) {
    Dl_info here;
    return dladdr((void *)&interrupts, &here) && dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

/* Puts on_interrupt before Python's handler; again for each request, because signal.signal() restores Python's. */
void host_watch_interrupts(void) {
    static atomic_flag busy = ATOMIC_FLAG_INIT;
    struct sigaction present;
    void *handler;
    if (sigaction(SIGINT, NULL, &present))
        return;
    memcpy(&handler, &present.sa_sigaction, sizeof handler); /* the same place as sa_handler */
    if (present.sa_sigaction == on_interrupt || present.sa_handler == SIG_DFL || present.sa_handler == SIG_IGN ||
        atomic_flag_test_and_set(&busy))
        return;
    if (in_python(handler) && stay()) {
        pythons = present;
        present.sa_sigaction = on_interrupt;
        present.sa_flags |= SA_SIGINFO;
        sigaction(SIGINT, &present, NULL);
    }
    atomic_flag_clear(&busy);
}

void host_sleep(unsigned milliseconds) {
    nanosleep(&(struct timespec){ milliseconds / 1000, (long)(milliseconds % 1000) * 1000000 }, NULL);
}

#endif
