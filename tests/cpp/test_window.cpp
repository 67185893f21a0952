// Family "published": quantisation over several scales, the window engine over a fake graph runner, and sessions of it.
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "conversation.h"
#include "engine/multi_scale.h"
#include "engine/waveform.h"
#include "model/model.h"
#include "published_bundle.h"
#include "session/session.h"

namespace {

using namespace unils;

constexpr int kChannels = 55;
constexpr int64_t kWindow = 12, kWindowSamples = 640 * kWindow;

// Reference values: torch.nn.functional.interpolate, modes "area" and "linear" (align_corners=False).
const std::vector<float> kLatent = {0.75f, 0.25f, 0.0f,  -0.5f, 0.0f,   -1.25f, 0.25f,
                                    1.0f,  -1.5f, 1.0f,  0.5f,  1.25f, -0.75f, 0.25f};

void check_near(const std::vector<float>& found, const std::vector<float>& wanted, double tolerance = 1e-6) {
  if (!CHECK(found.size() == wanted.size())) return;
  for (size_t i = 0; i < wanted.size(); ++i) CHECK_NEAR(found[i], wanted[i], tolerance);
}

void test_frames_are_averaged_over_the_spans_of_a_scale() {
  const MultiScale scales(7, {1, 2, 3, 5, 7}, 2);
  CHECK(scales.levels() == 5 && scales.all_tokens() == 18 && scales.begin(3) == 6);
  const auto down = [&](int level) {
    std::vector<float> tokens(static_cast<size_t>(2 * scales.tokens(level)));
    scales.down(kLatent.data(), level, tokens.data());
    return tokens;
  };
  check_near(down(0), {-0.10714286f, 0.2857143f});
  check_near(down(1), {0.25f, -0.125f, -0.375f, 0.875f});
  check_near(down(2), {0.25f, -0.5f, -0.41666666f, 0.25f, -0.5833333f, 0.8333333f});
  check_near(down(3), {0.375f, -0.125f, 0.0f, -0.875f, -0.41666666f, 0.25f, -0.5f, 1.125f, -0.125f, 0.75f});
  check_near(down(4), kLatent, 0.0);
}

void test_codes_are_interpolated_between_the_centres_of_their_tokens() {
  const MultiScale scales(7, {3, 7}, 2);
  const std::vector<float> bits = {1, -1, -1, 1, 1, 1};
  std::vector<float> latent(14, 0.0f);
  scales.add(bits.data(), 0, latent.data());
  const std::vector<float> wanted = {0.70710677f,  -0.70710677f, 0.5050763f,   -0.5050763f, -0.10101529f,
                                     0.10101529f,  -0.70710677f, 0.70710677f,  -0.1010152f, 0.70710677f,
                                     0.50507635f,  0.70710677f,  0.70710677f,  0.70710677f};
  check_near(latent, wanted);
  scales.add(bits.data(), 0, latent.data());  // it adds
  CHECK_NEAR(latent[2], 2 * 0.5050763, 1e-6);
}

void test_motion_is_quantised_scale_by_scale() {
  const MultiScale scales(7, {2, 3, 7}, 2);
  std::vector<float> z = kLatent, bits(24), latent(14), scratch(14);
  scales.quantise(z.data(), bits.data(), latent.data(), scratch.data());
  CHECK((bits == std::vector<float>{1, -1, -1, 1, -1, 1, -1, 1, 1, 1, 1, 1, -1, -1, 1, -1, 1, 1, -1, -1, 1, -1, -1, -1}));
  check_near(latent, {0.70710677f, 0.70710677f, -0.70710677f, -0.70710677f, 0.40406096f, -0.40406096f, 0.0f, 1.4142137f,
                      -1.212183f, 0.40406102f, 0.50507635f, 0.70710677f, -0.70710677f, 0.70710677f});
  for (size_t i = 0; i < z.size(); ++i) CHECK_NEAR(z[i], kLatent[i] - latent[i], 1e-6);  // what is left over
}

void test_a_value_of_zero_is_a_negative_bit() {
  const MultiScale scales(2, {2}, 3);
  std::vector<float> z = {0.0f, -0.0f, 1e-30f, 0.0f, 0.0f, 0.0f}, bits(6), latent(6), scratch(6);
  scales.quantise(z.data(), bits.data(), latent.data(), scratch.data());
  CHECK((bits == std::vector<float>{-1, -1, 1, -1, -1, -1}));
  CHECK_NEAR(latent[2], 1.0 / std::sqrt(3.0), 1e-7);
}

void test_a_window_in_which_nobody_speaks_is_silence() {
  constexpr float kFloor = 0.00316227766f;  // -50 dBFS
  // A square wave, but for one stretch of 20 ms that is louder.
  const auto window = [](float quiet, float loud, size_t begin, float offset) {
    Samples samples(2560);
    for (size_t i = 0; i < samples.size(); ++i) {
      const float size = i >= begin && i < begin + 320 ? loud : quiet;
      samples[i] = offset + (i % 2 == 0 ? size : -size);
    }
    return samples;
  };
  Samples out(2560, 7.0f);
  const auto speaks = [&out](const Samples& samples) { return normalise_waveform(samples.data(), 2560, out.data()); };
  CHECK(!speaks(window(0.99f * kFloor, 0.99f * kFloor, 0, 0.0f)) && out == Samples(2560, 7.0f));
  CHECK(!speaks(window(0.1f * kFloor, 0.99f * kFloor, 640, 0.5f)));  // an offset is no sound
  CHECK(!speaks(window(0.0f, 0.0f, 0, 0.5f)));
  // Stretches are counted from the window's start: half of one in each of two is not enough.
  CHECK(!speaks(window(0.1f * kFloor, 1.2f * kFloor, 800, 0.0f)));
  // What is not as loud on the whole is not raised to it.
  CHECK(speaks(window(0.1f * kFloor, 1.01f * kFloor, 640, 0.0f)));
  CHECK_NEAR(out[640], 1.01, 1e-3);
  CHECK_NEAR(out[0], 0.1, 1e-3);
  const Samples voice = speech_like(2560, 9);
  CHECK(speaks(voice));
  double sum = 0.0, squares = 0.0;
  for (const float value : out) sum += value, squares += value * value;
  CHECK_NEAR(sum, 0.0, 1e-3);
  CHECK_NEAR(squares / 2559.0, 1.0, 1e-3);
}

std::shared_ptr<const Model> load(const std::string& folder, FakeRunner& runner) {
  std::shared_ptr<const Model> model;
  CHECK_OK(Model::load(folder.c_str(), nullptr, 3, &model, &runner.table));
  return model;
}

void test_a_model_says_what_it_is_and_gives_its_graphs_back(const std::string& folder) {
  FakeRunner runner;
  {
    const std::shared_ptr<const Model> model = load(folder, runner);
    CHECK(runner.loads == 1 && runner.threads == 3 && runner.unloads == 0);
    CHECK(std::string(model->backend_name()) == "fake" && model->backend_detail() == "on the moon");
    CHECK(model->parameters() == 123 && model->weight_bytes() > 0 && model->fingerprint() != 0);
  }
  CHECK(runner.unloads == 1 && runner.shapes_fit);
}

void test_a_model_that_cannot_have_its_graphs_is_refused(const std::string& folder) {
  std::shared_ptr<const Model> model;
  const auto refused = [&](const char* backend, const unils_graph_runner* runner) {
    return Model::load(folder.c_str(), backend, 1, &model, runner);
  };
  FakeRunner runner;
  CHECK_ERROR(refused(nullptr, nullptr), UNILS_ERROR_BACKEND, "needs a graph runner");
  CHECK_ERROR(refused("cpu", &runner.table), UNILS_ERROR_BACKEND, "runs on fake, not on cpu");
  CHECK_OK(refused("fake", &runner.table));
  runner.fail_at = "load";
  CHECK_ERROR(refused("auto", &runner.table), UNILS_ERROR_BACKEND, "there is no accelerator");
  runner.fail_at.clear();
  unils_graph_runner half = runner.table;
  half.run = nullptr;
  CHECK_ERROR(refused("auto", &half), UNILS_ERROR_INVALID_ARGUMENT, "not complete");
  half = runner.table;
  half.struct_size = 8;
  CHECK_ERROR(refused("auto", &half), UNILS_ERROR_INVALID_ARGUMENT, "struct_size");
}

void test_a_description_that_cannot_be_is_refused(const TemporaryFolder& folder) {
  const PublishedBundle bundle;
  FakeRunner runner;
  struct Case {
    const char *from, *to, *wanted;
  };
  for (const Case& each : {
           Case{"\"window_frames\":12", "\"window_frames\":401", "window_frames"},
           {"\"scales\":[1,5,12]", "\"scales\":[1,5,11]", "codec.scales"},
           {"\"scales\":[1,5,12]", "\"scales\":[5,5,12]", "codec.scales"},
           {"\"heads\":3", "\"heads\":9999999", "generator.heads"},
           {"\"heads\":3", "\"heads\":18", "even width"},
           {"\"rows\":7", "\"rows\":0", "audio_encoder.rows"},
           {"\"separate\"", "\"other\"", "generator.cross_attention"},
           {"\"parameters\":123", "\"parameters\":-1", "parameters"},
           {"\"file\":\"step.onnx\"", "\"file\":\"/etc/passwd\"", "graphs.step.file"},
           {"\"file\":\"step.onnx\"", "\"file\":\"prefill.onnx\"", "prefill.onnx is not the file"},
           {"\"codec_decode\":{", "\"codec_decoder\":{", "graphs.codec_decode"},
           {"\"scales\":[1,5,12]", "\"scales\":[1,12]", "generator.positions has the shape (18)"},
       }) {
    bundle.write(folder / "bad", [&](std::string* json) { replace(json, each.from, each.to); });
    std::shared_ptr<const Model> model;
    CHECK_ERROR(Model::load((folder / "bad").c_str(), nullptr, 1, &model, &runner.table), UNILS_ERROR_BUNDLE,
                each.wanted);
  }
  CHECK(runner.loads == 0);
}

std::unique_ptr<Session> session_of(const std::shared_ptr<const Model>& model,
                                    const std::function<void(unils_session_options*)>& change = {}) {
  unils_session_options options = SessionSpec::default_options(*model);
  if (change) change(&options);
  SessionSpec spec;
  CHECK_OK(SessionSpec::from_model(model, &spec));
  std::unique_ptr<Session> session;
  CHECK_OK(Session::create(std::move(spec), options, &session));
  return session;
}

// Options of a session, and what they mean.
struct Manner {
  int hop;  // 0: the model's own windows
  int look_ahead_self, look_ahead_other;
  int faces;

