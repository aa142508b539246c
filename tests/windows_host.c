/* A host in C without Python, for Windows. */
#include <windows.h>
#include <stdio.h>
#include <VapourSynth4.h>

/* LIBVAPOURSYNTH: its plugins are loaded as in any host; prints what exvc registered and what Colorize says. */
int wmain(int argc, wchar_t **argv) {
    (void)argc;
    HMODULE library = LoadLibraryExW(argv[1], NULL, LOAD_WITH_ALTERED_SEARCH_PATH);
    if (!library) { printf("LoadLibrary: %lu\n", GetLastError()); return 1; }
    VSGetVapourSynthAPI get = (VSGetVapourSynthAPI)(void *)GetProcAddress(library, "getVapourSynthAPI");
    const VSAPI *vs = get(VAPOURSYNTH_API_VERSION);
    VSCore *core = vs->createCore(0);
    VSPlugin *exvc = vs->getPluginByNamespace("exvc", core), *std = vs->getPluginByNamespace("std", core);
    if (!exvc) { puts("no exvc"); return 1; }
    for (VSPluginFunction *f = vs->getNextPluginFunction(NULL, exvc); f; f = vs->getNextPluginFunction(f, exvc))
        printf("function %s\n", vs->getPluginFunctionName(f));
    VSMap *in = vs->createMap(), *out = vs->invoke(std, "BlankClip", in);
    VSNode *clip = vs->mapGetNode(out, "clip", 0, NULL);
    vs->freeMap(out);
    vs->mapSetNode(in, "clip", clip, maReplace);
    vs->mapSetNode(in, "ref", clip, maReplace);
    vs->freeNode(clip);
    out = vs->invoke(exvc, "Colorize", in);
    puts(vs->mapGetError(out) ? vs->mapGetError(out) : "no error");
    vs->freeMap(out);
    vs->freeMap(in);
    vs->freeCore(core);
    return 0;
}
