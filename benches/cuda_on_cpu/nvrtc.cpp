// A libnvrtc.so that hands every program to NVIDIA's and then to g++, so that CUDA's compiler judges what the CPU runs.
//
// CUDA_ON_CPU_NVRTC    NVIDIA's library
// CUDA_ON_CPU_FOLDER   where sources, PTX and objects go, with a line per kernel in compilations.tsv
// CUDA_ON_CPU_HEADERS  folder of cuda_on_cpu.h
// CUDA_ON_CPU_LAUNCH   0: nothing but what opens a device is compiled for the CPU
#include <dlfcn.h>
#include <nvrtc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <mutex>
#include <regex>
#include <string>

#define API extern "C" __attribute__((visibility("default")))
using Clock = std::chrono::steady_clock;

struct Program {
    nvrtcProgram theirs;
    std::string source, kernel, stem;
    bool for_cpu;
};

static double seconds(Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); }

static std::string setting(const char* name, const char* otherwise) {
    const char* text = getenv(name);
    return text ? text : otherwise;
}

static std::string contents(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

static std::string folder() { return setting("CUDA_ON_CPU_FOLDER", "/tmp/cuda_on_cpu"); }

template <class F> static F original(F, const char* name) {
    static void* library = dlopen(setting("CUDA_ON_CPU_NVRTC", "libnvrtc.so.13").c_str(), RTLD_NOW | RTLD_LOCAL);
    F function = library ? (F)dlsym(library, name) : nullptr;
    if (!function) { fprintf(stderr, "cuda_on_cpu: NVIDIA's NVRTC: %s\n", dlerror()); abort(); }
    return function;
}
#define ORIGINAL(f) original(f, #f)

API nvrtcResult nvrtcVersion(int* major, int* minor) { return ORIGINAL(nvrtcVersion)(major, minor); }
API const char* nvrtcGetErrorString(nvrtcResult result) { return ORIGINAL(nvrtcGetErrorString)(result); }

API nvrtcResult nvrtcCreateProgram(nvrtcProgram* out, const char* source, const char* name, int headers, const char* const* texts, const char* const* names) {
    auto program = new Program{nullptr, source, "", "", false};
    std::smatch found;
    if (std::regex_search(program->source, found, std::regex("__global__ \\w+ __launch_bounds__\\(\\d+\\)[^;{]*?(\\w+)\\((?!\\d)"))) program->kernel = found[1];
    *out = (nvrtcProgram)program;
    return ORIGINAL(nvrtcCreateProgram)(&program->theirs, source, name, headers, texts, names);
}

API nvrtcResult nvrtcDestroyProgram(nvrtcProgram* handle) {
    auto program = (Program*)*handle;
    auto result = ORIGINAL(nvrtcDestroyProgram)(&program->theirs);
    delete program;
    return result;
}

// The same kernel for the CPU: its source with an entry that calls it by an array of arguments.
static bool compile_for_cpu(const Program& program) {
    const std::string& stem = program.stem;
    // Shared memory of the size that a launch asks for.
    std::string source = std::regex_replace(program.source, std::regex("extern __shared__ __align__\\(\\d+\\) char (\\w+)\\[\\];"), "char* const $1 = cuda_on_cpu_shared;");
    source = std::regex_replace(source, std::regex("asm volatile\\(\"atom\\.relaxed\\.add\\.f32[^:]*: \"=f\"\\((\\w+)\\) : \"l\"\\((\\w+)\\), \"f\"\\((\\w+)\\)[^;]*;"), "$1 = atomicAdd((float*)$2, $3);");
    std::ofstream(stem + ".cpp") << "#define CUDA_ON_CPU_ALONE " << !std::regex_search(source, std::regex("__sync|__shfl|_sync\\(|asm|barrier")) << "\n#include \"cuda_on_cpu.h\"\n" << source << "\nCUDA_ON_CPU_ENTRY(" << program.kernel << ")\n";
    const std::string headers = setting("CUDA_ON_CPU_HEADERS", ".");
    const std::string command = "g++ -std=c++20 -O2 -march=native -ffp-contract=off -fno-strict-aliasing -fpermissive -w -shared -fPIC -I" + headers +
                                "/include -I" + headers + " " + stem + ".cpp -o " + stem + ".part 2> " + stem + ".log";
    const std::string object = stem + ".so";
    return !access(object.c_str(), R_OK) || (system(command.c_str()) == 0 && !rename((stem + ".part").c_str(), object.c_str()));
}

API nvrtcResult nvrtcCompileProgram(nvrtcProgram handle, int count, const char* const* options) {
    static std::mutex guard;
    static const std::string header = contents(setting("CUDA_ON_CPU_HEADERS", ".") + "/cuda_on_cpu.h");
    auto& program = *(Program*)handle;
    mkdir(folder().c_str(), 0777);
    auto begun = Clock::now();
    auto result = ORIGINAL(nvrtcCompileProgram)(program.theirs, count, options);
    const double theirs = seconds(begun);
    std::lock_guard<std::mutex> lock(guard);
    const std::string stem = program.stem = folder() + "/" + std::to_string(std::hash<std::string>()(program.source + header));
    std::ofstream(stem + ".cu") << program.source;
    begun = Clock::now();
    // A program opens a device by the exponential of one number.
    const bool opens = program.kernel.rfind("unary_float_f_f32_n_1_", 0) == 0;
    program.for_cpu = opens || setting("CUDA_ON_CPU_LAUNCH", "1") != "0";
    const bool compiled = !program.for_cpu || compile_for_cpu(program);
    if (!compiled) fprintf(stderr, "cuda_on_cpu: %s.log says why g++ does not take the kernel\n", stem.c_str());
    std::ofstream(folder() + "/compilations.tsv", std::ios::app)
        << stem << '\t' << program.kernel << '\t' << result << '\t' << theirs << '\t' << (compiled ? seconds(begun) : -1) << '\n';
    return result;
}

API nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram handle, size_t* size) { return ORIGINAL(nvrtcGetProgramLogSize)(((Program*)handle)->theirs, size); }
API nvrtcResult nvrtcGetProgramLog(nvrtcProgram handle, char* text) { return ORIGINAL(nvrtcGetProgramLog)(((Program*)handle)->theirs, text); }

static std::string mark(const Program& program) { return program.for_cpu ? "// cuda_on_cpu: " + program.stem + ".so\n" : ""; }

API nvrtcResult nvrtcGetPTXSize(nvrtcProgram handle, size_t* size) {
    auto& program = *(Program*)handle;
    auto result = ORIGINAL(nvrtcGetPTXSize)(program.theirs, size);
    *size += mark(program).size();
    return result;
}

API nvrtcResult nvrtcGetPTX(nvrtcProgram handle, char* text) {
    auto& program = *(Program*)handle;
    const std::string begin = mark(program);
    memcpy(text, begin.data(), begin.size());
    auto result = ORIGINAL(nvrtcGetPTX)(program.theirs, text + begin.size());
    std::ofstream(program.stem + ".ptx") << text + begin.size();
    return result;
}
