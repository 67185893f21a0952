// Sessions of a pool against the same sessions alone, bit for bit: joining and leaving at any hop, interrupted, finished,
// closed beside a pull; and what a pool refuses.
#include <atomic>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bundle_writer.h"
#include "check.h"
#include "conversation.h"
#include "core/cpu.h"
#include "model/model.h"
#include "session/session_pool.h"

using namespace unils;

namespace {

std::string bundle_path;  // of tiny_sizes()
constexpr int64_t kHop = 640;

std::shared_ptr<const Model> load(int threads) {
  std::shared_ptr<const Model> model;
  CHECK_OK(Model::load(bundle_path.c_str(), "cpu", threads, &model));
  return model;
}

struct Frame {
  int64_t index, generation;
  std::vector<float> values;
  bool operator==(const Frame& other) const {
    return index == other.index && generation == other.generation && values == other.values;
  }
};

// Room for what a pull returns.
struct Pulled {
  Pulled(int64_t room, int width)
      : capacity(room),
        channels(width),
        values(static_cast<size_t>(room * width)),
        index(static_cast<size_t>(room)),
        generation(index),
        ids(index) {}
  unils_frames out() { return {values.data(), index.data(), nullptr, generation.data()}; }
  Frame at(int64_t i) const {
    const float* from = values.data() + i * channels;
    return {index[static_cast<size_t>(i)], generation[static_cast<size_t>(i)],
            std::vector<float>(from, from + channels)};
  }
  int64_t capacity;
  int channels;
  std::vector<float> values;
  std::vector<int64_t> index, generation, ids;
};

unils_session_options options_of(const Model& model, uint64_t seed) {
  unils_session_options options = SessionSpec::default_options(model);
  options.seed = seed;
  options.cfg_scale = seed % 3 == 0 ? 1.0f : 1.5f;
  options.look_ahead_self = static_cast<int32_t>(seed % 4);
  options.smoothing = seed % 5 == 2 ? 1 : 0;
  return options;
}

// One session in a pool and one alone that live the same life.
struct Twin {
  int place = -1;
  int64_t id = 0;
  std::unique_ptr<Session> alone;
  Samples audio;
  size_t at = 0;
  std::vector<Frame> from_pool, from_alone;

