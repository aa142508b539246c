/* pyfilter.c - exvc.PyFilter: a filter whose frames a Python callable computes, step by step.
 *
 * A request for output frame n has these steps:
 *   1. Frame n of clips[0] is requested.
 *   2. step(n=, nums=, clips=, frames=) is called with the requested frames: frames[i] is frame nums[i] of
 *      clips[clips[i]]. Calls never overlap (fmParallelRequests); n comes in any order.
 *   3. The answer is {"frame": f}: the request is done; {"error": text}: it fails; or {"need": [...],
 *      "need_clip": [...]}: these frames are requested in place of the former ones, and 2. follows with the same n.
 *
 * If Ctrl-C has come since 1., interrupt() is called in place of step, and its exception is the request's error. The
 * core delays 1. of later requests while an earlier request waits for its turn, so a request made before Ctrl-C may
 * reach 1. after it. Therefore all requests share the count of the first one until none is left. The last one
 * lingers: it requests its frames again, which wakes a thread, and waits up to 50 ms for that thread to bring the next
 * request to 1. (With one thread there is none to wake.)
 */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <VapourSynth4.h>

#include "host.h"
#include "pyfilter.h"

enum { MESSAGE_SIZE = 1024 };

typedef struct Filter {
    VSFunction *step;
    VSFunction *interrupt; /* NULL: none was given */
    _Atomic uint64_t busy; /* upper half: current requests; lower: host_interrupts() when the first of them came */
    VSVideoInfo vi;
    int num_clips;
    VSNode **clips;
} Filter;

/* Holds the frames that a request waits for. The request's frameData owns it. */
typedef struct Needs {
    uint32_t interrupts; /* host_interrupts() when the request came */
    bool lingers;
    int size;
    struct Need {
        int num;
        int clip;
    } need[];
} Needs;

static Needs *needs_new(int size, uint32_t interrupts) {
    Needs *needs = malloc(sizeof *needs + (size_t)size * sizeof *needs->need);
    if (needs) {
        needs->interrupts = interrupts;
        needs->lingers = false;
        needs->size = size;
    }
    return needs;
}

static void needs_request(const Needs *needs, const Filter *filter, VSFrameContext *context, const VSAPI *vsapi) {
    for (int i = 0; i < needs->size; i++)
        vsapi->requestFrameFilter(needs->need[i].num, filter->clips[needs->need[i].clip], context);
}

/* Adds a request to `busy` and returns its `interrupts`. */
static uint32_t enter(Filter *filter) {
    uint64_t old = atomic_load(&filter->busy), new;
    do
        new = (old >> 32 ? old : host_interrupts()) + ((uint64_t)1 << 32);
    while (!atomic_compare_exchange_weak(&filter->busy, &old, new));
    return (uint32_t)new;
}

static void leave(Filter *filter) {
    atomic_fetch_sub(&filter->busy, (uint64_t)1 << 32);
}

static bool is_last(Filter *filter) {
    return atomic_load(&filter->busy) >> 32 == 1;
}

/* Sets the error of a request, formatted as by printf. Returns NULL, which the caller can return. */
static void *fail(VSFrameContext *context, const VSAPI *vsapi, const char *text, ...) {
    char message[MESSAGE_SIZE];
    va_list args;
    va_start(args, text);
    vsnprintf(message, sizeof message, text, args);
    va_end(args);
    vsapi->setFilterError(message, context);
    return NULL;
}

/* Reads and checks the frames that step requests: the core would replace a wrong number by another one.
 * Returns NULL and sets an error if one is wrong. */
static Needs *needs_read(const VSMap *answer, const Filter *filter, int n, uint32_t before,
                         VSFrameContext *context, const VSAPI *vsapi) {
    int size = vsapi->mapNumElements(answer, "need");
    int size_clip = vsapi->mapNumElements(answer, "need_clip");
    if (size < 1)
        return fail(context, vsapi, "PyFilter: step answered frame %d with no frame, need or error", n);
    if (size_clip != size)
        return fail(context, vsapi, "PyFilter: step answered frame %d with %d in need and %d in need_clip, must be as "
                    "many", n, size, size_clip < 0 ? 0 : size_clip);
    int bad_num = 0, bad_clip = 0;
    const int64_t *nums = vsapi->mapGetIntArray(answer, "need", &bad_num);
    const int64_t *clips = vsapi->mapGetIntArray(answer, "need_clip", &bad_clip);
    if (bad_num || bad_clip)
        return fail(context, vsapi, "PyFilter: need and need_clip of frame %d must hold integers", n);
    Needs *needs = needs_new(size, before);
    if (!needs)
        return fail(context, vsapi, "PyFilter: out of memory");
    for (int i = 0; i < size; i++) {
        if (clips[i] < 0 || clips[i] >= filter->num_clips) {
            free(needs);
            return fail(context, vsapi, "PyFilter: step asked for clip %lld at frame %d, must be 0..%d",
                        (long long)clips[i], n, filter->num_clips - 1);
        }
        int last = vsapi->getVideoInfo(filter->clips[clips[i]])->numFrames - 1;
        if (nums[i] < 0 || nums[i] > last) {
            free(needs);
            return fail(context, vsapi, "PyFilter: step asked for frame %lld of clip %lld at frame %d, must be 0..%d",
                        (long long)nums[i], (long long)clips[i], n, last);
        }
        needs->need[i] = (struct Need){ (int)nums[i], (int)clips[i] };
    }
    return needs;
}

