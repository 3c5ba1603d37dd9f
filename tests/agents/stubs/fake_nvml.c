/* A stand-in for libnvidia-ml.so.1: GPUs as FAKE_NVML says, count:memMiB:usedMiB:util:power_mW:name.
 *
 * It exports what Hearth's agent asks of NVML and nothing else, so a call to anything new shows up
 * as NVML_ERROR_FUNCTION_NOT_FOUND, as it would on an old driver. A used value above the total makes
 * a GPU answer NVML_ERROR_GPU_IS_LOST to every question about its memory.
 */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, GPU_IS_LOST = 15, MOST = 64 };

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;

static unsigned count = 2, utilization = 37, milliwatts = 250000;
static unsigned long long total_mib = 81920, used_mib = 1024;
static char name[96] = "NVIDIA H100 80GB HBM3";
static int index_of[MOST];

static void configure(void) {
  const char *text = getenv("FAKE_NVML");
  char copy[256], *rest = copy, *word;
  for (int i = 0; i < MOST; i++) index_of[i] = i;
  if (text == NULL) return;
  snprintf(copy, sizeof copy, "%s", text);
  for (int field = 0; (word = strsep(&rest, ":")) != NULL; field++) {
    switch (field) {
      case 0: count = atoi(word); break;
      case 1: total_mib = atoll(word); break;
      case 2: used_mib = atoll(word); break;
      case 3: utilization = atoi(word); break;
      case 4: milliwatts = atoi(word); break;
      case 5: snprintf(name, sizeof name, "%s", word); break;
    }
  }
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; configure(); return SUCCESS; }
int nvmlInit_v2(void) { configure(); return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == SUCCESS ? "Success" : "Failed"; }

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
  snprintf(text, size, "580.65.06");
  return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *answer) { *answer = count; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index >= count) return INVALID_ARGUMENT;
  *device = &index_of[index];
  return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
  const char *kind = *(int *)device >= 1000 ? "MIG" : "GPU";
  snprintf(text, size, "%s-00000000-0000-0000-0000-%012d", kind, *(int *)device);
  return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *text, unsigned size) {
  (void)device;
  snprintf(text, size, "%s", name);
  return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
  (void)device;
  if (used_mib > total_mib) return GPU_IS_LOST;
  memory->total = total_mib << 20;
  memory->used = used_mib << 20;
  memory->free = (total_mib - used_mib) << 20;
  return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *answer) {
  (void)device;
  answer->gpu = utilization;
  answer->memory = utilization / 2;
  return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
  (void)device, (void)sensor;
  *celsius = 51;
  return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
  (void)device;
  *major = 9;
  *minor = 0;
  return SUCCESS;
}

/* FAKE_NVLINK is the size of a group: with 2, GPUs 0 and 1 are linked, 2 and 3, and so on. */
int nvmlDeviceGetP2PStatus(void *one, void *other, int index, int *status) {
  const char *text = getenv("FAKE_NVLINK");
  int size = text == NULL ? 0 : atoi(text);
  *status = index == 2 && size > 1 && *(int *)one / size == *(int *)other / size ? 0 : 5;
  return SUCCESS;
}

/* FAKE_MIG is the number of slices that every GPU is cut into, 0 for none. */
static int slices[MOST][8];

static int mig(void) {
  const char *text = getenv("FAKE_MIG");
  return text == NULL ? 0 : atoi(text);
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
  (void)device;
  *current = *pending = mig() > 0;
  return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *most) {
  (void)device;
  *most = 7;
  return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **slice) {
  if ((int)index >= mig()) return 6; /* NVML_ERROR_NOT_FOUND */
  slices[*(int *)device][index] = 1000 * (index + 1) + *(int *)device;
  *slice = &slices[*(int *)device][index];
  return SUCCESS;
}

#ifndef WITHOUT_POWER
int nvmlDeviceGetPowerUsage(void *device, unsigned *answer) {
  (void)device;
  *answer = milliwatts;
  return SUCCESS;
}
#endif
