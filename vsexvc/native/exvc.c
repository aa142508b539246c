/* exvc.c - register the functions of `core.exvc`.
 *
 * Only a native plugin can add a namespace to VapourSynth. This one passes all work to Python:
 *
 *   Colorize  gets its entry point from vsexvc.plugin and calls it with the caller's arguments.
 *   Bind      receives this entry point as a VSFunction; only vsexvc.plugin calls it.
 *   PyFilter  is a filter whose frames a Python callable computes, step by step, until Ctrl-C (pyfilter.c).
 *
 * This file does not interpret arguments, and does not use Python's headers or link to libpython: the few functions of
 * the stable ABI are looked up at run time. So a host without Python gets an error message; an undefined symbol would
 * end its process. No VSFunction is kept in a global, because plugins have no unload hook that could free it.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <VapourSynth4.h>

#include "host.h"
#include "pyfilter.h"

enum { MESSAGE_SIZE = 1024 };

/* ---------------------------------------------------------------------------------------------------------------
 * The functions of Python that Colorize calls
 */

typedef void PyObject;

typedef struct Python {
    int (*Py_IsInitialized)(void);
    int (*PyGILState_Ensure)(void);
    void (*PyGILState_Release)(int);
    PyObject *(*PyImport_ImportModule)(const char *);
    PyObject *(*PyObject_CallMethod)(PyObject *, const char *, const char *, ...);
    PyObject *(*PyErr_GetRaisedException)(void);
    void (*PyErr_Clear)(void);
    PyObject *(*PyObject_Repr)(PyObject *);
    const char *(*PyUnicode_AsUTF8AndSize)(PyObject *, ptrdiff_t *);
    void (*Py_DecRef)(PyObject *);
} Python;

/* Looks up every function in this process. Returns false if one is missing: there is no Python, or it is too old. */
static bool python_find(Python *py) {
    const struct {
        const char *name;
        void *slot;
    } wanted[] = {
#define WANT(name) { #name, &py->name }
        WANT(Py_IsInitialized),         WANT(PyGILState_Ensure),   WANT(PyGILState_Release),
        WANT(PyImport_ImportModule),    WANT(PyObject_CallMethod), WANT(PyErr_GetRaisedException),
        WANT(PyErr_Clear),              WANT(PyObject_Repr),       WANT(PyUnicode_AsUTF8AndSize),
        WANT(Py_DecRef),
#undef WANT
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *symbol = host_python(wanted[i].name);
        if (!symbol)
            return false;
        memcpy(wanted[i].slot, &symbol, sizeof symbol); /* ISO C has no cast from object to function pointer */
    }
    return true;
}

/* Clears the current exception and writes `what` and the exception to message. The caller holds the GIL. */
static void python_error(const Python *py, const char *what, char message[MESSAGE_SIZE]) {
    PyObject *exception = py->PyErr_GetRaisedException();
    PyObject *repr = exception ? py->PyObject_Repr(exception) : NULL;
    const char *text = repr ? py->PyUnicode_AsUTF8AndSize(repr, NULL) : NULL;
    snprintf(message, MESSAGE_SIZE, "Colorize: %s: %s", what, text ? text : "unknown error");
    py->PyErr_Clear();
    if (repr)
        py->Py_DecRef(repr);
    if (exception)
        py->Py_DecRef(exception);
}

/* ---------------------------------------------------------------------------------------------------------------
 * Colorize and Bind
 */

/* Holds the entry point that Bind received, for the call of Colorize that is lower in the same stack. */
typedef struct Binding {
    VSFunction *entry; /* owned by Colorize */
    VSCore *core;
} Binding;

static THREAD_LOCAL Binding *waiting;

static void VS_CC bind_create(const VSMap *in, VSMap *out, void *user, VSCore *core, const VSAPI *vsapi) {
    (void)user;
    if (!waiting) {
        vsapi->mapSetError(out, "Bind: internal to vsexvc, call Colorize");
        return;
    }
    vsapi->freeFunction(waiting->entry);
    waiting->entry = vsapi->mapGetFunction(in, "func", 0, NULL);
    waiting->core = core;
}

