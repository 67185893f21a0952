// How the cpu backend cuts a call: into parts of a few sessions, each one pass over the weights.
#pragma once

namespace unils {

// Sessions of a part. More would share the reading of the weights among more, but what lies between two layers has to
// stay in the core's own cache.
constexpr int kMaxBatch = 16;
// Sessions of the smallest part that is worth another thread.
constexpr int kMinBatch = 4;
// Rows of a part: of both tracks of every session, or with and without audio.
constexpr int kMaxBatchRows = 2 * kMaxBatch;

}  // namespace unils
