// A libcuda.so for machines without a GPU: memory is the host's, kernels run on the CPU where `nvrtc.cpp` compiled them
// for it, and otherwise not at all.
//
// CUDA_ON_CPU_ARCH    compute capability to report, 80 or 90 (default)
// CUDA_ON_CPU_LAUNCH  0: count launches; run and write nothing but what opens a device, so that memory is only counted
// CUDA_ON_CPU_MEMORY  gigabytes of the device, 80 by default
#include <cuda.h>
#undef cuMemAlloc
#undef cuEventElapsedTime
#undef cuStreamBeginCapture
#include <dlfcn.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

using Clock = std::chrono::steady_clock;
using Launch = void (*)(const unsigned grid[3], const unsigned block[3], unsigned shared, void** arguments);

struct CUmod_st { std::string object; };
struct CUfunc_st { std::string name; Launch launch; };
struct CUevent_st { Clock::time_point at; };
struct CUstream_st { int id; };
struct CUctx_st { int id; };

static CUctx_st context;
static std::mutex guard;
static std::map<CUdeviceptr, size_t> sizes;
static size_t in_use, peak;
static std::atomic<size_t> launches, to_host, to_device, on_device, loaded, reads;

static bool runs() {
    static const char* off = getenv("CUDA_ON_CPU_LAUNCH");
    return !off || strcmp(off, "0");
}

static int arch() {
    static const char* text = getenv("CUDA_ON_CPU_ARCH");
    return text ? atoi(text) : 90;
}

static size_t memory() {
    static const char* text = getenv("CUDA_ON_CPU_MEMORY");
    return size_t(text ? atoi(text) : 80) << 30;
}

__attribute__((destructor)) static void report() {
    if (!launches) return;
    fprintf(stderr, "cuda_on_cpu: %zu launches, %zu modules, %zu reads, %zu bytes read, %zu written, %zu moved, peak %zu MB\n", launches.load(),
            loaded.load(), reads.load(), to_host.load(), to_device.load(), on_device.load(), peak >> 20);
}

#define API extern "C" __attribute__((visibility("default")))

API CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
API CUresult cuDriverGetVersion(int* version) { *version = 13000; return CUDA_SUCCESS; }
API CUresult cuDeviceGetCount(int* count) { *count = 1; return CUDA_SUCCESS; }
API CUresult cuDeviceGet(CUdevice* device, int ordinal) { *device = ordinal; return ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }
API CUresult cuDeviceGetName(char* name, int length, CUdevice) { snprintf(name, length, "CUDA on the CPU, sm_%d", arch()); return CUDA_SUCCESS; }
API CUresult cuDeviceGetPCIBusId(char* id, int length, CUdevice) { snprintf(id, length, "0000:01:00.0"); return CUDA_SUCCESS; }
API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice) { *bytes = memory(); return CUDA_SUCCESS; }
API CUresult cuMemGetInfo_v2(size_t* available, size_t* total) { *total = memory(); *available = memory() - in_use; return CUDA_SUCCESS; }

API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = arch() / 10; break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = arch() % 10; break;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = arch() >= 90 ? 232448 : 166912; break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 49152; break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: *value = 1024; break;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: *value = 64; break;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: *value = 2147483647; break;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: *value = 65535; break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = arch() >= 90 ? 132 : 108; break;
        default: fprintf(stderr, "cuda_on_cpu: attribute %d is not known\n", attribute); return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice) { *out = &context; return CUDA_SUCCESS; }
API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }
API CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
API CUresult cuCtxGetCurrent(CUcontext* out) { *out = &context; return CUDA_SUCCESS; }
API CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }
API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) { *least = 0; *greatest = -5; return CUDA_SUCCESS; }
API CUresult cuGetErrorName(CUresult error, const char** text) { static thread_local char name[32]; snprintf(name, sizeof name, "CUDA error %d", error); *text = name; return CUDA_SUCCESS; }
API CUresult cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }

// Work is done when it is asked for, so streams and events have nothing to wait for.
API CUresult cuStreamCreate(CUstream* out, unsigned) { *out = new CUstream_st{1}; return CUDA_SUCCESS; }
API CUresult cuStreamCreateWithPriority(CUstream* out, unsigned, int) { *out = new CUstream_st{1}; return CUDA_SUCCESS; }
API CUresult cuStreamDestroy_v2(CUstream stream) { delete stream; return CUDA_SUCCESS; }
API CUresult cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
API CUresult cuStreamWaitEvent(CUstream, CUevent, unsigned) { return CUDA_SUCCESS; }
API CUresult cuEventCreate(CUevent* out, unsigned) { *out = new CUevent_st{Clock::now()}; return CUDA_SUCCESS; }
API CUresult cuEventDestroy_v2(CUevent event) { delete event; return CUDA_SUCCESS; }
API CUresult cuEventRecord(CUevent event, CUstream) { event->at = Clock::now(); return CUDA_SUCCESS; }
API CUresult cuEventSynchronize(CUevent) { return CUDA_SUCCESS; }
API CUresult cuEventQuery(CUevent) { return CUDA_SUCCESS; }
API CUresult cuEventElapsedTime(float* ms, CUevent from, CUevent to) { *ms = std::chrono::duration<float, std::milli>(to->at - from->at).count(); return CUDA_SUCCESS; }
API CUresult cuEventElapsedTime_v2(float* ms, CUevent from, CUevent to) { return cuEventElapsedTime(ms, from, to); }