  void operator()(unils_session_options* options) const {
    options->mode = hop == 0 ? UNILS_MODE_WINDOWED : UNILS_MODE_ROLLING;
    if (hop != 0) options->hop_frames = hop;
    options->look_ahead_self = look_ahead_self;
    options->look_ahead_other = look_ahead_other;
    options->faces = faces;
  }
  int64_t block() const { return hop == 0 ? kWindow : hop; }
  int64_t look_ahead() const { return std::max(look_ahead_self, look_ahead_other); }
  int values() const { return faces * kChannels; }
};
const std::vector<Manner> kManners = {{0, 0, 0, 1}, {0, 0, 0, 2}, {1, 0, 0, 1},  {5, 0, 0, 1},
                                      {5, 2, 0, 2}, {3, 1, 4, 1}, {12, 0, 0, 1}, {6, 6, 0, 1}};

void test_frames_do_not_depend_on_how_audio_was_cut(const std::string& folder, const Manner& manner) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples self = speech_like(50000, 1), other = speech_like(41000, 2);
  const int values = manner.values();
  const Frames whole = converse(*session_of(model, manner), values, self, 16000, other, 16000);
  CHECK(whole.count() == (50000 + 639) / 640 && runner.shapes_fit && runner.rows == 2 * manner.faces);
  for (const int64_t step : {1, 639, 7000}) {
    const std::unique_ptr<Session> session = session_of(model, manner);
    Frames frames;
    for (int64_t at = 0; at < 50000; at += step * 11) {
      for (int64_t i = at; i < std::min<int64_t>(at + step * 11, 50000); i += step) {
        const int64_t end = std::min<int64_t>(i + step, 50000);
        push(*session, UNILS_TRACK_SELF, self, i, end - i);
        if (i < 41000) push(*session, UNILS_TRACK_OTHER, other, i, std::min<int64_t>(end, 41000) - i);
      }
      pull(*session, &frames, values, 5);
    }
    CHECK_OK(session->finish());
    while (pull(*session, &frames, values, 5) > 0) {
    }
    CHECK(frames == whole);
  }
  // Both tracks and the seed are heard.
  CHECK(!(converse(*session_of(model, manner), values, other, 16000, other, 16000) == whole));
  const auto seeded = [&manner](unils_session_options* options) {
    manner(options);
    options->seed = 7;
  };
  CHECK(!(converse(*session_of(model, seeded), values, self, 16000, other, 16000) == whole));
}

