/* A stand-in for libnvidia-ml.so.1, so that the real nvidia-ml-py finds GPUs where there are none.
 *
 * HEARTH_FAKE_GPUS=count:total_mib:used_mib:utilization_percent:milliwatts:name describes them; all are alike.
 * Only what the agent asks is here; nvidia-ml-py answers NVMLError_FunctionNotFound for the rest.
 * Signatures and return codes: NVML API reference, "Device Queries".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, MAX_GPUS = 64 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilization;

static struct { int count; unsigned long long total_mib, used_mib; unsigned utilization, milliwatts; char name[96]; } gpus;
static int indices[MAX_GPUS]; /* a handle is the address of its index */

static void describe(void) {
    const char *text = getenv("HEARTH_FAKE_GPUS");
    memset(&gpus, 0, sizeof gpus);
    if (text == NULL || sscanf(text, "%d:%llu:%llu:%u:%u:%95[^\n]", &gpus.count, &gpus.total_mib, &gpus.used_mib,
                               &gpus.utilization, &gpus.milliwatts, gpus.name) != 6 || gpus.count > MAX_GPUS)
        gpus.count = 0;
    for (int i = 0; i < MAX_GPUS; i++) indices[i] = i;
}

int nvmlInit_v2(void) { describe(); return SUCCESS; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == SUCCESS ? "Success" : "Error of the stand-in"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "580.65.06"); return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)gpus.count; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index >= (unsigned)gpus.count) return INVALID_ARGUMENT;
    *device = &indices[index];
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    snprintf(out, size, "GPU-00000000-0000-0000-0000-%012d", *(int *)device);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *out, unsigned size) {
    (void)device;
    snprintf(out, size, "%s", gpus.name);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    (void)device;
    memory->total = gpus.total_mib << 20;
    memory->used = gpus.used_mib << 20;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, Utilization *rates) {
    (void)device;
    rates->gpu = gpus.utilization;
    rates->memory = gpus.utilization / 2;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    (void)device;
    *milliwatts = gpus.milliwatts;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    (void)device;
    (void)sensor;
    *celsius = 51;
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    (void)device;
    *major = 9;
    *minor = 0;
    return SUCCESS;
}