/* Calls vsexvc.plugin.bind(), which calls Bind. Returns false and writes a message if that fails. */
static bool ask_python(Binding *binding, char message[MESSAGE_SIZE]) {
    Python py;
    if (!python_find(&py) || !py.Py_IsInitialized()) {
        snprintf(message, MESSAGE_SIZE,
                 "Colorize: needs Python 3.12 or later running in the host process (vspipe, a VSScript editor, "
                 "python), this host has none");
        return false;
    }
    Binding *outer = waiting;
    waiting = binding;
    message[0] = '\0';
    int gil = py.PyGILState_Ensure();
    PyObject *module = py.PyImport_ImportModule("vsexvc.plugin");
    if (!module) {
        python_error(&py, "the Python package vsexvc could not be imported", message);
    } else {
        PyObject *none = py.PyObject_CallMethod(module, "bind", NULL);
        if (none)
            py.Py_DecRef(none);
        else
            python_error(&py, "vsexvc.plugin.bind() failed", message);
        py.Py_DecRef(module);
    }
    py.PyGILState_Release(gil);
    waiting = outer;
    return !message[0];
}

static void VS_CC colorize_create(const VSMap *in, VSMap *out, void *user, VSCore *core, const VSAPI *vsapi) {
    (void)user;
    Binding binding = { NULL, NULL };
    char message[MESSAGE_SIZE];
    if (!ask_python(&binding, message)) {
        vsapi->mapSetError(out, message);
    } else if (!binding.entry) {
        vsapi->mapSetError(out, "Colorize: vsexvc.plugin.bind() bound no entry point");
    } else if (binding.core != core) {
        vsapi->mapSetError(out, "Colorize: called on a core other than vapoursynth.core of the calling script");
    } else {
        VSMap *arguments = vsapi->createMap();
        VSMap *answer = vsapi->createMap();
        vsapi->copyMap(in, arguments);
        vsapi->callFunction(binding.entry, arguments, answer);
        vsapi->freeMap(arguments);
        const char *raised = vsapi->mapGetError(answer); /* "[VS_PY_EXC_ID:...": names the exception */
        if (raised) {
            vsapi->mapSetError(out, raised);
        } else if (vsapi->mapGetType(answer, "error") == ptData) {
            vsapi->mapSetError(out, vsapi->mapGetData(answer, "error", 0, NULL));
        } else if (vsapi->mapGetType(answer, "clip") == ptVideoNode) {
            vsapi->mapConsumeNode(out, "clip", vsapi->mapGetNode(answer, "clip", 0, NULL), maReplace);
        } else {
            vsapi->mapSetError(out, "Colorize: vsexvc.plugin answered with neither a clip nor an error");
        }
        vsapi->freeMap(answer);
    }
    vsapi->freeFunction(binding.entry);
}

VS_EXTERNAL_API(void) VapourSynthPluginInit2(VSPlugin *plugin, const VSPLUGINAPI *vspapi) {
    vspapi->configPlugin("com.vsexvc.exvc", "exvc", "Exemplar-based video colorization", VS_MAKE_VERSION(0, 1),
                         VAPOURSYNTH_API_VERSION, 0, plugin);
    vspapi->registerFunction("Colorize",
                             "clip:vnode;ref:vnode;ref_frames:int[]:opt;model:data:opt;size:int:opt;saturation:float:opt;"
                             "mask:vnode:opt;output:data:opt;format:int:opt;propagate:int:opt;sc:int:opt;"
                             "sc_threshold:float:opt;preset:data:opt;auto_download:int:opt;device:data:opt;"
                             "device_index:int:opt;backend:data:opt;precision:data:opt;trt:int:opt;threads:int:opt;"
                             "around:int:opt;memory:int:opt;",
                             "clip:vnode;", colorize_create, NULL, plugin);
    vspapi->registerFunction("Bind", "func:func;", "", bind_create, NULL, plugin);
    vspapi->registerFunction("PyFilter",
                             "clips:vnode[];step:func;format:int:opt;width:int:opt;height:int:opt;interrupt:func:opt;",
                             "clip:vnode;", pyfilter_create, NULL, plugin);
}