// One sample that is not silence tells, block by block, what was heard of the audio and where.
void test_a_sample_is_heard_in_its_place_and_as_soon_as_it_may(const std::string& folder, const Manner& manner,
                                                               unils_track track) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  constexpr int64_t kFrames = 41, kAt = 640 * 17 + 123;
  const Samples silence(640 * kFrames, 0.0f);
  Samples click = silence;
  click[kAt] = 0.8f;
  const int64_t h = manner.block(), ahead = manner.look_ahead();
  const int64_t own = track == UNILS_TRACK_SELF ? manner.look_ahead_self : manner.look_ahead_other;
  const auto roll = [&](const Samples& audio, bool clicks) {
    const std::unique_ptr<Session> session = session_of(model, manner);
    Frames frames;
    for (int64_t hop = 0; hop < kFrames; ++hop) {
      push(*session, track, audio, 640 * hop, 640);
      push(*session, track == UNILS_TRACK_SELF ? UNILS_TRACK_OTHER : UNILS_TRACK_SELF, silence, 640 * hop, 640);
      const int64_t before = runner.encodings, first = frames.count();
      // A block is there when its last hop and the look-ahead are, and not a hop before.
      const int64_t made = pull(*session, &frames, manner.values());
      CHECK(made == ((hop + 1 - ahead) % h == 0 && hop + 1 > ahead ? h : 0));
      if (made == 0) continue;
      const int64_t begin = 640 * std::max<int64_t>(0, first + h + ahead - kWindow), end = 640 * (first + h + own);
      const bool heard = clicks && kAt >= begin && kAt < end;
      CHECK(runner.encodings - before == (heard ? 1 : 0));  // silence costs nothing
      if (!heard) continue;
      CHECK(runner.tracks == 1);
      const auto loudest = std::max_element(runner.waveforms.begin(), runner.waveforms.begin() + kWindowSamples);
      CHECK(loudest - runner.waveforms.begin() == kAt - begin);
    }
    return frames;
  };
  const Frames quiet = roll(silence, false), clicked = roll(click, true);
  const int64_t first = kAt / 640 - own < h ? 0 : (kAt / 640 - own) / h * h;  // of the first block that hears it
  if (!CHECK(quiet.count() == clicked.count() && quiet.count() > first)) return;
  const auto at = [&manner](const Frames& frames, int64_t frame) {
    return frames.values.begin() + static_cast<std::ptrdiff_t>(frame * manner.values());
  };
  CHECK(std::equal(at(quiet, 0), at(quiet, first), at(clicked, 0)));
  CHECK(!std::equal(at(quiet, first), at(quiet, first + 1), at(clicked, first)));
}

