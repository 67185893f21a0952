// UNILS_HOST_DEVICE: before a function that GPU kernels call too, so that there is one source of it.
#pragma once

#if defined(__CUDACC__)
#define UNILS_HOST_DEVICE __host__ __device__
#else
#define UNILS_HOST_DEVICE
#endif