// Between two pages that may not be touched. NaN until written, so that a read before a write shows; only where
// kernels run, since it costs the memory.
API CUresult cuMemAlloc_v2(CUdeviceptr* out, size_t bytes) {
    const size_t page = 4096, room = (bytes + page - 1) / page * page;
    {
        std::lock_guard<std::mutex> lock(guard);
        if (in_use + bytes > memory()) return CUDA_ERROR_OUT_OF_MEMORY;
        in_use += bytes;
        peak = in_use > peak ? in_use : peak;
    }
    char* base = (char*)mmap(nullptr, room + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    mprotect(base, page, PROT_NONE);
    mprotect(base + page + room, page, PROT_NONE);
    if (runs()) memset(base + page, 0xff, bytes);
    *out = (CUdeviceptr)(base + page);
    std::lock_guard<std::mutex> lock(guard);
    sizes[*out] = bytes;
    return CUDA_SUCCESS;
}

API CUresult cuMemFree_v2(CUdeviceptr pointer) {
    std::lock_guard<std::mutex> lock(guard);
    auto found = sizes.find(pointer);
    if (found == sizes.end()) return CUDA_ERROR_INVALID_VALUE;
    const size_t page = 4096, room = (found->second + page - 1) / page * page;
    munmap((char*)pointer - page, room + 2 * page);
    in_use -= found->second;
    sizes.erase(found);
    return CUDA_SUCCESS;
}

API CUresult cuMemAllocAsync(CUdeviceptr* out, size_t bytes, CUstream) { return cuMemAlloc_v2(out, bytes); }
API CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream) { return cuMemFree_v2(pointer); }
API CUresult cuMemAllocHost_v2(void** out, size_t bytes) { return posix_memalign(out, 4096, bytes ? bytes : 1) ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS; }
API CUresult cuMemFreeHost(void* pointer) { free(pointer); return CUDA_SUCCESS; }

API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream) { to_device += bytes; if (runs() || bytes <= 64) memcpy((void*)to, from, bytes); return CUDA_SUCCESS; }
API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream) { reads++; to_host += bytes; memcpy(to, (void*)from, bytes); return CUDA_SUCCESS; }
API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream) { on_device += bytes; if (runs()) memmove((void*)to, (void*)from, bytes); return CUDA_SUCCESS; }
API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream) { if (runs()) memset((void*)to, value, bytes); return CUDA_SUCCESS; }

API CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, CUstream) {
    const bool from_host = copy->srcMemoryType == CU_MEMORYTYPE_HOST, into_host = copy->dstMemoryType == CU_MEMORYTYPE_HOST;
    const char* from = from_host ? (const char*)copy->srcHost : (const char*)copy->srcDevice;
    char* to = into_host ? (char*)copy->dstHost : (char*)copy->dstDevice;
    for (size_t row = 0; (runs() || into_host) && row < copy->Height; row++) memcpy(to + row * copy->dstPitch, from + row * copy->srcPitch, copy->WidthInBytes);
    reads += into_host;
    (from_host ? to_device : into_host ? to_host : on_device) += copy->Height * copy->WidthInBytes;
    return CUDA_SUCCESS;
}

// The first line of what `nvrtc.cpp` returns names the object for the CPU.
API CUresult cuModuleLoadData(CUmodule* out, const void* image) {
    const char* text = (const char*)image;
    static const char mark[] = "// cuda_on_cpu: ";
    auto module = new CUmod_st;
    if (!strncmp(text, mark, strlen(mark))) module->object.assign(text + strlen(mark), strchr(text, '\n'));
    loaded++;
    *out = module;
    return CUDA_SUCCESS;
}

API CUresult cuModuleUnload(CUmodule module) { delete module; return CUDA_SUCCESS; }

API CUresult cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
    auto function = new CUfunc_st{name, nullptr};
    if (runs() || !module->object.empty()) {
        void* library = module->object.empty() ? nullptr : dlopen(module->object.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (library) function->launch = (Launch)dlsym(library, "cuda_on_cpu_launch");
        if (!function->launch) {
            fprintf(stderr, "cuda_on_cpu: %s is not compiled for the CPU: %s\n", name, module->object.c_str());
            return CUDA_ERROR_NOT_FOUND;
        }
    }
    *out = function;
    return CUDA_SUCCESS;
}

API CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute, CUfunction) { *value = 0; return CUDA_SUCCESS; }

API CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                            CUstream, void** arguments, void**) {
    if (!gx || !gy || !gz || !bx || !by || !bz || gy > 65535 || gz > 65535 || bx * by * bz > 1024) return CUDA_ERROR_INVALID_VALUE;
    launches++;
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    if (function->launch) function->launch(grid, block, shared, arguments);
    return CUDA_SUCCESS;
}

API CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                    const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    return runs() ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS;
}