void test_two_faces_are_two_sessions_with_the_tracks_swapped(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples self = speech_like(40000, 1), other = speech_like(39800, 2);
  std::vector<float> clips[2] = {std::vector<float>(30 * kChannels, 0.4f), std::vector<float>(30 * kChannels, 0.7f)};
  for (const Manner& manner : {Manner{0, 0, 0, 2}, {4, 0, 0, 2}}) {
    for (const float scale : {1.0f, 1.5f}) {
      // styles: of the first face, the second, or both
      for (const int styles : {0, 1, 2, 3}) {
        const auto options = [&](int faces, uint64_t seed, const float* style, const float* style_other) {
          return [=](unils_session_options* options) {
            manner(options);
            options->faces = faces;
            options->cfg_scale = scale;
            options->seed = seed;
            options->style = style;
            options->style_other = style_other;
            options->style_frames = style != nullptr || style_other != nullptr ? 30 : 0;
          };
        };
        const float* own = (styles & 1) != 0 ? clips[0].data() : nullptr;
        const float* others = (styles & 2) != 0 ? clips[1].data() : nullptr;
        const uint64_t last = ~uint64_t{0};
        const Frames both = converse(*session_of(model, options(2, last, own, others)), 2 * kChannels, self, 16000,
                                     other, 16000);
        CHECK(runner.rows == (scale > 1.0f ? 4 : 2) && runner.tracks == 2 && runner.shapes_fit);
        const Frames first = converse(*session_of(model, options(1, last, own, nullptr)), kChannels, self, 16000,
                                      other, 16000);
        const Frames second = converse(*session_of(model, options(1, 0, others, nullptr)), kChannels, other, 16000,
                                       self, 16000);
        CHECK(both.index == first.index && !(first == second));
        for (int64_t frame = 0; frame < both.count(); ++frame) {
          for (int channel = 0; channel < kChannels; ++channel) {
            CHECK(both.values[static_cast<size_t>((2 * frame) * kChannels + channel)] == first.at(frame, channel));
            CHECK(both.values[static_cast<size_t>((2 * frame + 1) * kChannels + channel)] == second.at(frame, channel));
          }
        }
      }
    }
  }
}

