/* wav_to_frames BUNDLE SELF.wav [OTHER.wav] > frames.csv
 *
 * Streams 16-bit mono WAV files of any rate through a session in pieces of 20 ms, as a live program would, and prints
 * every frame as it comes. With one file the face only speaks; with two it converses. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "unils/unils.h"

enum { MAX_CHANNELS = 256, MAX_PIECE = 96000 / 50 + 1 };

typedef struct {
  FILE* file;
  uint32_t rate;      /* Hz */
  uint32_t remaining; /* samples */
} Wav;

static void fail(const char* what, const char* why) {
  fprintf(stderr, "wav_to_frames: %s: %s\n", what, why);
  exit(1);
}
static void check(unils_status status, const char* what) {
  if (status != UNILS_OK) fail(what, unils_last_error());
}

static uint32_t little_endian(const uint8_t* bytes, int count) {
  uint32_t value = 0;
  for (int i = count - 1; i >= 0; --i) value = value << 8 | bytes[i];
  return value;
}

static Wav wav_open(const char* path) {
  Wav wav = {fopen(path, "rb"), 0, 0};
  uint8_t head[12], format[16];
  if (wav.file == NULL) fail(path, "cannot be opened");
  if (fread(head, 1, 12, wav.file) != 12 || memcmp(head, "RIFF", 4) != 0 || memcmp(head + 8, "WAVE", 4) != 0) {
    fail(path, "is not a WAV file");
  }
  while (fread(head, 1, 8, wav.file) == 8) {
    const uint32_t bytes = little_endian(head + 4, 4);
    if (memcmp(head, "data", 4) == 0 && wav.rate != 0) {
      wav.remaining = bytes / 2;
      return wav;
    }
    long skip = (long)bytes + bytes % 2;
    if (memcmp(head, "fmt ", 4) == 0) {
      if (bytes < 16 || fread(format, 1, 16, wav.file) != 16) break;
      if (little_endian(format, 2) != 1 || little_endian(format + 2, 2) != 1 || little_endian(format + 14, 2) != 16) {
        fail(path, "must be 16-bit mono PCM");
      }
      wav.rate = little_endian(format + 4, 4);
      if (wav.rate < 8000 || wav.rate > 96000) fail(path, "must have a rate of 8000 to 96000 Hz");
      skip -= 16;
    }
    if (fseek(wav.file, skip, SEEK_CUR) != 0) break;
  }
  fail(path, "holds no audio");
  return wav;
}

/* Piece number `piece` of 20 ms; silence behind the end, so that both tracks go on together. */
static void push_piece(unils_session* session, unils_track track, Wav* wav, int64_t piece) {
  int16_t samples[MAX_PIECE] = {0};
  const int64_t count = (piece + 1) * wav->rate / 50 - piece * wav->rate / 50;
  const uint32_t wanted = count < wav->remaining ? (uint32_t)count : wav->remaining;
  const size_t got = fread(samples, sizeof *samples, wanted, wav->file); /* WAV and this machine: little-endian */
  wav->remaining = got < wanted ? 0 : wav->remaining - wanted;
  int64_t taken = 0; /* all of it: frames are pulled as they come, so no ring fills up */
  check(unils_session_push_audio(session, track, samples, UNILS_INT16, count, (int32_t)wav->rate, &taken), "push");
}

static void print_frames(unils_session* session, int channels) {
  static float values[MAX_CHANNELS];
  int64_t index = 0, count = 0;
  double seconds = 0.0;
  const unils_frames frames = {values, &index, &seconds, NULL};
  for (;;) {
    check(unils_session_pull_frames(session, &frames, 1, &count), "pull");
    if (count == 0) return;
    printf("%lld,%.2f", (long long)index, seconds);
    for (int i = 0; i < channels; ++i) printf(",%.5f", (double)values[i]);
    printf("\n");
  }
}

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) fail("usage", "wav_to_frames BUNDLE SELF.wav [OTHER.wav] > frames.csv");
  Wav wavs[2] = {wav_open(argv[2])};
  if (argc == 4) wavs[UNILS_TRACK_OTHER] = wav_open(argv[3]);

  unils_model* model = NULL;
  unils_session* session = NULL;
  unils_model_info info = {.struct_size = sizeof info};
  unils_session_options options;
  check(unils_model_load(argv[1], NULL, &model), "model");
  check(unils_model_get_info(model, &info), "model");
  if (info.channels > MAX_CHANNELS) fail(argv[1], "has too many channels for this example");
  check(unils_session_options_init(model, &options), "options");
  options.clock = argc == 4 ? UNILS_CLOCK_BOTH : UNILS_CLOCK_SELF;
  check(unils_session_create(model, &options, &session), "session");

  printf("frame,seconds");
  for (int i = 0; i < info.channels; ++i) printf(",%s", unils_model_channel_name(model, i));
  printf("\n");
  for (int64_t piece = 0; wavs[0].remaining > 0 || wavs[1].remaining > 0; ++piece) {
    for (int track = 0; track < argc - 2; ++track) push_piece(session, (unils_track)track, &wavs[track], piece);
    print_frames(session, info.channels);
  }
  check(unils_session_finish(session), "finish");
  print_frames(session, info.channels);

  unils_session_free(session);
  unils_model_free(model);
  for (int track = 0; track < argc - 2; ++track) fclose(wavs[track].file);
  return fflush(stdout) == 0 ? 0 : 1;
}