/* Calls step with the requested frames and releases them. The caller frees the answer. */
static VSMap *call_step(const Filter *filter, int n, const Needs *needs, VSFrameContext *context,
                        const VSAPI *vsapi) {
    VSMap *arguments = vsapi->createMap();
    VSMap *answer = vsapi->createMap();
    vsapi->mapSetInt(arguments, "n", n, maReplace);
    for (int i = 0; i < needs->size; i++) {
        const struct Need *need = &needs->need[i];
        vsapi->mapSetInt(arguments, "nums", need->num, maAppend);
        vsapi->mapSetInt(arguments, "clips", need->clip, maAppend);
        vsapi->mapConsumeFrame(arguments, "frames",
                               vsapi->getFrameFilter(need->num, filter->clips[need->clip], context), maAppend);
    }
    for (int i = 0; i < needs->size; i++) /* the context's own references would live until frame n is done */
        vsapi->releaseFrameEarly(filter->clips[needs->need[i].clip], needs->need[i].num, context);
    vsapi->callFunction(filter->step, arguments, answer);
    vsapi->freeMap(arguments);
    return answer;
}

/* Calls interrupt for a request during which Ctrl-C came. The answer holds an error; the caller frees it. */
static VSMap *call_interrupt(const Filter *filter, const VSAPI *vsapi) {
    VSMap *answer = vsapi->createMap();
    if (filter->interrupt) {
        VSMap *none = vsapi->createMap();
        vsapi->callFunction(filter->interrupt, none, answer);
        vsapi->freeMap(none);
    }
    if (!vsapi->mapGetError(answer))
        vsapi->mapSetError(answer, "PyFilter: interrupted");
    return answer;
}

/* Returns the frame of an answer if it has the declared format and size: the core aborts on a wrong one. */
static const VSFrame *frame_read(const VSMap *answer, const Filter *filter, int n, VSFrameContext *context,
                                 const VSAPI *vsapi) {
    const VSFrame *frame = vsapi->mapGetFrame(answer, "frame", 0, NULL);
    const VSVideoInfo *vi = &filter->vi;
    const VSVideoFormat *format = vsapi->getVideoFrameFormat(frame);
    int width = vsapi->getFrameWidth(frame, 0), height = vsapi->getFrameHeight(frame, 0);
    if (width == vi->width && height == vi->height && format->colorFamily == vi->format.colorFamily &&
        format->sampleType == vi->format.sampleType && format->bitsPerSample == vi->format.bitsPerSample &&
        format->subSamplingW == vi->format.subSamplingW && format->subSamplingH == vi->format.subSamplingH)
        return frame;
    char seen[32] = "?", declared[32] = "?";
    vsapi->getVideoFormatName(format, seen);
    vsapi->getVideoFormatName(&vi->format, declared);
    vsapi->freeFrame(frame);
    return fail(context, vsapi, "PyFilter: step answered frame %d with %s %dx%d, must be %s %dx%d", n, seen, width,
                height, declared, vi->width, vi->height);
}