  void push(SessionPool* pool, int64_t samples) {
    for (const unils_track track : {UNILS_TRACK_SELF, UNILS_TRACK_OTHER}) {
      const size_t start = (at + (track == UNILS_TRACK_SELF ? 0 : 5000)) % (audio.size() - 2000);
      int64_t taken[2] = {};
      CHECK_OK(pool->session(place).push_audio(track, audio.data() + start, UNILS_FLOAT32, samples, 16000, &taken[0]));
      CHECK_OK(alone->push_audio(track, audio.data() + start, UNILS_FLOAT32, samples, 16000, &taken[1]));
      CHECK(taken[0] == samples && taken[1] == samples);
    }
    at += static_cast<size_t>(samples);
  }
  void pull_alone(int channels) {
    Pulled frames(64, channels);
    int64_t count = 0;
    CHECK_OK(alone->pull_frames(frames.out(), frames.capacity, &count));
    for (int64_t i = 0; i < count; ++i) from_alone.push_back(frames.at(i));
  }
};

void pull_pool(SessionPool* pool, std::vector<Twin>* twins, int64_t capacity, int channels) {
  Pulled frames(capacity, channels);
  int64_t count = 0;
  CHECK_OK(pool->pull(frames.out(), frames.ids.data(), capacity, &count));
  for (int64_t i = 0; i < count; ++i) {
    bool known = false;
    for (Twin& twin : *twins) {
      if (twin.id != frames.ids[static_cast<size_t>(i)]) continue;
      twin.from_pool.push_back(frames.at(i));
      known = true;
    }
    CHECK(known);
  }
}

void test_sessions_that_come_and_go_make_the_frames_they_would_make_alone() {
  for (const int threads : {1, 2}) {
    const std::shared_ptr<const Model> model = load(threads);
    const auto channels = static_cast<int>(model->config().channels.size());
    std::unique_ptr<SessionPool> pool;
    CHECK_OK(SessionPool::create(model, 12, &pool));
    const size_t bytes = pool->bytes();
    std::mt19937 random(7);
    std::vector<Twin> twins;
    uint64_t seed = 0;
    size_t compared = 0;
    const auto leave = [&](size_t i) {
      Twin& twin = twins[i];
      CHECK_OK(pool->session(twin.place).finish());
      CHECK_OK(twin.alone->finish());
      for (int pull = 0; pull < 8; ++pull) {
        twin.pull_alone(channels);
        pull_pool(pool.get(), &twins, 400, channels);
      }
      CHECK(twin.from_pool == twin.from_alone);
      compared += twin.from_pool.size();
      pool->close(twin.place);
      twins.erase(twins.begin() + static_cast<long>(i));
    };
    for (int hop = 0; hop < 120; ++hop) {
      if (twins.size() < 12 && random() % 3 != 0) {
        Twin twin;
        const unils_session_options options = options_of(*model, ++seed);
        twin.audio = speech_like(40000, static_cast<unsigned>(seed));
        CHECK_OK(pool->open(options, &twin.place, &twin.id));
        SessionSpec spec;
        CHECK_OK(SessionSpec::from_model(model, &spec));
        CHECK_OK(Session::create(std::move(spec), options, &twin.alone));
        twins.push_back(std::move(twin));
      }
      for (size_t i = 0; i < twins.size(); ++i) twins[i].push(pool.get(), static_cast<int64_t>(random() % 1500));
      if (!twins.empty() && random() % 8 == 0) {
        Twin& twin = twins[random() % twins.size()];
        // Both have made the same frames by now.
        for (int pull = 0; pull < 4; ++pull) twin.pull_alone(channels), pull_pool(pool.get(), &twins, 400, channels);
        int64_t generations[2] = {};
        CHECK_OK(pool->session(twin.place).interrupt(&generations[0]));
        CHECK_OK(twin.alone->interrupt(&generations[1]));
        CHECK(generations[0] == generations[1]);
      }
      pull_pool(pool.get(), &twins, random() % 4 == 0 ? 3 : 400, channels);
      for (Twin& twin : twins) {
        if (random() % 2 == 0) twin.pull_alone(channels);
      }
      if (!twins.empty() && random() % 10 == 0) leave(random() % twins.size());
    }
    while (!twins.empty()) leave(0);
    CHECK(compared > 500);
    CHECK(pool->sessions() == 0 && pool->bytes() == bytes);
  }
}

void test_nobody_starves_when_there_is_little_room() {
  const std::shared_ptr<const Model> model = load(1);
  const auto channels = static_cast<int>(model->config().channels.size());
  std::unique_ptr<SessionPool> pool;
  CHECK_OK(SessionPool::create(model, 5, &pool));
  std::map<int64_t, int> made;
  unils_session_options options = SessionSpec::default_options(*model);
  options.look_ahead_self = 0;
  const Samples audio = speech_like(kHop * 60, 1);
  for (int i = 0; i < 5; ++i) {
    int place = 0;
    int64_t id = 0, taken = 0;
    CHECK_OK(pool->open(options, &place, &id));
    made[id] = 0;
    for (const int track : {0, 1}) {
      CHECK_OK(pool->session(place).push_audio(track, audio.data(), UNILS_FLOAT32, kHop * 60, 16000, &taken));
    }
  }
  Pulled frames(2, channels);
  for (int pull = 1; pull <= 50; ++pull) {
    int64_t count = 0;
    CHECK_OK(pool->pull(frames.out(), frames.ids.data(), 2, &count));
    CHECK(count == 2);
    for (int64_t i = 0; i < count; ++i) ++made[frames.ids[static_cast<size_t>(i)]];
    for (const auto& [id, frames_made] : made) CHECK(std::abs(frames_made - 2 * pull / 5) <= 1);
  }
}

void test_what_a_pool_refuses() {
  const std::shared_ptr<const Model> model = load(1);
  std::unique_ptr<SessionPool> pool;
  for (const int sessions : {0, -1, SessionPool::kMaxSessions + 1}) {
    CHECK_ERROR(SessionPool::create(model, sessions, &pool), UNILS_ERROR_INVALID_ARGUMENT, "room for 1 to");
  }
  CHECK_OK(SessionPool::create(model, 2, &pool));
  const unils_session_options good = pool->default_options();
  unils_session_options bad = good;
  bad.top_p = 2.0f;
  int place = 0, other = 0;
  int64_t id = 0, count = 0;
  CHECK_ERROR(pool->open(bad, &place, &id), UNILS_ERROR_INVALID_ARGUMENT, "top_p");
  CHECK(pool->sessions() == 0);
  CHECK_OK(pool->open(good, &place, &id));
  CHECK_OK(pool->open(good, &other, &id));
  CHECK_ERROR(pool->open(good, &other, &id), UNILS_ERROR_FULL, "room for 2 sessions");
  pool->close(place);
  CHECK_OK(pool->open(good, &place, &id));
  CHECK(id == 3);
  CHECK_ERROR(pool->pull({}, nullptr, 1, &count), UNILS_ERROR_INVALID_ARGUMENT, "NULL");
  CHECK_OK(pool->pull({}, nullptr, 0, &count));
}

void test_pushing_opening_and_closing_beside_a_pull() {
  const std::shared_ptr<const Model> model = load(2);
  const auto channels = static_cast<int>(model->config().channels.size());
  std::unique_ptr<SessionPool> pool;
  CHECK_OK(SessionPool::create(model, 8, &pool));
  const Samples audio = speech_like(kHop * 8, 3);
  std::atomic<int> lives{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&, caller] {
      for (int life = 0; life < 12; ++life) {
        int place = 0;
        int64_t id = 0, taken = 0;
        CHECK_OK(pool->open(options_of(*model, static_cast<uint64_t>(caller * 100 + life)), &place, &id));
        for (int64_t at = 0; at < kHop * 8; at += 320) {
          for (const int track : {0, 1}) {
            CHECK_OK(pool->session(place).push_audio(track, audio.data() + at, UNILS_FLOAT32, 320, 16000, &taken));
          }
          std::this_thread::yield();
        }
        pool->close(place);
      }
      ++lives;
    });
  }
  Pulled frames(64, channels);
  std::map<int64_t, int64_t> next;
  int64_t total = 0;
  while (lives < 3) {
    int64_t count = 0;
    CHECK_OK(pool->pull(frames.out(), frames.ids.data(), frames.capacity, &count));
    for (int64_t i = 0; i < count; ++i) {
      CHECK(frames.index[static_cast<size_t>(i)] == next[frames.ids[static_cast<size_t>(i)]]++);
    }
    total += count;
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(total > 0);
  CHECK(pool->sessions() == 0);
}

