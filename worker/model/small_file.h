// Reads a whole small text file (configurations, indexes) under a size limit, so that a folder from
// outside cannot make the process allocate without bound. Stateless; any thread.
#ifndef REPRISE_WORKER_MODEL_SMALL_FILE_H_
#define REPRISE_WORKER_MODEL_SMALL_FILE_H_

#include <cstddef>
#include <string>

#include "common/status.h"

namespace reprise::worker {

// NOT_FOUND when absent, INVALID_ARGUMENT when it is not a regular file, RESOURCE_EXHAUSTED when it
// is larger than `bytes_max`; messages name the path.
StatusOr<std::string> ReadSmallFile(const std::string& path, size_t bytes_max);

}  // namespace reprise::worker

#endif  // REPRISE_WORKER_MODEL_SMALL_FILE_H_
