#include "engine/state_layout.h"

namespace unils {

StateLayout::StateLayout(const unils_stream_sizes& sizes, const unils_features& features) {
  ArenaLayout arena;
  bits = arena.add<float>(static_cast<size_t>(sizes.levels) * static_cast<size_t>(sizes.bits));
  const int kept = features.window_samples - features.step_samples;
  for (size_t& hops : history) hops = arena.add<float>(UNILS_KEPT_HOPS * static_cast<size_t>(kept));
  const int head_width = sizes.width / sizes.heads;
  style = KvRing(&arena, sizes.depth, sizes.heads, head_width, sizes.style_tokens);
  for (KvRing& ring : self) ring = KvRing(&arena, sizes.depth, sizes.heads, head_width, sizes.window_frames);
  // No row is pushed further ahead of the next frame than the largest look-ahead, so a ring of the window and that
  // never loses a row that a frame still sees, not even when rows are pushed again after a rewind.
  const int look_ahead[2] = {sizes.look_ahead_self_max, sizes.look_ahead_other_max};
  for (int track = 0; track < 2; ++track) {
    cross[track] = KvRing(&arena, sizes.depth, sizes.heads, head_width, sizes.audio_window_frames + look_ahead[track]);
    audio[track] = RowRing(&arena, sizes.audio_depth, sizes.audio_width, sizes.audio_kernel + kMaxRewindRows);
  }
  decoder = RowRing(&arena, sizes.codec_depth, sizes.codec_width, sizes.codec_kernel);
  bytes = arena.bytes();
}

}  // namespace unils