void test_pushes_for_many_beside_pulls_are_pushes_for_each() {
  const std::shared_ptr<const Model> model = load(3);
  const auto channels = static_cast<int>(model->config().channels.size());
  std::unique_ptr<SessionPool> pool;
  constexpr int kSessions = 21, kHops = 24;
  CHECK_OK(SessionPool::create(model, kSessions, &pool));
  std::vector<Twin> twins(kSessions);
  std::vector<Session*> sessions;
  for (size_t i = 0; i < kSessions; ++i) {
    const unils_session_options options = options_of(*model, i);
    twins[i].audio = speech_like(kHop * kHops, static_cast<unsigned>(i));
    CHECK_OK(pool->open(options, &twins[i].place, &twins[i].id));
    SessionSpec spec;
    CHECK_OK(SessionSpec::from_model(model, &spec));
    CHECK_OK(Session::create(spec, options, &twins[i].alone));
    sessions.push_back(&pool->session(twins[i].place));
  }
  const auto at = [](const void* all, int i) -> Session& { return *static_cast<Session* const*>(all)[i]; };
  std::atomic<bool> pushed{false};
  std::thread pusher([&] {
    Samples chunk;
    std::vector<int64_t> taken(kSessions);
    for (int64_t hop = 0; hop < kHops; ++hop) {
      chunk.clear();
      for (const Twin& twin : twins) {
        const auto from = twin.audio.begin() + static_cast<long>(hop * kHop);
        chunk.insert(chunk.end(), from, from + kHop);
      }
      for (const int track : {0, 1}) {
        int failed = 0;
        CHECK_OK(pool->push_audio(sessions.data(), at, kSessions, track, chunk.data(), UNILS_FLOAT32, kHop, 16000,
                                  taken.data(), &failed));
        CHECK(failed == -1 && taken == std::vector<int64_t>(kSessions, kHop));
      }
    }
    pushed = true;
  });
  while (!pushed) pull_pool(pool.get(), &twins, 1000, channels);
  pusher.join();
  pull_pool(pool.get(), &twins, 1000, channels);
  for (Twin& twin : twins) {
    int64_t taken = 0;
    for (const int track : {0, 1}) {
      CHECK_OK(twin.alone->push_audio(track, twin.audio.data(), UNILS_FLOAT32, kHop * kHops, 16000, &taken));
    }
    twin.pull_alone(channels);
    CHECK(!twin.from_pool.empty() && twin.from_pool == twin.from_alone);
  }

  // One that fails does not touch the others, and the first of two is told.
  Samples chunk(kSessions * kHop, 0.1f);
  chunk[7 * kHop + 3] = chunk[4 * kHop] = NAN;
  std::vector<int64_t> taken(kSessions), expected(kSessions, kHop);
  expected[4] = expected[7] = 0;
  int failed = 0;
  CHECK_ERROR(pool->push_audio(sessions.data(), at, kSessions, 0, chunk.data(), UNILS_FLOAT32, kHop, 16000, taken.data(),
                               &failed),
              UNILS_ERROR_NOT_FINITE, "");
  CHECK(failed == 4 && taken == expected);
  CHECK_ERROR(pool->push_audio(sessions.data(), at, kSessions, 0, nullptr, UNILS_FLOAT32, kHop, 16000, taken.data(),
                               &failed),
              UNILS_ERROR_INVALID_ARGUMENT, "samples is NULL");
}

}  // namespace

int main() {
  const TemporaryFolder folder("unils_test_session_pool");
  bundle_path = folder / "tiny";
  BundleWriter().write(bundle_path);
  test_sessions_that_come_and_go_make_the_frames_they_would_make_alone();
  test_nobody_starves_when_there_is_little_room();
  test_what_a_pool_refuses();
  test_pushing_opening_and_closing_beside_a_pull();
  test_pushes_for_many_beside_pulls_are_pushes_for_each();
  return check::result();
}
