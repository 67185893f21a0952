// SessionSpec: what a session needs to know of the model it is made from.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "engine/step_engine.h"
#include "engine/window_engine.h"
#include "features/log_mel.h"

namespace unils {

struct SessionSpec {
  // One of the two; it keeps the model alive.
  std::unique_ptr<StepEngine> engine;           // family "stream"
  std::unique_ptr<WindowEngine> window_engine;  // family "published"
  std::string rig;
  std::vector<std::string> channels;  // (D)
  LogMelConfig features;  // family "stream"
  int hop_samples = 640;
  int frame_rate = 25;
  int window_frames = 1;  // made at a time
  int look_ahead_self_max = 0, look_ahead_other_max = 0;  // frames
  uint64_t fingerprint = 0;  // of the weights: tells whose state a snapshot is

  static Status from_model(std::shared_ptr<const Model> model, SessionSpec* spec);
  // The options that a session of this model has unless told otherwise.
  static unils_session_options default_options(const Model& model);
};

}  // namespace unils