void test_options_that_cannot_be_are_refused(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const std::vector<float> clip(30 * kChannels, 0.1f);
  const auto refused = [&](const std::function<void(unils_session_options*)>& change) {
    unils_session_options options = SessionSpec::default_options(*model);
    CHECK(options.mode == UNILS_MODE_WINDOWED && options.hop_frames == 5 && options.faces == 1);
    change(&options);
    SessionSpec spec;
    CHECK_OK(SessionSpec::from_model(model, &spec));
    CHECK(spec.look_ahead_self_max == kWindow / 2 && spec.look_ahead_other_max == kWindow / 2);
    std::unique_ptr<Session> session;
    return Session::create(std::move(spec), options, &session);
  };
  using Options = unils_session_options;
  const auto rolling = [&](int hop, int self, int other) {
    return refused([=](Options* options) { Manner{hop, self, other, 1}(options); });
  };
  CHECK_ERROR(refused([](Options* options) { options->mode = static_cast<unils_mode>(2); }), UNILS_ERROR_INVALID_ARGUMENT,
              "mode must be");
  CHECK_ERROR(refused([](Options* options) { options->faces = 3; }), UNILS_ERROR_INVALID_ARGUMENT, "faces is 3");
  CHECK_ERROR(refused([](Options* options) { options->look_ahead_self = 1; }), UNILS_ERROR_INVALID_ARGUMENT,
              "0 unless the mode is rolling");
  CHECK_ERROR(rolling(-1, 0, 0), UNILS_ERROR_INVALID_ARGUMENT, "hop_frames is -1; it is 1 to 12");
  CHECK_ERROR(rolling(13, 0, 0), UNILS_ERROR_INVALID_ARGUMENT, "hop_frames is 13 and the look-ahead 0 frames");
  CHECK_ERROR(rolling(7, 0, 6), UNILS_ERROR_INVALID_ARGUMENT, "hop_frames is 7 and the look-ahead 6 frames");
  CHECK_OK(rolling(6, 6, 3));
  CHECK_ERROR(rolling(1, 7, 0), UNILS_ERROR_INVALID_ARGUMENT, "look_ahead_self is 7 frames; this model takes 0 to 6");
  CHECK_ERROR(refused([&](Options* options) {
    options->style_other = clip.data();
    options->style_frames = 30;
  }), UNILS_ERROR_INVALID_ARGUMENT, "faces is 1");
  CHECK_ERROR(refused([&](Options* options) {
    options->style_other = clip.data();
    options->faces = 2;
  }), UNILS_ERROR_INVALID_ARGUMENT, "go together");
}

// An hour, at a hop of 25 frames.
void test_an_hour_of_rolling_counts_right_and_holds_its_size(const TemporaryFolder& folder) {
  PublishedConfig sizes = tiny_published();
  sizes.window_frames = 36, sizes.scales = {1, 36};
  PublishedBundle(sizes).write(folder / "hour");
  FakeRunner runner(sizes);
  runner.cheap = true;
  const std::unique_ptr<Session> session = session_of(load(folder / "hour", runner), Manner{25, 0, 0, 1});
  const Samples hum = speech_like(640 * 25, 1);
  unils_stats before = {}, after = {};
  CHECK_OK(session->get_stats(&before));
  int64_t next = 0;
  for (int block = 0; block < 90000 / 25; ++block) {
    push(*session, UNILS_TRACK_SELF, hum);
    push(*session, UNILS_TRACK_OTHER, hum);
    Frames frames;
    if (!CHECK(pull(*session, &frames, kChannels, 25) == 25)) return;
    for (size_t i = 0; i < 25; ++i, ++next) {
      if (!CHECK(frames.index[i] == next && frames.pts_seconds[i] == static_cast<double>(next) / 25.0)) return;
    }
  }
  CHECK_OK(session->get_stats(&after));
  CHECK(next == 90000 && after.frames == 90000 && after.session_bytes == before.session_bytes);
  CHECK(after.skew_samples == 0 && runner.shapes_fit && runner.encodings == 90000 / 25);
}