static const VSFrame *VS_CC filter_get_frame(int n, int reason, void *instance, void **frame_data,
                                             VSFrameContext *context, VSCore *core, const VSAPI *vsapi) {
    (void)core;
    Filter *filter = instance;
    Needs *needs = *frame_data;
    *frame_data = NULL;
    if (reason == arInitial) {
        host_watch_interrupts();
        needs = needs_new(1, 0);
        if (!needs)
            return fail(context, vsapi, "PyFilter: out of memory");
        needs->interrupts = enter(filter);
        needs->need[0] = (struct Need){ n, 0 };
        needs_request(needs, filter, context, vsapi);
        *frame_data = needs;
        return NULL;
    }
    if (reason != arAllFramesReady) { /* arError: a requested frame failed, its error is set */
        free(needs);
        leave(filter);
        return NULL;
    }
    uint32_t before = needs->interrupts;
    bool ends = before != host_interrupts();
    if (ends && is_last(filter) && !needs->lingers) {
        needs->lingers = true;
        needs_request(needs, filter, context, vsapi);
        *frame_data = needs;
        return NULL;
    }
    for (int i = 0; ends && is_last(filter) && i < 10; i++)
        host_sleep(5);
    VSMap *answer = ends ? call_interrupt(filter, vsapi) : call_step(filter, n, needs, context, vsapi);
    free(needs);
    const VSFrame *frame = NULL;
    const char *raised = vsapi->mapGetError(answer);
    if (raised) {
        vsapi->setFilterError(raised, context); /* unchanged: "[VS_PY_EXC_ID:..." names the exception */
    } else if (vsapi->mapGetType(answer, "error") == ptData) {
        vsapi->setFilterError(vsapi->mapGetData(answer, "error", 0, NULL), context);
    } else if (vsapi->mapGetType(answer, "frame") == ptVideoFrame) {
        frame = frame_read(answer, filter, n, context, vsapi);
    } else {
        needs = needs_read(answer, filter, n, before, context, vsapi);
        if (needs)
            needs_request(needs, filter, context, vsapi);
        *frame_data = needs;
    }
    vsapi->freeMap(answer);
    if (!*frame_data)
        leave(filter);
    return frame;
}

static void VS_CC filter_free(void *instance, VSCore *core, const VSAPI *vsapi) {
    (void)core;
    Filter *filter = instance;
    vsapi->freeFunction(filter->step);
    vsapi->freeFunction(filter->interrupt);
    for (int i = 0; i < filter->num_clips; i++)
        vsapi->freeNode(filter->clips[i]);
    free(filter->clips);
    free(filter);
}

/* Sets the output's format and size: the given ones, else those of clips[0]. Returns an error text, or NULL. */
static const char *filter_video_info(VSVideoInfo *vi, const VSMap *in, VSCore *core, const VSAPI *vsapi) {
    if (vsapi->mapNumElements(in, "format") > 0) {
        int64_t id = vsapi->mapGetInt(in, "format", 0, NULL);
        if (id < 0 || id > INT32_MAX || !vsapi->getVideoFormatByID(&vi->format, (uint32_t)id, core))
            return "PyFilter: format is not the id of a video format";
    }
    if (vsapi->mapNumElements(in, "width") > 0)
        vi->width = vsapi->mapGetIntSaturated(in, "width", 0, NULL);
    if (vsapi->mapNumElements(in, "height") > 0)
        vi->height = vsapi->mapGetIntSaturated(in, "height", 0, NULL);
    if (vi->format.colorFamily == cfUndefined || vi->width < 1 || vi->height < 1)
        return "PyFilter: format, width and height must be given where clips[0] varies in them, sizes from 1";
    if (vi->width % (1 << vi->format.subSamplingW) || vi->height % (1 << vi->format.subSamplingH))
        return "PyFilter: width and height must be multiples of the format's subsampling";
    return NULL;
}

void VS_CC pyfilter_create(const VSMap *in, VSMap *out, void *user, VSCore *core, const VSAPI *vsapi) {
    (void)user;
    int num_clips = vsapi->mapNumElements(in, "clips");
    Filter *filter = num_clips > 0 ? calloc(1, sizeof *filter) : NULL;
    VSNode **clips = filter ? calloc((size_t)num_clips, sizeof *clips) : NULL;
    VSFilterDependency *dependencies = clips ? calloc((size_t)num_clips, sizeof *dependencies) : NULL;
    if (!dependencies) {
        free(clips);
        free(filter);
        vsapi->mapSetError(out, num_clips > 0 ? "PyFilter: out of memory" : "PyFilter: clips must hold a clip");
        return;
    }
    filter->clips = clips;
    filter->num_clips = num_clips;
    filter->step = vsapi->mapGetFunction(in, "step", 0, NULL);
    int none;
    filter->interrupt = vsapi->mapGetFunction(in, "interrupt", 0, &none);
    for (int i = 0; i < num_clips; i++) {
        clips[i] = vsapi->mapGetNode(in, "clips", i, NULL);
        dependencies[i] = (VSFilterDependency){ clips[i], rpGeneral };
    }
    filter->vi = *vsapi->getVideoInfo(clips[0]);
    const char *error = filter_video_info(&filter->vi, in, core, vsapi);
    if (error) {
        filter_free(filter, core, vsapi);
        vsapi->mapSetError(out, error);
    } else {
        VSNode *node = vsapi->createVideoFilter2("PyFilter", &filter->vi, filter_get_frame, filter_free,
                                                 fmParallelRequests, dependencies, num_clips, filter, core);
        if (node) {
            vsapi->mapConsumeNode(out, "clip", node, maReplace);
        } else { /* the core calls filter_free only for a filter that it made */
            filter_free(filter, core, vsapi);
            vsapi->mapSetError(out, "PyFilter: the core refused the filter");
        }
    }
    free(dependencies);
}
