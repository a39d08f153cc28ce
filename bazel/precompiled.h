// For precompile.sh: what nearly every source includes of the standard library and of Abseil, what
// protocols include of gRPC, and for tests GoogleTest. Nothing of ours: a change of these is a
// change of the machine.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

// What generated protocols include.
#include <google/protobuf/generated_message_reflection.h>
#include <google/protobuf/generated_message_tctable_decl.h>
#include <google/protobuf/map.h>
#include <google/protobuf/message.h>
#include <google/protobuf/repeated_field.h>
#include <grpcpp/grpcpp.h>

#ifdef REPRISE_PRECOMPILED_FOR_TESTS
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#endif