void test_keys_and_values_stay_in_memory_of_the_runner(const std::string& folder, const Manner& manner) {
  const Samples voice = speech_like(3 * kWindowSamples, 5);
  const auto frames_of = [&](FakeRunner& runner) {
    return converse(*session_of(load(folder, runner), manner), manner.values(), voice, 16000, voice, 16000);
  };
  FakeRunner host, card;
  card.keep_memory();
  CHECK(frames_of(host) == frames_of(card) && card.shapes_fit);
  CHECK(card.memory.empty() && card.unloads == 1);

  const std::shared_ptr<const Model> model = load(folder, card);
  std::unique_ptr<Session> session = session_of(model, manner);
  unils_stats stats = {};
  CHECK_OK(session->get_stats(&stats));
  size_t bytes = 0;
  for (const auto& [address, size] : card.memory) bytes += size;
  CHECK(card.memory.size() == 2 && bytes > 0 && stats.session_bytes > bytes);
  const std::unique_ptr<Session> beside = session_of(model, manner);
  CHECK(card.memory.size() == 4);
  session.reset();
  CHECK(card.memory.size() == 2);
}

void test_a_runner_without_memory_for_a_session_says_so(const std::string& folder) {
  FakeRunner runner;
  runner.keep_memory();
  const std::shared_ptr<const Model> model = load(folder, runner);
  SessionSpec spec;
  CHECK_OK(SessionSpec::from_model(model, &spec));
  runner.fail_at = "allocate";
  std::unique_ptr<Session> session;
  CHECK_ERROR(Session::create(std::move(spec), SessionSpec::default_options(*model), &session),
              UNILS_ERROR_OUT_OF_MEMORY, "no memory for a session: the card is full");
  std::shared_ptr<const Model> another;
  unils_graph_runner half = runner.table;
  half.release = nullptr;
  CHECK_ERROR(Model::load(folder.c_str(), nullptr, 1, &another, &half), UNILS_ERROR_INVALID_ARGUMENT,
              "allocate and release go together");
}

void test_guidance_is_a_second_row_only_above_one(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples voice = speech_like(kWindowSamples, 3);
  for (const float scale : {0.0f, 1.0f, 1.5f}) {
    const auto guided = [scale](unils_session_options* options) { options->cfg_scale = scale; };
    const Frames frames = converse(*session_of(model, guided), kChannels, voice, 16000, voice, 16000);
    CHECK(frames.count() == kWindow && runner.rows == (scale > 1.0f ? 2 : 1));
  }
}

void test_a_block_that_fails_is_made_again(const std::string& folder, const Manner& manner) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples voice = speech_like(3 * kWindowSamples, 4);
  const Frames whole = converse(*session_of(model, manner), manner.values(), voice, 16000, voice, 16000);
  for (const char* graph : PublishedConfig::kGraphs) {
    const std::unique_ptr<Session> session = session_of(model, manner);
    push(*session, UNILS_TRACK_SELF, voice);
    push(*session, UNILS_TRACK_OTHER, voice);
    Frames frames;
    const int64_t first = (kWindow + manner.block()) / manner.block() * manner.block();
    CHECK(pull(*session, &frames, manner.values(), first) == first);
    runner.fail_at = graph;
    std::vector<float> values(static_cast<size_t>(kWindow * manner.values()));
    int64_t count = 0;
    CHECK_ERROR(session->pull_frames({values.data(), nullptr, nullptr, nullptr}, kWindow, &count), UNILS_ERROR_BACKEND,
                "graph " + std::string(graph) + " failed: told to fail");
    runner.fail_at.clear();
    CHECK_OK(session->finish());
    while (pull(*session, &frames, manner.values()) > 0) {
    }
    CHECK(frames == whole);
  }
}

void test_style_is_a_clip_of_one_window(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples voice = speech_like(kWindowSamples, 5);
  std::vector<float> clip(30 * kChannels);
  for (size_t i = 0; i < clip.size(); ++i) clip[i] = 0.3f + 0.2f * std::sin(static_cast<float>(i));
  const auto styled = [&](int64_t frames) {
    return [&clip, frames](unils_session_options* options) {
      options->style = clip.data();
      options->style_frames = frames;
    };
  };
  const std::unique_ptr<Session> session = session_of(model, styled(30));
  const Frames first = converse(*session, kChannels, voice, 16000, voice, 16000);
  CHECK(!(first == converse(*session_of(model), kChannels, voice, 16000, voice, 16000)));
  // Of a longer clip the first window counts.
  CHECK(first == converse(*session_of(model, styled(25)), kChannels, voice, 16000, voice, 16000));
  CHECK_OK(session->reset());
  CHECK(first == converse(*session, kChannels, voice, 16000, voice, 16000));
}

