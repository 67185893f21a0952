// What the model reader accepts, and that it refuses everything else with a sentence.
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "backends/registry.h"
#include "bundle_writer.h"
#include "check.h"
#include "engine/step_engine.h"
#include "model/json.h"
#include "model/model.h"
#include "model/safetensors.h"

using namespace unils;

static Status parse(const std::string& text) {
  Json value;
  return Json::parse(text, &value);
}

static void test_json_reads_what_rfc_8259_says() {
  Json value;
  CHECK_OK(Json::parse(" {\"b\": [1, -2.5e3, true, false, null], \"a\": \"\\u00e9\\n\\ud83d\\ude00\\/\"} ", &value));
  CHECK(value.find("a") != nullptr && value.find("a")->string() == "\xc3\xa9\n\xf0\x9f\x98\x80/");
  const std::vector<Json>& list = value.find("b")->array();
  CHECK(list.size() == 5 && list[0].number() == 1 && list[1].number() == -2500 && list[2].boolean() &&
        !list[3].boolean());
  CHECK(list[4].is(Json::Kind::kNull) && value.find("c") == nullptr);
  int64_t whole = 0;
  CHECK(list[0].integer(0, 1, &whole) && whole == 1);
  CHECK(!list[0].integer(2, 9, &whole) && !list[1].integer(0, 9, &whole) && !list[2].integer(0, 9, &whole));
  CHECK_OK(Json::parse("9007199254740993", &value));
  CHECK(!value.integer(0, std::numeric_limits<int64_t>::max(), &whole));  // no double is that number
}

static void test_json_refuses_everything_else() {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[1,",
                           "[1,]",
                           "{\"a\":}",
                           "{\"a\" 1}",
                           "{a:1}",
                           "{\"a\":1,}",
                           "tru",
                           "nul",
                           "01",
                           "1.",
                           ".5",
                           "+1",
                           "1e",
                           "-",
                           "NaN",
                           "Infinity",
                           "1 2",
                           "\"",
                           "\"\\x\"",
                           "\"\\",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"\n\"",
                           "\"\xff\"",
                           "\"\xc0\xaf\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xf4\x90\x80\x80\"",
                           "\"\xe2\x82\"",
                           "[1}",
                           "1e999",
                           "-1e999"}) {
    CHECK_ERROR(parse(text), UNILS_ERROR_BUNDLE, "not valid JSON");
  }
  CHECK_ERROR(parse(std::string("1\0", 2)), UNILS_ERROR_BUNDLE, "after the value");
  CHECK_ERROR(parse("{\"a\":1,\"b\":2,\"a\":3}"), UNILS_ERROR_BUNDLE, "\"a\" appears twice");
  CHECK_OK(parse(std::string(32, '[') + std::string(32, ']')));
  CHECK_ERROR(parse(std::string(100000, '[')), UNILS_ERROR_BUNDLE, "nested deeper");
}

