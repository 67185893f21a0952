// SessionSpec: what a session needs to know of the model it is made from.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "engine/step_engine.h"

namespace unils {

class Model;  // model/model.h

struct SessionSpec {
  // One of the two, which keeps the model alive.
  std::shared_ptr<const StepEngine> engine;  // family "stream"
  std::shared_ptr<const Model> published;  // family "published"
  std::string rig;
  std::vector<std::string> channels;  // (D)
  int hop_samples = 640;
  int frame_rate = 25;
  int window_frames = 1;  // of the model's own windows
  int look_ahead_self_max = 0, look_ahead_other_max = 0;  // frames
  uint64_t fingerprint = 0;  // of the weights: tells whose state a snapshot is

  // Frames made at a time by a session of these options.
  int block_frames(const unils_session_options& options) const {
    return options.mode == UNILS_MODE_ROLLING ? options.hop_frames : window_frames;
  }
  static Status from_model(std::shared_ptr<const Model> model, SessionSpec* spec);
  // The options that a session of this model has unless told otherwise.
  static unils_session_options default_options(const Model& model);
};

}  // namespace unils
