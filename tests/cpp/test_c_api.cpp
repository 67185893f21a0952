// Writes a bundle and hands it to the tests of the C interface, which are written in C.
#include "bundle_writer.h"

extern "C" int c_api_main(const char* bundle);

int main() {
  const unils::TemporaryFolder folder("unils_c_api");
  unils::BundleWriter().write(folder / "bundle");
  return c_api_main((folder / "bundle").c_str());
}