void test_a_snapshot_is_of_any_moment(const std::string& folder, const Manner& manner) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples voice = speech_like(3 * kWindowSamples, 6);
  const std::unique_ptr<Session> session = session_of(model, manner);
  push(*session, UNILS_TRACK_SELF, voice, 0, kWindowSamples + 900);
  push(*session, UNILS_TRACK_OTHER, voice, 0, kWindowSamples + 77);
  Frames begun;
  pull(*session, &begun, manner.values(), 5);
  std::vector<char> state(session->snapshot_bytes());
  CHECK_OK(session->snapshot(state.data(), state.size()));
  const auto rest = [&](Session& of) {
    push(of, UNILS_TRACK_SELF, voice, kWindowSamples + 900, 2 * kWindowSamples - 900);
    push(of, UNILS_TRACK_OTHER, voice, kWindowSamples + 77, 2 * kWindowSamples - 77);
    Frames frames;
    CHECK_OK(of.finish());
    while (pull(of, &frames, manner.values()) > 0) {
    }
    return frames;
  };
  const Frames wanted = rest(*session);
  CHECK(wanted.count() == 3 * kWindow - 5);
  const std::unique_ptr<Session> again = session_of(model, manner);
  CHECK_OK(again->restore(state.data(), state.size()));
  CHECK(rest(*again) == wanted);
  CHECK_OK(again->reset());
  CHECK(converse(*again, manner.values(), voice, 16000, voice, 16000) ==
        converse(*session_of(model, manner), manner.values(), voice, 16000, voice, 16000));
  // A session of another mode or hop, or with another number of faces, has other options.
  const auto different = [&manner](unils_session_options* options) {
    manner(options);
    options->mode = UNILS_MODE_ROLLING;
    options->hop_frames = manner.hop == 2 ? 1 : 2;
  };
  CHECK_ERROR(session_of(model, different)->restore(state.data(), state.size()), UNILS_ERROR_INVALID_ARGUMENT,
              "other options");
}

void test_frames_made_before_an_interrupt_keep_their_generation_and_come_alone(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples voice = speech_like(2 * kWindowSamples, 7), silence(kWindowSamples, 0.0f);
  const std::unique_ptr<Session> session = session_of(model);
  push(*session, UNILS_TRACK_SELF, voice);
  push(*session, UNILS_TRACK_OTHER, voice);
  Frames frames;
  CHECK(pull(*session, &frames, kChannels, 4) == 4);
  int64_t generation = 0;
  CHECK_OK(session->interrupt(&generation));
  CHECK(generation == 1);
  push(*session, UNILS_TRACK_SELF, silence);
  CHECK(pull(*session, &frames, kChannels) == kWindow - 4);
  CHECK(pull(*session, &frames, kChannels) == kWindow);
  CHECK(frames.generation.front() == 0 && frames.generation[kWindow - 1] == 0 && frames.generation[kWindow] == 1);
  Samples quiet = voice;
  std::fill(quiet.begin() + kWindowSamples, quiet.end(), 0.0f);
  CHECK(frames.values == converse(*session_of(model), kChannels, quiet, 16000, voice, 16000).values);
}

void test_interrupted_own_audio_is_forgotten_and_what_was_shown_is_not(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Manner manner{3, 2, 0, 1};
  const Samples voice = speech_like(640 * 30, 7), answer = speech_like(640 * 30, 8);
  const std::unique_ptr<Session> session = session_of(model, manner);
  push(*session, UNILS_TRACK_SELF, voice);
  push(*session, UNILS_TRACK_OTHER, voice, 0, 640 * 15);
  Frames frames;
  CHECK(pull(*session, &frames, kChannels) == 15);
  int64_t generation = 0;
  CHECK_OK(session->interrupt(&generation));
  push(*session, UNILS_TRACK_SELF, answer, 0, 640 * 15);
  push(*session, UNILS_TRACK_OTHER, voice, 640 * 15, 640 * 15);
  CHECK_OK(session->finish());
  while (pull(*session, &frames, kChannels) > 0) {
  }
  CHECK(frames.count() == 30 && frames.generation[14] == 0 && frames.generation[15] == 1);
  // Look-ahead had heard frames 15 and 16 of what was forgotten; nothing later shows that.
  const std::unique_ptr<Session> wanted = session_of(model, manner);
  push(*wanted, UNILS_TRACK_SELF, voice, 0, 640 * 17);
  push(*wanted, UNILS_TRACK_OTHER, voice);
  Frames other;
  CHECK(pull(*wanted, &other, kChannels) == 15);
  CHECK_OK(wanted->interrupt(&generation));
  push(*wanted, UNILS_TRACK_SELF, answer, 0, 640 * 15);
  CHECK_OK(wanted->finish());
  while (pull(*wanted, &other, kChannels) > 0) {
  }
  CHECK(frames == other);
}

