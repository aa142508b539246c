/* pyfilter.h - see pyfilter.c. */
#ifndef EXVC_PYFILTER_H
#define EXVC_PYFILTER_H

#include <VapourSynth4.h>

void VS_CC pyfilter_create(const VSMap *in, VSMap *out, void *user, VSCore *core, const VSAPI *vsapi);

#endif
