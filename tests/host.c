/* A host as editors are: scripts loaded through VSScript, each in an environment of its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <VSScript4.h>

static const VSSCRIPTAPI *scripts;
static const VSAPI *vs;

static void stop(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why ? why : "unknown error");
    exit(1);
}

static VSScript *load(const char *path, VSNode **node) {
    VSScript *script = scripts->createScript(NULL);
    if (scripts->evaluateFile(script, path))
        stop(path, scripts->getError(script));
    *node = scripts->getOutputNode(script, 0);
    return script;
}

static const VSFrame *frame(VSNode *node, int n) {
    char error[512] = "";
    const VSFrame *f = vs->getFrame(n, node, error, sizeof error);
    if (!f)
        stop("getFrame", error);
    return f;
}

/* The planes of frame n, one after the other, to the end of a file. */
static void write_frame(VSNode *node, int n, FILE *file) {
    const VSFrame *f = frame(node, n);
    const VSVideoFormat *format = vs->getVideoFrameFormat(f);
    for (int plane = 0; plane < format->numPlanes; plane++)
        for (int y = 0; y < vs->getFrameHeight(f, plane); y++)
            fwrite(vs->getReadPtr(f, plane) + y * vs->getStride(f, plane),
                   (size_t)(vs->getFrameWidth(f, plane) * format->bytesPerSample), 1, file);
    vs->freeFrame(f);
}

struct job {
    VSNode *node;
    int first, end, step;
    char *bytes;
    size_t size;
};

static void *work(void *data) {
    struct job *job = data;
    FILE *file = open_memstream(&job->bytes, &job->size);
    for (int n = job->first; n != job->end; n += job->step)
        write_frame(job->node, n, file);
    fclose(file);
    return NULL;
}

static void put(struct job *job) {
    fwrite(job->bytes, job->size, 1, stdout);
    free(job->bytes);
}

/* /proc's word on this process: a line for each reload. */
static void report(void) {
    long pages = 0, resident = 0;
    char line[256];
    FILE *file = fopen("/proc/self/statm", "r");
    if (fscanf(file, "%ld %ld", &pages, &resident) != 2)
        stop("/proc/self/statm", "unreadable");
    fclose(file);
    file = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, "Threads:", 8))
            printf("%ld %d\n", resident * (sysconf(_SC_PAGESIZE) / 1024), atoi(line + 8));
    fclose(file);
}

int main(int argc, char **argv) {
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library)
        stop("dlopen", dlerror());
    const VSSCRIPTAPI *(*get)(int) = (const VSSCRIPTAPI *(*)(int))dlsym(library, "getVSScriptAPI");
    scripts = get(VSSCRIPT_API_VERSION);
    if (!scripts)
        stop("getVSScriptAPI", "no API");
    vs = scripts->getVSAPI(VAPOURSYNTH_API_VERSION);
    VSNode *a, *b;
    if (argc == 4) { /* LIBRARY SCRIPT COUNT: reloads */
        for (int i = 0; i < atoi(argv[3]); i++) {
            VSScript *script = load(argv[2], &a);
            vs->freeFrame(frame(a, 4));
            vs->freeFrame(frame(a, 1));
            vs->freeNode(a);
            scripts->freeScript(script);
            malloc_trim(0);
            report();
        }
        return 0;
    }
    /* LIBRARY A B N: frames 0..N-1 of A and of B asked for in turn; then of A forward and B backward by two threads;
     * then those of B alone while A goes. */
    int count = atoi(argv[4]);
    VSScript *first = load(argv[2], &a), *second = load(argv[3], &b);
    for (int n = 0; n < count; n++) {
        write_frame(a, n, stdout);
        write_frame(b, n, stdout);
    }
    vs->freeNode(a);
    vs->freeNode(b);
    scripts->freeScript(first);
    scripts->freeScript(second);

    first = load(argv[2], &a), second = load(argv[3], &b);
    struct job jobs[2] = { { a, 0, count, 1, NULL, 0 }, { b, count - 1, -1, -1, NULL, 0 } };
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, work, &jobs[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    put(&jobs[0]);
    put(&jobs[1]);
    vs->freeNode(b);
    scripts->freeScript(second);

    second = load(argv[3], &b);
    struct job last = { b, 0, count, 1, NULL, 0 };
    pthread_create(&threads[0], NULL, work, &last);
    vs->freeNode(a);
    scripts->freeScript(first);
    pthread_join(threads[0], NULL);
    put(&last);
    vs->freeNode(b);
    scripts->freeScript(second);
    return 0;
}
