// The step engine against a double-precision recomputation, over several wraps of its rings, and what its header
// promises.
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "bundle_writer.h"
#include "check.h"
#include "engine/rope.h"
#include "engine/sampler.h"
#include "engine_driver.h"
#include "reference_model.h"

using namespace unils;

namespace {

std::string bundle_path;  // of tiny_sizes()

StepParams params_of(int look_ahead_self, int look_ahead_other, float temperature, float top_p, float cfg_scale,
                     uint64_t seed) {
  StepParams params;
  params.look_ahead_self = look_ahead_self, params.look_ahead_other = look_ahead_other;
  params.temperature = temperature, params.top_p = top_p, params.cfg_scale = cfg_scale, params.seed = seed;
  return params;
}
const StepParams kGuided = params_of(1, 0, 1.0f, 0.97f, 1.5f, 7);

Rows made_up_motion(int64_t frames, int channels) {
  Rows motion;
  for (int64_t t = 0; t < frames; ++t) {
    const std::vector<float> row = made_up_row(Track::kSelf, 100000 + t, channels);
    motion.emplace_back(row.begin(), row.end());
    for (double& value : motion.back()) value = static_cast<float>(value * 0.1);
  }
  return motion;
}
std::vector<float> flat(const Rows& rows) {
  std::vector<float> values;
  for (const Row& row : rows) {
    for (const double value : row) values.push_back(static_cast<float>(value));
  }
  return values;
}

// Runs `frames` frames and holds logits, bits and motion of each to the reference.
void compare(const BundleWriter& bundle, const StepParams& given, int64_t style_frames, int64_t frames) {
  const ReferenceModel reference(bundle);
  EngineDriver driver(bundle_path);
  const int count = bundle.sizes.levels * bundle.sizes.bits;
  std::vector<float> logits(static_cast<size_t>(count));
  StepParams params = given;
  params.logits = logits.data();

  const Rows style_motion = made_up_motion(style_frames, bundle.sizes.channels);
  if (style_frames > 0) {
    CHECK_OK(driver.engine->set_style(driver.state, *driver.workspace, flat(style_motion).data(), style_frames));
  }
  const Rows style = reference.style_tokens(style_motion);
  ReferenceModel::Heard heard;
  heard.look_ahead[0] = params.look_ahead_self, heard.look_ahead[1] = params.look_ahead_other;
  for (const Track track : kTracks) {
    const int t = static_cast<int>(track);
    Rows log_mel;
    for (int64_t row = 0; row < frames + heard.look_ahead[t]; ++row) {
      const std::vector<float> values = made_up_row(track, row);
      log_mel.emplace_back(values.begin(), values.end());
    }
    heard.rows[t] = reference.encode_audio(log_mel);
  }

  Rows bits;
  std::vector<std::vector<float>> motions;
  for (int64_t frame = 0; frame < frames; ++frame) {
    motions.push_back(driver.step(params));
    bits.push_back(driver.bits());
    // The reference costs a whole run per frame; the wraps are what matters later on.
    if (frame > 30 && frame % 7 != 0) continue;
    const Row expected = reference.logits(bits, style, heard, double{params.cfg_scale});
    for (int i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      CHECK_NEAR(logits[at], expected[at], 2e-5);
      double margin = 0.0;
      const bool bit =
          ReferenceModel::sample(expected[at], double{params.temperature}, double{params.top_p}, params.seed, frame,
                                 i / bundle.sizes.bits, i % bundle.sizes.bits, &margin);
      CHECK(margin < 2e-5 || bit == (bits.back()[at] > 0.0));
    }
  }
  const Rows expected = reference.motion(bits);
  for (size_t t = 0; t < motions.size(); ++t) {
    for (size_t i = 0; i < motions[t].size(); ++i) CHECK_NEAR(motions[t][i], expected[t][i], 2e-5);
  }
}

void test_frames_equal_a_double_precision_recomputation_over_ring_wraps() {
  const BundleWriter bundle;
  at_every_level([&] {
    const int64_t frames =
        3 * 24 + 12;  // the longest ring holds 24 positions (9 rows and 8 of look-ahead, in blocks: 32)
    compare(bundle, params_of(0, 0, 0.0f, 1.0f, 1.0f, 0), 0, frames + 24);
    compare(bundle, params_of(1, 0, 1.0f, 0.97f, 1.5f, 0x123456789abcdef0), 0, frames);
    compare(bundle, params_of(8, 3, 1.0f, 1.0f, 2.5f, 42), 31, frames);
    compare(bundle, params_of(4, 1, 0.7f, 0.8f, 1.0f, 3), 25, 30);
    compare(bundle, params_of(2, 2, 1.3f, 0.9f, 0.0f, 4), 500, 30);
  });
}

void test_a_step_is_a_function_of_its_state_alone() {
  EngineDriver driver(bundle_path);
  for (int i = 0; i < 20; ++i) driver.step(kGuided);
  const std::vector<char> copy = driver.bytes();
  std::vector<std::vector<float>> first;
  for (int i = 0; i < 40; ++i) first.push_back(driver.step(kGuided));

  EngineDriver other(bundle_path);  // another engine, another workspace
  other.load(copy);
  for (int i = 0; i < 40; ++i) CHECK(other.step(kGuided) == first[static_cast<size_t>(i)]);
  CHECK(driver.bytes() == other.bytes());

  CHECK_OK(driver.engine->reset(driver.state));
  EngineDriver fresh(bundle_path);
  CHECK(driver.bytes() == fresh.bytes());
}

// States at different frames with different parameters, that can step together.
class Crowd {
 public:
  explicit Crowd(std::shared_ptr<const Model> model, int count) {
    for (int i = 0; i < count; ++i) {
      params.push_back(params_of(i % 4, i % 3, i % 5 == 0 ? 0.0f : 1.0f, 0.97f, i % 3 == 1 ? 1.0f : 1.5f,
                                 static_cast<uint64_t>(i)));
      members.push_back(std::make_unique<EngineDriver>(model));
      for (int frame = 0; frame < i % 7; ++frame) members.back()->step(params.back());
    }
    CHECK_OK(engine().create_workspace(count, &workspace));
  }
  const StepEngine& engine() const { return *members[0]->engine; }

