// From hops to normalised log-mel rows: features/framer.cpp, log_mel.cpp and real_fft.cpp, a block a window.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/device.h"

namespace unils::cuda {
namespace {

constexpr int kThreads = 128;

// The samples of a row: those before its hop, then the hop.
struct Line {
  const float* before;  // NULL: silence
  const float* hop;
  int before_count;

  __device__ float at(int i) const {
    return i >= before_count ? hop[i - before_count] : before == nullptr ? 0.0f : before[i];
  }
};

// |X_k|^2 of a real signal whose even samples lie in re and odd ones in im, both in bit-reversed order.
__device__ void power_spectrum(const LogMelTables& tables, double* re, double* im, double* power) {
  const int size = tables.fft_size, half = size / 2;
  for (int length = 2; length <= half; length *= 2) {
    const int stride = size / length;
    for (int butterfly = thread_index(); butterfly < half / 2; butterfly += thread_count()) {
      const int k = butterfly % (length / 2);
      const int a = butterfly / (length / 2) * length + k, b = a + length / 2;
      const double c = tables.cosines[k * stride], s = tables.sines[k * stride];
      const double x = re[b] * c - im[b] * s;
      const double y = re[b] * s + im[b] * c;
      re[b] = re[a] - x;
      im[b] = im[a] - y;
      re[a] += x;
      im[a] += y;
    }
    __syncthreads();
  }
  for (int k = thread_index(); k <= half; k += thread_count()) {
    if (k == 0 || k == half) {
      const double sum = k == 0 ? re[0] + im[0] : re[0] - im[0];
      power[k] = sum * sum;
      continue;
    }
    const int mirror = half - k;
    const double even_re = 0.5 * (re[k] + re[mirror]);
    const double even_im = 0.5 * (im[k] - im[mirror]);
    const double odd_re = 0.5 * (im[k] + im[mirror]);
    const double odd_im = 0.5 * (re[mirror] - re[k]);
    const double c = tables.cosines[k], s = tables.sines[k];
    const double x = even_re + odd_re * c - odd_im * s;
    const double y = even_im + odd_re * s + odd_im * c;
    power[k] = x * x + y * y;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) log_mel_kernel(LogMelCall call) {
  UNILS_DYNAMIC_SHARED(double, shared);
  const LogMelTables& tables = call.tables;
  const int r = static_cast<int>(blockIdx.x), step = static_cast<int>(blockIdx.y);
  if (r >= call.rows->count) return;
  const int mels = tables.mels, steps = tables.hop_samples / tables.step_samples;
  const float* sound = call.sounds + int64_t{r} * call.sound_stride;
  float* normal = call.normal + (int64_t{r} * steps + step) * mels;
  if (call.is_log_mel[r] != 0) {
    for (int mel = thread_index(); mel < mels; mel += thread_count()) {
      normal[mel] = (sound[step * mels + mel] - call.mel_mean[mel]) / call.mel_std[mel];
    }
    return;
  }

  const Place place = call.places[r];
  const int history = tables.window_samples - tables.step_samples;
  float* kept = place.state + call.history[call.tracks[r]];
  const RingIndex ring(call.kept_hops);
  const Line line = {place.position == 0 ? nullptr : kept + ring.slot(place.position - 1) * history, sound, history};
  // The slot of this row is none that its windows read.
  if (step == 0) {
    float* after = kept + ring.slot(place.position) * history;
    for (int i = thread_index(); i < history; i += thread_count()) after[i] = sound[tables.hop_samples - history + i];
  }

  const int half = tables.fft_size / 2;
  double* re = shared;
  double* im = re + half;
  double* power = im + half;
  const auto windowed = [&](int i) {
    return i < tables.window_samples ? double{line.at(step * tables.step_samples + i)} * tables.hann[i] : 0.0;
  };
  for (int i = thread_index(); i < half; i += thread_count()) {
    const int to = tables.reversed[i];
    re[to] = windowed(2 * i);
    im[to] = windowed(2 * i + 1);
  }
  __syncthreads();
  power_spectrum(tables, re, im, power);
  for (int mel = thread_index(); mel < mels; mel += thread_count()) {
    const double* weights = tables.weights + tables.at[mel];
    double energy = 0.0;
    for (int i = 0; i < tables.count[mel]; ++i) energy += weights[i] * power[tables.first[mel] + i];
    const float value = logf(static_cast<float>(energy > tables.floor ? energy : tables.floor));
    normal[mel] = (value - call.mel_mean[mel]) / call.mel_std[mel];
  }
}

}  // namespace

void log_mel(const LogMelCall& call, cudaStream_t stream) {
  const auto steps = static_cast<unsigned>(call.tables.hop_samples / call.tables.step_samples);
  const size_t shared_bytes = sizeof(double) * (static_cast<size_t>(call.tables.fft_size) * 3 / 2 + 1);
  launch(log_mel_kernel, dim3(static_cast<unsigned>(call.max_rows), steps), kThreads, shared_bytes, stream, call);
}

}  // namespace unils::cuda
