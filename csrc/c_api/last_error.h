// The sentence behind unils_last_error(): one per thread, of fixed size, so that keeping it cannot fail.
#pragma once
#include "core/status.h"

namespace unils {

// Keeps the sentence of a failure for this thread (clears it on success) and returns the code.
unils_status keep_error(const Status& status) noexcept;
const char* last_error() noexcept;

}  // namespace unils