  // The next frame of each member that is named, in one call.
  std::vector<std::vector<float>> step(const std::vector<size_t>& named) {
    std::vector<std::vector<float>> motions(named.size(),
                                            std::vector<float>(static_cast<size_t>(engine().channels())));
    std::vector<StepRequest> requests(named.size());
    for (size_t i = 0; i < named.size(); ++i) {
      EngineDriver& member = *members[named[i]];
      member.push_needed(params[named[i]]);
      requests[i].state = member.state;
      requests[i].params = &params[named[i]];
      requests[i].motion = motions[i].data();
    }
    engine().step_batch(requests.data(), static_cast<int>(requests.size()), *workspace);
    for (const StepRequest& request : requests) CHECK_OK(request.status);
    return motions;
  }

  std::vector<StepParams> params;
  std::vector<std::unique_ptr<EngineDriver>> members;
  std::unique_ptr<StepWorkspace> workspace;
};

void test_a_frame_does_not_depend_on_who_shares_the_batch() {
  at_every_level([&] {
    for (const int threads : {1, 3}) {
      const std::shared_ptr<const Model> model = EngineDriver::load(bundle_path, threads);
      constexpr size_t kMost = 33;
      Crowd together(model, kMost), alone(model, kMost);
      for (size_t count = 1; count <= kMost; ++count) {
        std::vector<size_t> named;
        for (size_t i = 0; i < count; ++i) named.push_back((count * 5 + i) % kMost);
        const std::vector<std::vector<float>> motions = together.step(named);
        for (size_t i = 0; i < count; ++i) {
          CHECK(alone.members[named[i]]->step(alone.params[named[i]]) == motions[i]);
        }
      }
      for (size_t i = 0; i < kMost; ++i) {
        CHECK(together.members[i]->bytes() == alone.members[i]->bytes());
      }
    }
  });
}

void test_calls_at_once_share_the_threads_of_a_model() {
  const std::shared_ptr<const Model> model = EngineDriver::load(bundle_path, 3);
  constexpr size_t kMembers = 24;
  std::vector<size_t> all(kMembers);
  std::iota(all.begin(), all.end(), size_t{0});
  std::vector<std::vector<float>> last[3];
  std::vector<std::thread> callers;
  for (auto& motions : last) {
    callers.emplace_back([&] {
      Crowd crowd(model, kMembers);
      for (int frame = 0; frame < 20; ++frame) motions = crowd.step(all);
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(!last[0].empty() && last[0] == last[1] && last[0] == last[2]);
}

void test_a_request_that_fails_does_not_touch_the_others() {
  const std::shared_ptr<const Model> model = EngineDriver::load(bundle_path, 1);
  Crowd crowd(model, 3), straight(model, 3);
  const std::vector<std::vector<float>> expected = straight.step({0, 1, 2});
  std::vector<std::vector<float>> motions(3, std::vector<float>(expected[0].size()));
  std::vector<StepRequest> requests(3);
  for (size_t i = 0; i < 3; ++i) {
    if (i != 1) crowd.members[i]->push_needed(crowd.params[i]);
    requests[i].state = crowd.members[i]->state;
    requests[i].params = &crowd.params[i];
    requests[i].motion = motions[i].data();
  }
  const int64_t frame = crowd.members[1]->frame();
  crowd.engine().step_batch(requests.data(), 3, *crowd.workspace);
  CHECK_ERROR(requests[1].status, UNILS_ERROR_STATE, "rows of track self");
  CHECK(crowd.members[1]->frame() == frame);
  CHECK_OK(requests[0].status);
  CHECK_OK(requests[2].status);
  CHECK(motions[0] == expected[0] && motions[2] == expected[2]);
  CHECK(crowd.step({1})[0] == expected[1]);
}

void test_frames_do_not_depend_on_when_rows_were_pushed() {
  EngineDriver late(bundle_path), early(bundle_path);
  const StepParams params = params_of(1, 2, 1.0f, 0.97f, 1.5f, 5);
  for (int i = 0; i < 60; ++i) {
    const std::vector<float> motion = late.step(params);
    // As far ahead as a row may be, and the other track first.
    while (early.rows(Track::kOther) <= early.frame() + 3) CHECK_OK(early.push(Track::kOther));
    while (early.rows(Track::kSelf) <= early.frame() + 8) CHECK_OK(early.push(Track::kSelf));
    CHECK(early.step(params) == motion);
  }
}

void test_a_hop_that_another_backend_left_waiting_is_heard() {
  EngineDriver straight(bundle_path), taken_over(bundle_path);
  const StepParams params = params_of(0, 0, 1.0f, 0.97f, 1.5f, 5);
  std::vector<float> hop(640), motion(55), expected(55);
  for (int frame = 0; frame < 4; ++frame) {
    for (size_t i = 0; i < hop.size(); ++i) hop[i] = 0.3f * std::sin(static_cast<float>(i * (frame + 1)) * 0.05f);
    for (EngineDriver* driver : {&straight, &taken_over}) {
      for (const Track track : kTracks) {
        CHECK_OK(driver->engine->push_hop(driver->state, *driver->workspace, track, hop.data()));
      }
    }
    // As a backend that hears hops leaves them: the hop itself, and its history as it was before.
    auto* counts = static_cast<StepCounts*>(taken_over.state.counts);
    for (const int t : {0, 1}) {
      const size_t floats = round_up(640 * sizeof(float), kCacheLine) / sizeof(float);
      float* waiting = arena_at<float>(taken_over.state.counts, round_up(sizeof(StepCounts), kCacheLine)) +
                       static_cast<size_t>(t) * floats;
      std::copy(hop.begin(), hop.end(), waiting);
      std::fill_n(arena_at<float>(taken_over.state.block, taken_over.layout().history[t]) + frame * 240, 240, 9.0f);
      counts->waiting[t] = 2;
    }
    CHECK_OK(straight.engine->step(straight.state, *straight.workspace, params, expected.data()));
    CHECK_OK(taken_over.engine->step(taken_over.state, *taken_over.workspace, params, motion.data()));
    CHECK(motion == expected);
  }
  // Counts that nobody can have are no reason to read outside.
  EngineDriver forged(bundle_path);
  auto* counts = static_cast<StepCounts*>(forged.state.counts);
  counts->waiting[0] = counts->waiting[1] = 77;
  forged.step(params);
}

void test_rewound_rows_leave_no_trace() {
  // One engine hears rows that are taken back and replaced; the other only hears the right ones.
  EngineDriver rewound(bundle_path), straight(bundle_path);
  const StepParams params = params_of(8, 0, 1.0f, 0.97f, 1.5f, 6);
  for (int i = 0; i < 50; ++i) {
    CHECK(rewound.step(params) == straight.step(params));
    if (i % 5 != 4) continue;
    const int64_t keep = rewound.frame();
    CHECK_OK(rewound.engine->rewind_rows(rewound.state, Track::kSelf, keep));
    CHECK(rewound.rows(Track::kSelf) == keep);
    const std::vector<float> wrong(256, 3.0f);
    for (int j = 0; j < i % 8; ++j) {
      CHECK_OK(rewound.engine->push_row(rewound.state, *rewound.workspace, Track::kSelf, wrong.data()));
    }
    CHECK_OK(rewound.engine->rewind_rows(rewound.state, Track::kSelf, keep));
  }
}

void test_rows_rewind_as_far_as_promised_and_no_further() {
  EngineDriver driver(bundle_path), straight(bundle_path);
  const StepParams params = params_of(8, 0, 0.0f, 1.0f, 1.0f, 0);
  for (int i = 0; i < 40; ++i) driver.step(params), straight.step(params);
  const StepState state = driver.state;
  const int64_t rows = driver.rows(Track::kSelf), far = rows - StepEngine::kMaxRewindRows;
  CHECK_ERROR(driver.engine->rewind_rows(state, Track::kSelf, far - 1), UNILS_ERROR_STATE, "cannot go back to row");
  CHECK_ERROR(driver.engine->rewind_rows(state, Track::kSelf, rows + 1), UNILS_ERROR_STATE, "cannot go back to row");
  CHECK_ERROR(driver.engine->rewind_rows(state, Track::kSelf, -1), UNILS_ERROR_STATE, "cannot go back to row");
  CHECK_OK(driver.engine->rewind_rows(state, Track::kSelf, rows - 3));
  CHECK_ERROR(driver.engine->rewind_rows(state, Track::kSelf, far - 1), UNILS_ERROR_STATE, "cannot go back to row");
  CHECK_OK(driver.engine->rewind_rows(state, Track::kSelf, far));
  CHECK(driver.rows(Track::kSelf) == far);
  for (int i = 0; i < 40; ++i) CHECK(driver.step(params) == straight.step(params));
  CHECK(driver.bytes() == straight.bytes());
}

void test_the_future_is_heard_only_as_far_as_look_ahead_says() {
  const StepParams params = params_of(3, 1, 0.0f, 1.0f, 1.0f, 0);
  std::vector<float> logits[2];
  const int64_t frame = 20;
  for (const Track track : kTracks) {
    const int look_ahead = track == Track::kSelf ? 3 : 1;
    for (int64_t changed = frame - 2; changed <= frame + look_ahead; ++changed) {
      for (int version = 0; version < 2; ++version) {
        EngineDriver driver(bundle_path);
        std::vector<float>& out = logits[version];
        out.assign(21, 0.0f);
        StepParams traced = params;
        traced.logits = out.data();
        for (int64_t t = 0; t <= frame; ++t) {
          for (const Track each : kTracks) {
            const int64_t needed = t + 1 + (each == Track::kSelf ? 3 : 1);
            while (driver.rows(each) < needed) {
              std::vector<float> row = made_up_row(each, driver.rows(each));
              if (each == track && driver.rows(each) == changed && version == 1) row[40] += 5.0f;
              CHECK_OK(driver.engine->push_row(driver.state, *driver.workspace, each, row.data()));
            }
          }
          std::vector<float> before = out;
          driver.step(traced);
          // Up to the frame whose look-ahead reaches the change nothing differs; from there on it does.
          if (version == 1 && t + look_ahead == changed) CHECK(out != before);
        }
      }
      CHECK(logits[0] != logits[1]);
    }
  }
  // A row beyond the look-ahead changes nothing: it is pushed, but not seen.
  EngineDriver with(bundle_path), without(bundle_path);
  const StepParams blind = params_of(0, 0, 1.0f, 1.0f, 1.5f, 1);
  for (int i = 0; i < 30; ++i) {
    while (with.rows(Track::kSelf) <= with.frame()) CHECK_OK(with.push(Track::kSelf));
    const std::vector<float> loud(256, 9.0f);
    CHECK_OK(with.engine->push_row(with.state, *with.workspace, Track::kSelf, loud.data()));
    CHECK(with.step(blind) == without.step(blind));
    CHECK_OK(with.engine->rewind_rows(with.state, Track::kSelf, with.frame()));
  }
}

void test_positions_beyond_32_bits_cost_no_accuracy() {
  const BundleWriter bundle;
  const ReferenceModel reference(bundle);
  const int64_t start = (int64_t{1} << 31) - 20, frames = 60;
  EngineDriver driver(bundle_path);
  auto* header = static_cast<StepCounts*>(driver.state.counts);
  header->frame = start;
  for (int t = 0; t < 2; ++t) header->rows[t] = header->furthest_rows[t] = start;
  header->guided_frames = start;
  std::vector<float> logits(21);
  StepParams params = kGuided;
  params.logits = logits.data();
  // After more frames than the model remembers, nothing of the made-up past is left.
  Rows bits;
  std::vector<Row> traced;
  for (int64_t t = 0; t < frames; ++t) {
    driver.step(params);
    bits.push_back(driver.bits());
    traced.emplace_back(logits.begin(), logits.end());
  }
  ReferenceModel::Heard heard;
  heard.look_ahead[0] = 1, heard.look_ahead[1] = 0;
  for (const Track track : kTracks) {
    Rows log_mel;
    for (int64_t row = 0; row < frames + 1; ++row) {
      const std::vector<float> values = made_up_row(track, start + row);
      log_mel.emplace_back(values.begin(), values.end());
    }
    heard.rows[static_cast<int>(track)] = reference.encode_audio(log_mel);
  }
  const Row expected = reference.logits(bits, reference.style_tokens({}), heard, 1.5, start);
  for (size_t i = 0; i < expected.size(); ++i) CHECK_NEAR(traced.back()[i], expected[i], 2e-5);
}

void test_rope_stays_exact_for_days() {
  const Rope rope(32);
  float cosines[16], sines[16];
  for (const int64_t position : {int64_t{0}, int64_t{1}, int64_t{90000}, int64_t{1} << 31, int64_t{1} << 40}) {
    rope.row(position, cosines, sines);
    for (int i = 0; i < 16; ++i) {
      const long double angle = static_cast<long double>(position) * std::pow(10000.0L, -2.0L * i / 32.0L);
      const double tolerance = 1e-7 + static_cast<double>(position) * 1e-15;
      CHECK_NEAR(cosines[i], static_cast<double>(std::cos(angle)), tolerance);
      CHECK_NEAR(sines[i], static_cast<double>(std::sin(angle)), tolerance);
    }
  }
}

void test_sampling_follows_its_rules() {
  const float logits[] = {5.0f, -5.0f, 0.0f, 0.3f, -0.3f};
  float out[5];
  sample_bits(logits, 5, 0.0f, 1.0f, 1, 0, 0, out);
  CHECK(out[0] == 1 && out[1] == -1 && out[2] == -1 && out[3] == 1 && out[4] == -1);  // 0 is not above 0
  int ones[5] = {};
  for (int64_t frame = 0; frame < 4000; ++frame) {
    sample_bits(logits, 5, 1.0f, 0.97f, 9, frame, 2, out);
    for (int i = 0; i < 5; ++i) ones[i] += out[i] > 0.0f;
  }
  CHECK(ones[0] == 4000 && ones[1] == 0);  // 0.993 is above top-p
  CHECK_NEAR(ones[2] / 4000.0, 0.5, 0.03);
  CHECK_NEAR(ones[3] / 4000.0, 1 / (1 + std::exp(-0.3)), 0.03);
  CHECK_NEAR(ones[4] / 4000.0, 1 / (1 + std::exp(0.3)), 0.03);
  float first[5], again[5];
  sample_bits(logits, 5, 1.0f, 1.0f, 9, 123456789012, 1, first);
  sample_bits(logits, 5, 1.0f, 1.0f, 9, 123456789012, 1, again);
  CHECK(std::memcmp(first, again, sizeof first) == 0);
}

void test_what_cannot_be_done_is_a_status() {
  EngineDriver driver(bundle_path);
  const StepEngine& engine = *driver.engine;
  const StepState state = driver.state;
  StepWorkspace& workspace = *driver.workspace;
  std::vector<float> motion(static_cast<size_t>(engine.channels()));
  const auto step = [&](const StepParams& params) { return engine.step(state, workspace, params, motion.data()); };

  CHECK_ERROR(step(kGuided), UNILS_ERROR_STATE, "frame 0 needs 2 rows of track self; 0 were pushed");
  CHECK_OK(driver.push(Track::kSelf));
  CHECK_OK(driver.push(Track::kSelf));
  CHECK_ERROR(step(kGuided), UNILS_ERROR_STATE, "frame 0 needs 1 rows of track other");
  CHECK_OK(driver.push(Track::kOther));
  for (int i = 0; i < 3; ++i) CHECK_OK(driver.push(Track::kOther));
  CHECK_ERROR(driver.push(Track::kOther), UNILS_ERROR_STATE, "further ahead of frame 0 than any look-ahead");

  std::vector<float> row(256, 0.0f);
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    row[255] = value;
    CHECK_ERROR(engine.push_row(state, workspace, Track::kSelf, row.data()), UNILS_ERROR_NOT_FINITE, "not finite");
  }
  CHECK(driver.rows(Track::kSelf) == 2);

  CHECK_ERROR(step(params_of(9, 0, 1, 1, 1, 0)), UNILS_ERROR_INVALID_ARGUMENT, "look-ahead of track self is 9 frames");
  CHECK_ERROR(step(params_of(0, 4, 1, 1, 1, 0)), UNILS_ERROR_INVALID_ARGUMENT, "look-ahead of track other is 4 frames");
  CHECK_ERROR(step(params_of(-1, 0, 1, 1, 1, 0)), UNILS_ERROR_INVALID_ARGUMENT, "look-ahead of track self is -1");
  for (const float value : {-0.1f, NAN, INFINITY}) {
    CHECK_ERROR(step(params_of(0, 0, value, 1, 1, 0)), UNILS_ERROR_INVALID_ARGUMENT, "temperature");
    CHECK_ERROR(step(params_of(0, 0, 1, 1, value, 0)), UNILS_ERROR_INVALID_ARGUMENT, "cfg_scale");
  }
  for (const float value : {0.0f, -1.0f, 1.1f, NAN}) {
    CHECK_ERROR(step(params_of(0, 0, 1, value, 1, 0)), UNILS_ERROR_INVALID_ARGUMENT, "top_p");
  }
  CHECK(driver.frame() == 0);

  const Rows clip = made_up_motion(501, engine.channels());
  std::vector<float> values = flat(clip);
  for (const int64_t frames : {int64_t{0}, int64_t{1}, int64_t{24}, int64_t{501}, int64_t{-1}, int64_t{1} << 60}) {
    CHECK_ERROR(engine.set_style(state, workspace, values.data(), frames), UNILS_ERROR_INVALID_ARGUMENT,
                "give 25 to 500");
  }
  CHECK_ERROR(engine.set_style(state, workspace, nullptr, 30), UNILS_ERROR_INVALID_ARGUMENT, "style");
  values[77] = NAN;
  CHECK_ERROR(engine.set_style(state, workspace, values.data(), 30), UNILS_ERROR_INVALID_ARGUMENT, "not finite");
  CHECK_OK(engine.set_style(state, workspace, values.data() + 2 * 55, 30));

  CHECK_OK(step(kGuided));
  CHECK_ERROR(engine.set_style(state, workspace, values.data() + 2 * 55, 30), UNILS_ERROR_STATE,
              "before the first frame");
  CHECK_OK(driver.push(Track::kSelf));
  CHECK_ERROR(step(params_of(1, 0, 1, 1, 1, 0)), UNILS_ERROR_STATE, "switched off");
  CHECK_OK(engine.reset(state));
  StepParams unguided = kGuided;
  unguided.cfg_scale = 1.0f;
  driver.step(unguided);
  CHECK_OK(driver.push(Track::kSelf));
  CHECK_OK(driver.push(Track::kOther));
  CHECK_ERROR(step(kGuided), UNILS_ERROR_STATE, "switched on");
}

void test_taking_a_style_back_leaves_no_trace() {
  EngineDriver driver(bundle_path), fresh(bundle_path);
  const std::vector<float> clip = flat(made_up_motion(100, driver.engine->channels()));
  CHECK_OK(driver.engine->set_style(driver.state, *driver.workspace, clip.data(), 100));
  CHECK(driver.bytes() != fresh.bytes());
  CHECK_OK(driver.engine->reset(driver.state));
  CHECK(driver.bytes() == fresh.bytes());
}

void test_weights_that_overflow_are_a_status(const TemporaryFolder& folder) {
  BundleWriter bundle;
  for (const char* name : {"codec.decoder.output.weight", "codec.motion_std"}) {
    for (float& value : bundle.tensor(name).values) value = 1e38f;
  }
  bundle.write(folder / "overflow");
  EngineDriver driver(folder / "overflow");
  CHECK_OK(driver.push(Track::kSelf));
  CHECK_OK(driver.push(Track::kOther));
  std::vector<float> motion(static_cast<size_t>(driver.engine->channels()));
  StepParams params;
  CHECK_ERROR(driver.engine->step(driver.state, *driver.workspace, params, motion.data()),
              UNILS_ERROR_BUNDLE, "frame 0 is not finite");
}

void test_a_window_of_one_frame_works(const TemporaryFolder& folder) {
  unils_stream_sizes sizes = tiny_sizes();
  sizes.window_frames = sizes.audio_window_frames = sizes.style_tokens = 1;
  sizes.audio_kernel = sizes.codec_kernel = sizes.levels = 1;
  sizes.look_ahead_self_max = 1, sizes.look_ahead_other_max = 0;
  const BundleWriter bundle(sizes, 5);
  const std::string before = bundle_path;
  bundle_path = folder / "narrow";
  bundle.write(bundle_path);
  at_every_level([&] { compare(bundle, kGuided, 25, 40); });
  bundle_path = before;
}

}  // namespace

int main() {
  const TemporaryFolder folder("unils_test_engine");
  bundle_path = folder / "tiny";
  BundleWriter().write(bundle_path);
  test_frames_equal_a_double_precision_recomputation_over_ring_wraps();
  test_a_step_is_a_function_of_its_state_alone();
  test_a_frame_does_not_depend_on_who_shares_the_batch();
  test_calls_at_once_share_the_threads_of_a_model();
  test_a_request_that_fails_does_not_touch_the_others();
  test_frames_do_not_depend_on_when_rows_were_pushed();
  test_a_hop_that_another_backend_left_waiting_is_heard();
  test_rewound_rows_leave_no_trace();
  test_rows_rewind_as_far_as_promised_and_no_further();
  test_the_future_is_heard_only_as_far_as_look_ahead_says();
  test_positions_beyond_32_bits_cost_no_accuracy();
  test_rope_stays_exact_for_days();
  test_sampling_follows_its_rules();
  test_what_cannot_be_done_is_a_status();
  test_taking_a_style_back_leaves_no_trace();
  test_weights_that_overflow_are_a_status(folder);
  test_a_window_of_one_frame_works(folder);
  return check::result();
}
