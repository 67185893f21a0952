// Family "published": quantisation over several scales, the window engine over a fake graph runner, and sessions of it.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "conversation.h"
#include "engine/multi_scale.h"
#include "engine/waveform.h"
#include "engine/window_engine.h"
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
    std::unique_ptr<WindowEngine> engine;
    CHECK_OK(WindowEngine::create(model, &engine));
    CHECK(engine->channels() == kChannels && engine->window_frames() == kWindow);
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

void test_frames_do_not_depend_on_how_audio_was_cut(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples self = speech_like(50000, 1), other = speech_like(41000, 2);
  const Frames whole = converse(*session_of(model), kChannels, self, 16000, other, 16000);
  CHECK(whole.count() == (50000 + 639) / 640 && runner.shapes_fit && runner.rows == 2);
  for (const int64_t step : {1, 639, 7000}) {
    const std::unique_ptr<Session> session = session_of(model);
    Frames frames;
    for (int64_t at = 0; at < 50000; at += step * 11) {
      for (int64_t i = at; i < std::min<int64_t>(at + step * 11, 50000); i += step) {
        const int64_t end = std::min<int64_t>(i + step, 50000);
        push(*session, UNILS_TRACK_SELF, self, i, end - i);
        if (i < 41000) push(*session, UNILS_TRACK_OTHER, other, i, std::min<int64_t>(end, 41000) - i);
      }
      pull(*session, &frames, kChannels, 5);
    }
    CHECK_OK(session->finish());
    while (pull(*session, &frames, kChannels, 5) > 0) {
    }
    CHECK(frames == whole);
  }
  // Both tracks and the seed are heard.
  CHECK(!(converse(*session_of(model), kChannels, other, 16000, other, 16000) == whole));
  const auto seeded = [](unils_session_options* options) { options->seed = 7; };
  CHECK(!(converse(*session_of(model, seeded), kChannels, self, 16000, other, 16000) == whole));
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

void test_a_window_that_fails_is_made_again(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples voice = speech_like(2 * kWindowSamples, 4);
  const Frames whole = converse(*session_of(model), kChannels, voice, 16000, voice, 16000);
  for (const char* graph : PublishedConfig::kGraphs) {
    const std::unique_ptr<Session> session = session_of(model);
    push(*session, UNILS_TRACK_SELF, voice);
    push(*session, UNILS_TRACK_OTHER, voice);
    Frames frames;
    pull(*session, &frames, kChannels, kWindow);
    runner.fail_at = graph;
    std::vector<float> values(static_cast<size_t>(kWindow * kChannels));
    int64_t count = 0;
    CHECK_ERROR(session->pull_frames({values.data(), nullptr, nullptr, nullptr}, kWindow, &count), UNILS_ERROR_BACKEND,
                "graph " + std::string(graph) + " failed: told to fail");
    runner.fail_at.clear();
    pull(*session, &frames, kChannels, kWindow);
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

void test_a_snapshot_is_of_any_moment(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const Samples voice = speech_like(3 * kWindowSamples, 6);
  const std::unique_ptr<Session> session = session_of(model);
  push(*session, UNILS_TRACK_SELF, voice, 0, kWindowSamples + 900);
  push(*session, UNILS_TRACK_OTHER, voice, 0, kWindowSamples + 77);
  Frames begun;
  pull(*session, &begun, kChannels, 5);
  std::vector<char> state(session->snapshot_bytes());
  CHECK_OK(session->snapshot(state.data(), state.size()));
  const auto rest = [&](Session& of) {
    push(of, UNILS_TRACK_SELF, voice, kWindowSamples + 900, 2 * kWindowSamples - 900);
    push(of, UNILS_TRACK_OTHER, voice, kWindowSamples + 77, 2 * kWindowSamples - 77);
    Frames frames;
    pull(of, &frames, kChannels);
    return frames;
  };
  const Frames wanted = rest(*session);
  CHECK(wanted.count() == 3 * kWindow - 5);
  const std::unique_ptr<Session> again = session_of(model);
  CHECK_OK(again->restore(state.data(), state.size()));
  CHECK(rest(*again) == wanted);
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

void test_latency_is_that_of_a_window(const std::string& folder) {
  FakeRunner runner;
  const std::shared_ptr<const Model> model = load(folder, runner);
  const std::unique_ptr<Session> session = session_of(model);
  push(*session, UNILS_TRACK_SELF, speech_like(10, 8), 48000);
  push(*session, UNILS_TRACK_OTHER, speech_like(10, 8), 16000);
  unils_latency latency = {};
  CHECK_OK(session->get_latency(&latency));
  CHECK(latency.hop_ms == 40 && latency.window_ms == 40 * kWindow && latency.resampler_self_ms > 2);
  CHECK_NEAR(latency.total_ms, 40 * kWindow + latency.resampler_self_ms, 1e-9);
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
  test_frames_do_not_depend_on_how_audio_was_cut(bundle);
  test_guidance_is_a_second_row_only_above_one(bundle);
  test_a_window_that_fails_is_made_again(bundle);
  test_style_is_a_clip_of_one_window(bundle);
  test_a_snapshot_is_of_any_moment(bundle);
  test_frames_made_before_an_interrupt_keep_their_generation_and_come_alone(bundle);
  test_latency_is_that_of_a_window(bundle);
  return check::result();
}
