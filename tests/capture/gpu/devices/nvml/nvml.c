/* A stand-in for libnvidia-ml.so.1: two devices, whose figures a test can foresee.
 *
 * Settings come from the environment, as numbers of a device or lists of functions' names:
 *   NVML_LOST=1        this device is lost ...
 *   NVML_LOST_AFTER=5  ... once its memory has been read so often
 *   NVML_DENIES=...    these functions lack the permission
 *   NVML_LACKS=...     these functions are not supported by the device
 *   NVML_BROKEN=9      nvmlInit fails with this code
 *   NVML_HOST_PIDS=1   processes are listed under other numbers, as in a container
 * NO_ENCODER leaves the encoder's functions out of the library; OLD leaves out what drivers
 * of some years ago did not have.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15,
    UNINITIALIZED = 1,
};

#define MIB (1ull << 20)

struct device {
    int number;
    const char *name, *uuid;
    unsigned reads;
};

static struct device devices[] = {
    {0, "Stand-in A", "GPU-00000000-0000-0000-0000-00000000000a", 0},
    {1, "Stand-in B", "GPU-00000000-0000-0000-0000-00000000000b", 0},
};

static int users;

static int number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? atoi(text) : otherwise;
}

static int named(const char *list, const char *function)
{
    const char *text = getenv(list);
    return text != NULL && strstr(text, function) != NULL;
}

static int refused(struct device *device, const char *function)
{
    if (users == 0)
        return UNINITIALIZED;
    if (device->number == number("NVML_LOST", -1)
        && device->reads >= (unsigned)number("NVML_LOST_AFTER", 0))
        return GPU_IS_LOST;
    if (named("NVML_DENIES", function))
        return NO_PERMISSION;
    return named("NVML_LACKS", function) ? NOT_SUPPORTED : SUCCESS;
}

#define ASK(device)                                   \
    do {                                              \
        int status = refused(device, __func__);       \
        if (status != SUCCESS)                        \
            return status;                            \
    } while (0)

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    if (number("NVML_BROKEN", 0) != 0)
        return number("NVML_BROKEN", 0);
    users++;
    return SUCCESS;
}

int nvmlShutdown(void)
{
    if (users == 0)
        return UNINITIALIZED;
    users--;
    return SUCCESS;
}

/* How many users have not shut it down: asked by a test, not by nvidia-ml-py. */
int stand_in_users(void)
{
    return users;
}

/* How often a device's memory has been read; as above. */
unsigned stand_in_reads(int device)
{
    return devices[device].reads;
}

const char *nvmlErrorString(int status)
{
    (void)status;
    return "an error of the stand-in";
}

int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = 2;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device)
{
    if (index > 1)
        return NOT_FOUND;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device)
{
    for (int i = 0; i < 2; i++)
        if (strcmp(uuid, devices[i].uuid) == 0) {
            *device = &devices[i];
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetName(struct device *device, char *name, unsigned length)
{
    ASK(device);
    snprintf(name, length, "%s", device->name);
    return SUCCESS;
}

int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length)
{
    ASK(device);
    snprintf(uuid, length, "%s", device->uuid);
    return SUCCESS;
}

struct memory {
    unsigned long long total, free, used;
};

struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

/* The first version counts what the driver keeps, 50 MiB, as used. Each reading is 1 MiB more. */
int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory)
{
    ASK(device);
    unsigned long long used = (100 * (device->number + 1) + device->reads++) * MIB;
    *memory = (struct memory){8192 * MIB, 8142 * MIB - used, used + 50 * MIB};
    return SUCCESS;
}

#ifndef OLD
int nvmlDeviceGetMemoryInfo_v2(struct device *device, struct memory_v2 *memory)
{
    ASK(device);
    unsigned long long used = (100 * (device->number + 1) + device->reads++) * MIB;
    *memory = (struct memory_v2){memory->version, 8192 * MIB, 50 * MIB, 8142 * MIB - used, used};
    return SUCCESS;
}
#endif

struct process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};

static int list(struct process *all, unsigned have, unsigned *count, struct process *found)
{
    if (*count < have) {
        *count = have;
        return INSUFFICIENT_SIZE;
    }
    memcpy(found, all, have * sizeof *all);
    *count = have;
    return SUCCESS;
}

/* This process computes on both devices, and draws on the second one too; another one also runs. */
static struct process mine(int device)
{
    unsigned pid = (unsigned)getpid() + (number("NVML_HOST_PIDS", 0) ? 100000 : 0);
    return (struct process){pid, (40 + device) * MIB, ~0u, ~0u};
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *device, unsigned *count,
                                            struct process *found)
{
    ASK(device);
    struct process all[] = {{1, 7 * MIB, ~0u, ~0u}, mine(device->number)};
    return list(all, 2, count, found);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(struct device *device, unsigned *count,
                                             struct process *found)
{
    ASK(device);
    struct process all[] = {mine(device->number)};
    return list(all, (unsigned)device->number, count, found);
}

int nvmlDeviceGetUtilizationRates(struct device *device, unsigned rates[2])
{
    ASK(device);
    rates[0] = 61;
    rates[1] = 32;
    return SUCCESS;
}

int nvmlDeviceGetDecoderUtilization(struct device *device, unsigned *load, unsigned *period_us)
{
    ASK(device);
    *load = 13;
    *period_us = 16000;
    return SUCCESS;
}

#ifndef NO_ENCODER
int nvmlDeviceGetEncoderUtilization(struct device *device, unsigned *load, unsigned *period_us)
{
    ASK(device);
    *load = 14;
    *period_us = 16000;
    return SUCCESS;
}
#endif

int nvmlDeviceGetClockInfo(struct device *device, int clock, unsigned *mhz)
{
    ASK(device);
    *mhz = clock == 1 ? 1980 : clock == 2 ? 2619 : 0; /* the multiprocessors', the memory's */
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(struct device *device, unsigned *milliwatts)
{
    ASK(device);
    *milliwatts = 98765;
    return SUCCESS;
}

struct temperature {
    unsigned version;
    int sensor, celsius;
};

#ifdef OLD
int nvmlDeviceGetTemperature(struct device *device, int sensor, unsigned *celsius)
{
    ASK(device);
    *celsius = sensor == 0 ? 44 : 0;
    return SUCCESS;
}
#else
int nvmlDeviceGetTemperatureV(struct device *device, struct temperature *temperature)
{
    ASK(device);
    temperature->celsius = temperature->sensor == 0 ? 44 : 0;
    return SUCCESS;
}
#endif