void test_under_clock_other_late_own_audio_starts_at_the_next_block(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const auto listening = [](unils_session_options* options) {
    Manner{4, 0, 0, 1}(options);
    options->clock = UNILS_CLOCK_OTHER;
  };
  const Samples voice = speech_like(640 * 16, 7), own = speech_like(640 * 8, 8);
  const std::unique_ptr<Session> session = session_of(model, listening);
  Frames frames;
  push(*session, UNILS_TRACK_OTHER, voice, 0, 640 * 8);
  push(*session, UNILS_TRACK_SELF, own, 0, 100);  // the rest of the first block is late, and stays silent
  CHECK(pull(*session, &frames, kChannels, 4) == 4);
  push(*session, UNILS_TRACK_SELF, own, 100, 640 * 4);
  push(*session, UNILS_TRACK_OTHER, voice, 640 * 8, 640 * 8);
  CHECK(pull(*session, &frames, kChannels) == 12);
  Samples heard(640 * 16, 0.0f);
  std::copy_n(own.begin(), 100, heard.begin());
  std::copy_n(own.begin() + 100, 640 * 4, heard.begin() + 640 * 4);
  const Frames wanted = converse(*session_of(model, Manner{4, 0, 0, 1}), kChannels, heard, 16000, voice, 16000);
  CHECK(frames.values == wanted.values);
  unils_stats stats = {};
  CHECK_OK(session->get_stats(&stats));
  CHECK(stats.silent_own_frames == 4 + 8);
}

void test_latency_is_that_of_a_block(const std::string& folder, const Manner& manner) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const std::unique_ptr<Session> session = session_of(model, manner);
  push(*session, UNILS_TRACK_SELF, speech_like(10, 8), 48000);
  push(*session, UNILS_TRACK_OTHER, speech_like(10, 8), 16000);
  unils_latency latency = {};
  CHECK_OK(session->get_latency(&latency));
  const auto block_ms = 40.0 * static_cast<double>(manner.block());
  CHECK(latency.hop_ms == 40 && latency.block_ms == block_ms && latency.resampler_self_ms > 2);
  const double self = 40.0 * manner.look_ahead_self + latency.resampler_self_ms, other = 40.0 * manner.look_ahead_other;
  CHECK_NEAR(latency.total_ms, block_ms + std::max(self, other), 1e-9);
}

}  // namespace

int main() {
  test_frames_are_averaged_over_the_spans_of_a_scale();
  test_codes_are_interpolated_between_the_centres_of_their_tokens();
  test_motion_is_quantised_scale_by_scale();
  test_a_value_of_zero_is_a_negative_bit();
  test_a_window_in_which_nobody_speaks_is_silence();
  const TemporaryFolder folder("unils_window");
  PublishedBundle().write(folder / "bundle");
  const std::string bundle = folder / "bundle";
  test_a_model_says_what_it_is_and_gives_its_graphs_back(bundle);
  test_a_model_that_cannot_have_its_graphs_is_refused(bundle);
  test_a_description_that_cannot_be_is_refused(folder);
  for (const Manner& manner : kManners) {
    test_frames_do_not_depend_on_how_audio_was_cut(bundle, manner);
    for (const unils_track track : kTracks) {
      test_a_sample_is_heard_in_its_place_and_as_soon_as_it_may(bundle, manner, track);
    }
    test_a_block_that_fails_is_made_again(bundle, manner);
    test_keys_and_values_stay_in_memory_of_the_runner(bundle, manner);
    test_a_snapshot_is_of_any_moment(bundle, manner);
    test_latency_is_that_of_a_block(bundle, manner);
  }
  test_two_faces_are_two_sessions_with_the_tracks_swapped(bundle);
  test_options_that_cannot_be_are_refused(bundle);
  test_an_hour_of_rolling_counts_right_and_holds_its_size(folder);
  test_interrupted_own_audio_is_forgotten_and_what_was_shown_is_not(bundle);
  test_under_clock_other_late_own_audio_starts_at_the_next_block(bundle);
  test_a_runner_without_memory_for_a_session_says_so(bundle);
  test_guidance_is_a_second_row_only_above_one(bundle);
  test_style_is_a_clip_of_one_window(bundle);
  test_frames_made_before_an_interrupt_keep_their_generation_and_come_alone(bundle);
  return check::result();
}
