/* CuPy's functions that would touch a device and that host memory can't serve: each raises
 * NotServedError, which names it. How it says so to its caller depends on what it returns, and
 * on the value that CuPy declares to stand for an error. */
#include "bridge.h"

#define OBJECT(module, name)                                                                   \
    static PyObject *module##_##name(void) { return refuse(#module "." #name); }
#define POINTER(module, name)                                                                  \
    static intptr_t module##_##name(void) { refuse(#module "." #name); return 0; }
#define UNSIGNED(module, name)                                                                 \
    static uintmax_t module##_##name(void) { refuse(#module "." #name); return 0; }
#define INT(module, name)                                                                      \
    static int module##_##name(void) { refuse(#module "." #name); return -1; }
#define SIZE(module, name)                                                                     \
    static size_t module##_##name(void) { refuse(#module "." #name); return (size_t)-1; }

#define ALL                                                                                    \
    UNSIGNED(runtime, createSurfaceObject) UNSIGNED(runtime, createTextureObject)              \
    OBJECT(runtime, destroySurfaceObject) OBJECT(runtime, destroyTextureObject)                \
    SIZE(runtime, deviceGetLimit) OBJECT(runtime, deviceSetLimit)                              \
    POINTER(runtime, malloc3DArray) POINTER(runtime, mallocArray) OBJECT(runtime, freeArray)   \
    OBJECT(runtime, memcpy2DFromArray) OBJECT(runtime, memcpy2DFromArrayAsync)                 \
    OBJECT(runtime, memcpy2DToArray) OBJECT(runtime, memcpy2DToArrayAsync)                     \
    OBJECT(runtime, memcpy3D) OBJECT(runtime, memcpy3DAsync)                                   \
    OBJECT(runtime, streamBeginCapture) POINTER(runtime, streamEndCapture)                     \
    OBJECT(runtime, graphDebugDotPrint) OBJECT(runtime, graphDestroy)                          \
    OBJECT(runtime, graphExecDestroy) POINTER(runtime, graphInstantiate)                       \
    OBJECT(runtime, graphLaunch) OBJECT(runtime, graphUpload)                                  \
    POINTER(driver, ctxCreate) OBJECT(driver, ctxDestroy) OBJECT(driver, ctxSetCurrent)        \
    OBJECT(driver, devicePrimaryCtxRelease)                                                    \
    INT(driver, funcGetAttribute) OBJECT(driver, funcSetAttribute)                             \
    OBJECT(driver, launchCooperativeKernel) OBJECT(driver, launchKernel)                       \
    POINTER(driver, linkCreate) OBJECT(driver, linkAddData) OBJECT(driver, linkAddFile)        \
    OBJECT(driver, linkComplete) OBJECT(driver, linkDestroy)                                   \
    POINTER(driver, moduleGetFunction) POINTER(driver, moduleGetGlobal)                        \
    POINTER(driver, moduleLoad) POINTER(driver, moduleLoadData) OBJECT(driver, moduleUnload)   \
    INT(driver, occupancyMaxActiveBlocksPerMultiprocessor)                                     \
    OBJECT(driver, occupancyMaxPotentialBlockSize)                                             \
    OBJECT(nvrtc, addNameExpression) OBJECT(nvrtc, compileProgram)                             \
    POINTER(nvrtc, createProgram) OBJECT(nvrtc, destroyProgram)                                \
    OBJECT(nvrtc, getCUBIN) OBJECT(nvrtc, getLTOIR) OBJECT(nvrtc, getNVVM)                     \
    OBJECT(nvrtc, getLoweredName) OBJECT(nvrtc, getPTX) OBJECT(nvrtc, getProgramLog)           \
    OBJECT(nvrtc, getSupportedArchs) OBJECT(nvrtc, getVersion)                                 \
    OBJECT(cub, cub_reduction) OBJECT(cub, cub_scan)

ALL

#undef OBJECT
#undef POINTER
#undef UNSIGNED
#undef INT
#undef SIZE
#define ROW(module, name, returned) {#module, #name, returned, (void *)module##_##name, NULL},
#define OBJECT(module, name) ROW(module, name, "PyObject *")
#define POINTER(module, name) ROW(module, name, "intptr_t ")
#define UNSIGNED(module, name) ROW(module, name, "uintmax_t ")
#define INT(module, name) ROW(module, name, "int ")
#define SIZE(module, name) ROW(module, name, "size_t ")

const struct entry refused[] = {ALL END};