static void test_sha256_gives_the_published_digests() {
  // FIPS 180-4 examples, and lengths around the padding's edges against each other.
  const auto digest = [](const std::string& text) { return sha256_text(sha256(text.data(), text.size())); };
  CHECK(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(digest(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  CHECK(digest(std::string(55, 'a')) == "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  CHECK(digest(std::string(64, 'a')) == "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
}

static Status parse_tensors(const std::string& header, size_t data_bytes) {
  const std::string file = BundleWriter::with_length(header) + header + std::string(data_bytes, '\0');
  std::vector<TensorView> tensors;
  return parse_safetensors(file.data(), static_cast<int64_t>(file.size()), &tensors);
}

static void test_safetensors_headers_are_not_trusted() {
  const std::string a = "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}";
  CHECK_OK(parse_tensors("{" + a + "}", 8));
  CHECK_OK(parse_tensors("{}", 0));
  CHECK_OK(parse_tensors("{" + a + "}   ", 8));  // writers pad with spaces
  CHECK_ERROR(parse_tensors("{" + a + "}", 12), UNILS_ERROR_BUNDLE, "4 bytes at its end belong to no tensor");
  CHECK_ERROR(parse_tensors("{" + a + "}", 7), UNILS_ERROR_BUNDLE, "outside the file");
  CHECK_ERROR(parse_tensors("{" + a + "," + a + "}", 8), UNILS_ERROR_BUNDLE, "appears twice");
  CHECK_ERROR(parse_tensors("[" + a + "]", 8), UNILS_ERROR_BUNDLE, "not valid JSON");
  CHECK_ERROR(parse_tensors("[]", 0), UNILS_ERROR_BUNDLE, "no object");
  const auto second = [&](const std::string& rest) { return "{" + a + ",\"b\":{" + rest + "}}"; };
  CHECK_OK(parse_tensors(second("\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[8,12]"), 12));
  const std::vector<std::pair<std::string, const char*>> broken = {
      {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]", "overlaps"},
      {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]", "overlaps"},
      {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]", "gap"},
      {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,16]", "do not fit its shape"},
      {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,8]", "outside the file"},
      {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]", "outside the file"},
      {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,1e18]", "outside the file"},
      {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8]", "no dtype"},
      {"\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":8", "no dtype"},
      {"\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[8,12]", "of type F16 where F32 is needed"},
      {"\"dtype\":7,\"shape\":[2],\"data_offsets\":[8,12]", "where F32 is needed"},
      {"\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]", "neither one nor two"},
      {"\"dtype\":\"F32\",\"shape\":[1,1,1],\"data_offsets\":[8,12]", "neither one nor two"},
      {"\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[8,12]", "no dtype"},
      {"\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]", "dimension out of range"},
      {"\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[8,12]", "dimension out of range"},
      {"\"dtype\":\"F32\",\"shape\":[0.5],\"data_offsets\":[8,12]", "dimension out of range"},
      {"\"dtype\":\"F32\",\"shape\":[1e30],\"data_offsets\":[8,12]", "dimension out of range"},
      {"\"dtype\":\"F32\",\"shape\":[1000000000000,1000000000000],\"data_offsets\":[8,12]", "too large"},
  };
  for (const auto& [rest, wanted] : broken) CHECK_ERROR(parse_tensors(second(rest), 16), UNILS_ERROR_BUNDLE, wanted);

  std::vector<TensorView> tensors;
  for (const uint64_t claimed : {uint64_t{9}, uint64_t{1} << 20, uint64_t{1} << 40, ~uint64_t{0}}) {
    std::string file(16, ' ');
    for (size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(claimed >> (8 * i));
    CHECK_ERROR(parse_safetensors(file.data(), 16, &tensors), UNILS_ERROR_BUNDLE, "header claims");
  }
  for (int64_t bytes = 0; bytes < 8; ++bytes) {
    CHECK_ERROR(parse_safetensors("\1\0\0\0\0\0\0", bytes, &tensors), UNILS_ERROR_BUNDLE, "truncated");
  }
}

static Status load(const std::string& folder, const char* backend = nullptr) {
  std::shared_ptr<const Model> model;
  return Model::load(folder.c_str(), backend, 1, &model);
}

static void test_a_good_bundle_loads_and_says_what_it_is(const TemporaryFolder& folder) {
  const BundleWriter writer;
  writer.write(folder / "good");
  std::shared_ptr<const Model> model;
  CHECK_OK(Model::load((folder / "good").c_str(), "cpu", 2, &model));
  CHECK(model->config().family == "stream" && model->config().rig == "arkit" && model->config().channels.size() == 55);
  CHECK(model->config().sizes.look_ahead_self_max == 8 && model->config().default_look_ahead_self == 1);
  CHECK_NEAR(model->config().default_top_p, 0.97, 1e-6);
  int64_t parameters = 0;
  for (const BundleWriter::Tensor& tensor : writer.tensors) parameters += tensor.shape.count();
  CHECK(model->parameters() == parameters && model->weight_bytes() > 0);
  CHECK(std::string(model->backend_name()) == "cpu" && !model->backend_detail().empty());
  CHECK(model->json().find("unils-bundle") != std::string::npos && model->fingerprint() != 0);
}

static void test_files_that_are_missing_or_of_the_wrong_size_are_refused(const TemporaryFolder& folder) {
  std::shared_ptr<const Model> model;
  CHECK_ERROR(Model::load(nullptr, nullptr, 1, &model), UNILS_ERROR_INVALID_ARGUMENT, "no bundle");
  CHECK_ERROR(Model::load("", nullptr, 1, &model), UNILS_ERROR_INVALID_ARGUMENT, "no bundle");
  CHECK_ERROR(Model::load("x", nullptr, 0, &model), UNILS_ERROR_INVALID_ARGUMENT, "threads is 0");
  CHECK_ERROR(load(folder / "nowhere"), UNILS_ERROR_IO, "does not exist");
  std::filesystem::create_directories(folder / "folders/model.json");
  CHECK_ERROR(load(folder / "folders"), UNILS_ERROR_IO, "not a regular file");

  const BundleWriter writer;
  writer.write(folder / "half");
  std::filesystem::remove(folder / "half/weights.safetensors");
  CHECK_ERROR(load(folder / "half"), UNILS_ERROR_IO, "does not exist");
  std::ofstream(folder / "half/weights.safetensors") << "short";
  CHECK_ERROR(load(folder / "half"), UNILS_ERROR_BUNDLE, "has 5 bytes");
  // Sparse: refused by its size, before it is read.
  std::filesystem::resize_file(folder / "half/weights.safetensors", uint64_t{1} << 36);
  CHECK_ERROR(load(folder / "half"), UNILS_ERROR_BUNDLE, "68719476736 bytes");
  std::filesystem::resize_file(folder / "half/model.json", uint64_t{1} << 33);
  CHECK_ERROR(load(folder / "half"), UNILS_ERROR_BUNDLE, "8589934592 bytes");
}

static void test_a_weights_file_that_was_damaged_is_refused(const TemporaryFolder& folder) {
  const BundleWriter writer;
  const std::string good = writer.weights();
  for (const size_t at : {size_t{0}, size_t{9}, good.size() / 2, good.size() - 1}) {
    std::string flipped = good;
    flipped[at] = static_cast<char>(flipped[at] ^ 1);
    writer.write(folder / "damaged", good);
    std::ofstream(folder / "damaged/weights.safetensors", std::ios::binary) << flipped;
    CHECK_ERROR(load(folder / "damaged"), UNILS_ERROR_BUNDLE, "SHA-256 differs");
  }
  // The digest fits in these; the file itself is wrong.
  for (const size_t length : {size_t{8}, size_t{100}, good.size() / 2, good.size() - 4, good.size() - 1}) {
    writer.write(folder / "cut", good.substr(0, length));
    CHECK(load(folder / "cut").code() == UNILS_ERROR_BUNDLE);
  }
  writer.write(folder / "long", good + "1234");
  CHECK_ERROR(load(folder / "long"), UNILS_ERROR_BUNDLE, "belong to no tensor");
}

static void test_tensors_that_do_not_fit_the_model_are_named(const TemporaryFolder& folder) {
  const auto load_spoilt = [&](const std::function<void(BundleWriter*)>& spoil) {
    BundleWriter writer;
    spoil(&writer);
    writer.write(folder / "spoilt");
    return load(folder / "spoilt");
  };
  CHECK_ERROR(load_spoilt([](BundleWriter* w) { w->tensors.erase(w->tensors.begin()); }), UNILS_ERROR_BUNDLE,
              "has no tensor audio_encoder.blocks.0.conv.bias");
  CHECK_ERROR(load_spoilt([](BundleWriter* w) { w->tensors.pop_back(); }), UNILS_ERROR_BUNDLE,
              "has no tensor generator.token");
  const auto add = [](const char* name) {
    return [name](BundleWriter* w) {
      BundleWriter::Tensor extra = w->tensor("generator.start");
      extra.shape.name = name;
      w->tensors.push_back(extra);
    };
  };
  CHECK_ERROR(load_spoilt(add("aaa")), UNILS_ERROR_BUNDLE, "does not have: aaa");
  CHECK_ERROR(load_spoilt(add("generator.extra")), UNILS_ERROR_BUNDLE, "does not have: generator.extra");
  CHECK_ERROR(load_spoilt(add("zzz")), UNILS_ERROR_BUNDLE, "does not have: zzz");
  CHECK_ERROR(load_spoilt([](BundleWriter* w) {
                std::swap(w->tensor("generator.token.weight").shape.shape[0],
                          w->tensor("generator.token.weight").shape.shape[1]);
              }),
              UNILS_ERROR_BUNDLE, "generator.token.weight has the shape (21, 30) where model.json asks for (30, 21)");
  CHECK_ERROR(load_spoilt([](BundleWriter* w) { w->tensor("generator.start").shape.rank = 2; }), UNILS_ERROR_BUNDLE,
              "generator.start has the shape (30, 1) where model.json asks for (30)");
  CHECK_ERROR(load_spoilt([](BundleWriter* w) { w->tensor("generator.start").dtype = "BF16"; }), UNILS_ERROR_BUNDLE,
              "of type BF16");
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    CHECK_ERROR(load_spoilt([=](BundleWriter* w) { w->tensor("generator.start").values[7] = value; }),
                UNILS_ERROR_BUNDLE, "generator.start holds a value that is not finite");
  }
  CHECK_ERROR(load_spoilt([](BundleWriter* w) { w->tensor("codec.motion_std").values[3] = 0.0f; }), UNILS_ERROR_BUNDLE,
              "codec.motion_std is divided by");
}

static void test_settings_out_of_bounds_are_refused_by_name(const TemporaryFolder& folder) {
  const BundleWriter writer;
  const std::string weights = writer.weights();
  const auto load_with = [&](const std::string& from, const std::string& to) {
    writer.write(folder / "settings", weights, [&](std::string* json) { replace(json, from, to); });
    return load(folder / "settings");
  };
  struct Case {
    const char *from, *to, *wanted;
  };
  const Case cases[] = {
      {"unils-bundle", "other", "\"format\""},
      {"\"format_version\":1", "\"format_version\":2", "\"format_version\""},
      {"\"family\":\"stream\"", "\"family\":\"abacus\"", "\"family\""},
      {"\"family\":\"stream\",", "", "\"family\""},
      {"\"rig\":\"arkit\"", "\"rig\":\"puppet\"", "\"rig\""},
      {"\"rig\":\"arkit\"", "\"rig\":\"flame\"", "108 names"},
      {"\"channel3\"", "\"channel2\"", "without repetition"},
      {"\"channel3\"", "\"\"", "names of 1 to 64 bytes"},
      {"\"channel3\"", "3", "names of 1 to 64 bytes"},
      {"\"channel3\",", "", "55 names"},
      {"\"sample_rate\":16000", "\"sample_rate\":48000", "\"sample_rate\""},
      {"\"hop_samples\":640", "\"hop_samples\":1e300", "\"hop_samples\""},
      {"\"frame_rate\":25", "\"frame_rate\":\"25\"", "\"frame_rate\""},
      {"\"mels\":64", "\"mels\":80", "\"features.mels\""},
      {"\"floor\":1e-5", "\"floor\":0", "\"features.floor\""},
      {"\"self\":[0,8]", "\"self\":[1,8]", "\"look_ahead.self\""},
      {"\"self\":[0,8]", "\"self\":[0,17]", "\"look_ahead.self\""},
      {"\"self\":[0,8]", "\"self\":8", "\"look_ahead.self\""},
      {"\"other\":[0,3]", "\"other\":[0,3,4]", "\"look_ahead.other\""},
      {"\"audio_encoder\":{", "\"audio_decoder\":{", "\"audio_encoder\" must be an object"},
      {"\"width\":21", "\"width\":0", "\"audio_encoder.width\""},
      {"\"width\":21", "\"width\":99999999", "\"audio_encoder.width\""},
      {"\"width\":21", "\"width\":-21", "\"audio_encoder.width\""},
      {"\"kernel\":3", "\"kernel\":65", "\"audio_encoder.kernel\""},
      {"\"kernel\":4", "\"kernel\":0", "\"codec.kernel\""},
      {"\"bits\":7", "\"bits\":7.5", "\"codec.bits\""},
      {"\"levels\":3", "\"levels\":4", "\"codec.gains\""},
      {"\"gains\":[1.000000", "\"gains\":[1e9", "\"codec.gains\""},
      {"\"heads\":3", "\"heads\":4", "\"generator.heads\""},
      {"\"heads\":3", "\"heads\":2", "\"generator.heads\""},  // 15 is odd
      {"\"window_frames\":13", "\"window_frames\":5000", "\"generator.window_frames\""},
      {"\"style_tokens\":5", "\"style_tokens\":0", "\"generator.style_tokens\""},
      {"\"top_p\":0.97", "\"top_p\":0", "\"defaults.top_p\""},
      {"\"temperature\":1.0", "\"temperature\":-1", "\"defaults.temperature\""},
      {"\"cfg_scale\":1.5", "\"cfg_scale\":null", "\"defaults.cfg_scale\""},
      {"\"look_ahead\":{\"self\":1,", "\"look_ahead\":{\"self\":9,", "\"defaults.look_ahead.self\""},
      {"weights.safetensors", "../weights.safetensors", "\"weights.file\""},
      {"weights.safetensors", "", "\"weights.file\""},
      {"weights.safetensors", "..", "\"weights.file\""},
      {"\"sha256\":\"", "\"sha256\":\"00", "\"weights.sha256\""},
      {"\"provenance\":{}", "\"rig\":\"arkit\"", "\"rig\" appears twice"},
  };
  for (const Case& each : cases) CHECK_ERROR(load_with(each.from, each.to), UNILS_ERROR_BUNDLE, each.wanted);
  CHECK_OK(load_with("\"provenance\":{}", "\"provenance\":{\"anything\":[1,{}]},\"later\":true"));
  for (const char* text : {"", "[]", "null", "{}", "{\"format\"", "\xff\xfe"}) {
    writer.write(folder / "settings", weights, [&](std::string* json) { *json = text; });
    CHECK(load(folder / "settings").code() == UNILS_ERROR_BUNDLE);
  }
}

static void test_a_model_too_large_to_run_is_refused_before_it_is_read(const TemporaryFolder& folder) {
  const BundleWriter writer;
  const std::string weights = writer.weights();
  writer.write(folder / "huge", weights, [](std::string* json) {
    replace(json, "\"width\":30,\"depth\":2", "\"width\":4096,\"depth\":64");
    replace(json, "\"heads\":3,\"feed_forward\":37", "\"heads\":2,\"feed_forward\":16384");
  });
  CHECK_ERROR(load(folder / "huge"), UNILS_ERROR_BUNDLE, "describes a model of");

  unils_stream_sizes sizes = tiny_sizes();
  sizes.width = 512, sizes.heads = 64, sizes.window_frames = 4096, sizes.depth = 12;
  BundleWriter(sizes).write(folder / "forgetless");
  CHECK_ERROR(load(folder / "forgetless"), UNILS_ERROR_BUNDLE, "a session of this model would hold");
}

static void test_a_backend_asked_for_by_name_fails_loudly(const TemporaryFolder& folder) {
  BundleWriter().write(folder / "good");
  CHECK_OK(load(folder / "good", "auto"));
  CHECK_ERROR(load(folder / "good", "cuda"), UNILS_ERROR_BACKEND, "cuda cannot run here: its plug-in");
  CHECK_ERROR(load(folder / "good", "cuda"), UNILS_ERROR_BACKEND, "cpu (");
  for (const char* runner : {"onnxruntime", "tensorrt"}) {
    CHECK_ERROR(load(folder / "good", runner), UNILS_ERROR_BACKEND,
                std::string("backend ") + runner + " needs a graph runner of that name");
  }
  CHECK_ERROR(load(folder / "good", "abacus"), UNILS_ERROR_BACKEND, "there is no backend abacus; this library knows");
  CHECK_ERROR(load(folder / "good", ""), UNILS_ERROR_BACKEND, "there is no backend");
  setenv("UNILS_CPU", "mmx", 1);
  CHECK_ERROR(load(folder / "good"), UNILS_ERROR_BACKEND, "UNILS_CPU=mmx");
  CHECK_ERROR(load(folder / "good", "cpu"), UNILS_ERROR_BACKEND, "UNILS_CPU=mmx");
  unsetenv("UNILS_CPU");
  bool found = false;
  for (int32_t i = 0; i < backend_count(); ++i) {
    const BackendInfo info = backend_info(i);
    CHECK(info.name != nullptr && info.detail != nullptr && *info.detail != '\0');
    const std::string name = info.name;
    CHECK((info.score > 0) == (name != "cuda"));
    found = found || name == "cpu";
  }
  CHECK(found);
}

// Random bytes turned over anywhere in both files: always a status, never a crash (run under sanitizers).
static void test_random_damage_never_crashes(const TemporaryFolder& folder) {
  const BundleWriter writer;
  const std::string good = writer.weights();
  const std::string json = writer.json(good);
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string weights = good, text = json;
    std::string& target = round % 2 == 0 ? weights : text;
    const size_t reach = round % 4 == 0 ? 8 + 4000 : target.size();  // mostly the header
    for (int i = 0; i < 1 + round % 3; ++i)
      target[random() % std::min(reach, target.size())] = static_cast<char>(random());
    if (round % 5 == 0) target.resize(random() % target.size());
    writer.write(folder / "fuzz", weights, [&](std::string* out) {
      if (round % 2 == 1) *out = text;
    });
    const Status status = load(folder / "fuzz");
    CHECK(status.ok() || !status.sentence().empty());
  }
}

int main() {
  const TemporaryFolder folder("unils_test_model");
  test_json_reads_what_rfc_8259_says();
  test_json_refuses_everything_else();
  test_sha256_gives_the_published_digests();
  test_safetensors_headers_are_not_trusted();
  test_a_good_bundle_loads_and_says_what_it_is(folder);
  test_files_that_are_missing_or_of_the_wrong_size_are_refused(folder);
  test_a_weights_file_that_was_damaged_is_refused(folder);
  test_tensors_that_do_not_fit_the_model_are_named(folder);
  test_settings_out_of_bounds_are_refused_by_name(folder);
  test_a_model_too_large_to_run_is_refused_before_it_is_read(folder);
  test_a_backend_asked_for_by_name_fails_loudly(folder);
  test_random_damage_never_crashes(folder);
  return check::result();
}
